"""Data sets, splits and sequence tables."""
