"""Search a small space from Python, show its trials, and use the model. A minute on two CPU cores.

python examples/search.py
"""

import logging

import numpy as np

import crnn_search

SPACE = """
search: {trials: 4, max_epochs: 2, grace_epochs: 1, reduction_factor: 2, epoch_sequences: 2000}
retrain: {epochs: 1, epoch_sequences: 2000, seeds: 1, finalists: 1}
space:
  conv_channels: [8, 8]
  kernel_size: 5
  pooling: 3
  gru_sizes: {list_of: {int: [16, 32]}, length: 1}
  learning_rate: {float: [3.0e-3, 2.0e-2], log: true}
"""


def main() -> None:
    """Run the search in the folder `runs`."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("crnn_search").setLevel(logging.INFO)
    space = crnn_search.load_space(SPACE, ["search.seed=1"])
    run = crnn_search.launch(space, name="example")
    for trial in run.trials():
        print(trial["name"], trial["state"], trial["learning_rate"], trial["validation_rmse"])
    print("test RMSE:", run.report()["test"]["rmse"])
    blank = np.zeros((1, 3, 28, 28), np.uint8)  # one sequence of three blank images
    print("sum of three blank images:", run.model().predict(blank))


if __name__ == "__main__":
    main()
