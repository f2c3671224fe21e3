"""Several servers behind one address, on fake engines in processes."""
