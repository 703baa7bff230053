"""Send each trial of a search to MLflow when it ends.

    pip install mlflow
    python examples/mlflow_callback.py space.yaml

Trials go to the server of MLFLOW_TRACKING_URI, or where MLflow stores them without one.
"""

import sys
import time
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param

import crnn_search
from crnn_search.hyperparameters import PARAMETERS


class MlflowTrials:
    """A hook that makes each trial of the search a run of an MLflow experiment."""

    def __init__(self, experiment: str) -> None:
        self.client = MlflowClient()
        found = self.client.get_experiment_by_name(experiment)
        self.experiment_id = (
            found.experiment_id if found else self.client.create_experiment(experiment)
        )

    def __call__(self, trial: dict[str, Any]) -> None:
        """Log a trial's hyperparameters and its validation RMSE by epoch."""
        if trial["stage"] != "search" or trial["state"] == "INFEASIBLE":
            return
        run_id = self.client.create_run(self.experiment_id, run_name=trial["name"]).info.run_id
        now_ms = int(time.time() * 1000)
        values = enumerate(trial["validation_rmse"], start=1)
        self.client.log_batch(
            run_id,
            metrics=[
                Metric("validation_rmse", value, now_ms, epoch)
                for epoch, value in values
                if value is not None
            ],
            params=[Param(name, str(trial["config"][name])) for name in PARAMETERS],
        )
        self.client.set_tag(run_id, "state", trial["state"])
        failed = trial["state"] == "FAIL"
        self.client.set_terminated(run_id, "FAILED" if failed else "FINISHED")


def main() -> None:
    """Search the space that the first argument names."""
    space = crnn_search.load_space(sys.argv[1])
    run = crnn_search.launch(space, on_trial_end=MlflowTrials("crnn-search"))
    print(run.location)


if __name__ == "__main__":
    main()
