"""Whether the demo model has been trained to decide on calls: tests that need a decision skip until it has."""

import json

import pytest

from settings import DEMO_MODEL

FIGURES = json.loads((DEMO_MODEL / "figures.json").read_text(encoding="utf-8"))
DECIDES = "held_out_decisions" in FIGURES
needs_decisions = pytest.mark.skipif(
    not DECIDES, reason="the demo model has not been trained to decide on calls"
)
