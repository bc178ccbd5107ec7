"""Where model repositories are: one module an adapter, and `open_store`, which chooses by URL."""
