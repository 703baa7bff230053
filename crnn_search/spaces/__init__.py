"""Search spaces: YAML to Optuna and back."""
