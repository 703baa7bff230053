"""A model behind HTTP: JSON, uploads and a page, without PyTorch and Ray."""
