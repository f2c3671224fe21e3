"""What decodes, with vLLM and without."""
