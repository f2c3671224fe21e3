"""The clients that people use, against the real server."""
