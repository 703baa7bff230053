"""Model files: export and prediction."""
