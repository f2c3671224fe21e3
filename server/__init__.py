"""HTTP and the process: connections, middleware, bodies, streams, the log, signals; nothing of OpenAI's API."""
