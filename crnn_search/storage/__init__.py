"""The bytes and records of a run."""
