"""The API: request bodies become generations, deltas become OpenAI's replies."""
