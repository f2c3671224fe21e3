"""Prompts: how each family of models wants its conversations, and text as token ids."""
