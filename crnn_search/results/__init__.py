"""What a run says: scores, report, plots, status."""
