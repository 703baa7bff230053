"""Results of a run: scores, report, plots, status."""
