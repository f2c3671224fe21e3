"""The server: HTTP connections, middleware, streams of bytes; knows nothing of the API."""
