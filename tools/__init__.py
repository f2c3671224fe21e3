"""Commands that prepare models for the server: `python -m tools.NAME`."""
