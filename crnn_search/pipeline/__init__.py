"""A whole run in order: search, finalists, retraining, report, export."""
