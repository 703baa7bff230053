"""crnn-search: a distributed hyperparameter search service for a CNN-GRU on sums of digits.

The command line (`crnn-search --help`) is the public surface. The modules can be used on their
own; their import order is drawn in `docs/architecture.md`.
"""

__version__ = "0.2.0"
