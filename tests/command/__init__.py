"""The start: flags, a model's files, what the terminal shows."""
