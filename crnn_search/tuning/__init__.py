"""Ray Tune's and Optuna's side of a search."""
