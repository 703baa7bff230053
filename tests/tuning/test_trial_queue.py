from __future__ import annotations

from ray.tune.search import Searcher

from crnn_search.storage.trial import Trial
from crnn_search.tuning.stage_callback import NoCallback
from crnn_search.tuning.trial_queue import TrialQueue
from crnn_search.tuning.tune_trial import tune_config
from tests.tuning.examples import result, trial


class OneRetry(NoCallback):
    """Retries the first trial that fails, once."""

    retried = False

    def retry(self, trial_id: str) -> Trial | None:
        if self.retried:
            return None
        self.retried = True
        return trial(0)


def test_trials_run_in_order_and_a_retried_one_again() -> None:
    queue = TrialQueue([trial(0), trial(1)], OneRetry())
    assert queue.suggest("a") == tune_config(trial(0))
    assert queue.suggest("b") == tune_config(trial(1))
    assert queue.suggest("c") is None
    queue.on_trial_complete("a", error=True)
    assert queue.suggest("c") == tune_config(trial(0))
    queue.on_trial_complete("c", error=True)
    assert queue.suggest("d") is None
    assert not queue.finished
    queue.on_trial_complete("b", result(4, 1.0))
    assert queue.suggest("d") == Searcher.FINISHED
    assert queue.finished


def test_lack_of_memory_is_retried() -> None:
    queue = TrialQueue([trial(0)], OneRetry())
    queue.suggest("a")
    queue.on_trial_complete("a", result(0, out_of_memory="full"))
    assert queue.suggest("b") == tune_config(trial(0))
