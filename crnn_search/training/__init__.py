"""One network, trained. Needs PyTorch only."""
