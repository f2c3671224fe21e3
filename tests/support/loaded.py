"""What a banner tells of a model, in tests that look at other lines of it."""

from server.console import Loaded

LOADED = Loaded("alpaca-2", "SentencePiece", 1, "KV cache 1.0 GB", {})
