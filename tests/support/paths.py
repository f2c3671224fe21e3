"""Where the repository is, what may lie beside it, and a browser."""

import shutil
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
ALPACA_2_TOKENIZER = ROOT.parent / "shared" / "chinese-alpaca-2-tokenizer" / "tokenizer.model"
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
"""Empty where none is installed."""
