"""What a user would pick instead, each doing the engine's work."""
