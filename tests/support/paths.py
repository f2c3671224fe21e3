"""Where the repository is, and what may lie beside it."""

from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
ALPACA_2_TOKENIZER = ROOT.parent / "shared" / "chinese-alpaca-2-tokenizer" / "tokenizer.model"
