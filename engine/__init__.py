"""The engine: vLLM behind the interface of generation.py."""
