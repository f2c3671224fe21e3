"""The project itself: its pages, its layers, its demo model, what it needs of vLLM."""
