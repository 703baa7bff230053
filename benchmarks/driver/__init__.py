"""The driver under many trials."""
