"""The real server under load: many at once, hostile requests, slow and broken peers."""
