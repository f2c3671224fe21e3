"""Conversations and texts as token ids."""
