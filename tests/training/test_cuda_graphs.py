"""Captured steps: on a CPU all but the capture itself."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from crnn_search.data.sequences import Batch
from crnn_search.hyperparameters import TrialConfig
from crnn_search.training import cuda_graphs, engine, optimizers
from crnn_search.training.engine import TrainingData, TrainState
from tests.training.test_engine import SMALL, changed, figures

CPU = torch.device("cpu")
CONFIGS = [SMALL, changed(SMALL, optimizer="rmsprop", gru_sizes=[7, 5], dropout=0.3)]


def begun(config: TrialConfig) -> TrainState:
    return engine.start(config, seed=0, epochs=2, device=CPU)


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("epochs", [0, 1])
def test_what_is_undone_leaves_no_trace(
    config: TrialConfig, epochs: int, training_data: TrainingData
) -> None:
    plain, other = begun(config), begun(config)
    found = []
    for state in (plain, other):
        training = engine.train(state, training_data)
        first = [next(training) for _ in range(epochs)]
        if state is other:
            step = engine._step_of(state, training_data.digits, "float32")
            with cuda_graphs.undone(state.model, state.optimizer):
                step(torch.arange(9), torch.ones(5), torch.tensor([5, 3, 1]))
        found.append([figures(metrics) for metrics in [*first, *training]])
    assert found[0] == found[1]


def test_draws_of_what_is_undone_are_drawn_again() -> None:
    state = begun(SMALL)
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    with cuda_graphs.undone(state.model, state.optimizer):
        torch.rand(5)
    assert torch.equal(torch.rand(3), expected)


def test_what_cannot_be_captured_is_trained_as_it_is(
    training_data: TrainingData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU that refuses: the same losses, and one note."""
    state, plain = begun(SMALL), begun(SMALL)
    step_of = engine._step_of

    def with_graphs(state: TrainState, *arguments: object) -> cuda_graphs.Steps:
        step = step_of(state, *arguments)  # type: ignore[arg-type]
        state.steps = state.steps or cuda_graphs.Steps(state.model, state.optimizer, step, step)
        return state.steps

    expected = [figures(metrics) for metrics in engine.train(plain, training_data)]
    with monkeypatch.context() as patch:
        patch.setattr(engine, "_step_of", with_graphs)
        found = [figures(metrics) for metrics in engine.train(state, training_data)]
    assert found == expected
    assert state.note is not None
    assert state.note.startswith("steps are not captured as CUDA graphs: ")


def test_each_shape_is_captured_once_and_no_more_than_there_is_room_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cuda_graphs, "MAX_GRAPHS", 2)
    state = begun(SMALL)
    captured: list[tuple[int, ...]] = []
    replayed: list[float] = []

    @dataclasses.dataclass
    class Graph:
        """Stands in for CUDA's: it works on the tensors that were captured."""

        run: Callable[[], None]

        def replay(self) -> None:
            self.run()

    class Steps(cuda_graphs.Steps):
        def _capture(self, images: Tensor, targets: Tensor, sizes: Tensor) -> cuda_graphs.Captured:
            captured.append(tuple(sizes.tolist()))
            images, targets, loss = images.clone(), targets.clone(), torch.zeros(())

            def run() -> None:
                replayed.append(float(images.sum()))
                loss.copy_(self._captured(images, targets, sizes))

            graph = Graph(run)
            return cuda_graphs.Captured(graph, images, targets, loss)  # type: ignore[arg-type]

    def step(factor: int, images: Tensor, targets: Tensor, sizes: Tensor) -> Tensor:
        return factor * images.sum() + targets.sum()

    steps = Steps(
        state.model, state.optimizer, functools.partial(step, 1), functools.partial(step, 10)
    )
    losses: list[float] = []
    for sizes in ([2, 1], [2, 2], [2, 1], [2, 2, 2], [2, 1]):
        images = torch.full((sum(sizes),), len(losses) + 1)
        losses.append(float(steps(images, torch.ones(2), torch.tensor(sizes))))
    assert captured == [(2, 1), (2, 2)]
    assert replayed == [3, 8, 9, 15]
    assert losses == [3 + 2, 8 + 2, 9 + 2, 10 * 24 + 2, 15 + 2]


def test_batches_brought_to_a_device_are_the_same(training_data: TrainingData) -> None:
    """`meta` is the other device that every machine has; only shapes and kinds can be seen."""
    assert training_data.validation is not None
    expected = list(training_data.validation.batches(32))
    found = list(engine._on_device(iter(expected), torch.device("meta")))
    assert [kinds(batch) for batch in found] == [kinds(batch) for batch in expected]
    assert {batch.images.device.type for batch in found} == {"meta"}
    assert all(batch.batch_sizes.device == CPU for batch in found)


def kinds(batch: Batch) -> list[tuple[torch.Size, torch.dtype]]:
    return [(t.shape, t.dtype) for t in (batch.images, batch.targets, batch.batch_sizes)]


def test_a_captured_steps_rate_is_a_tensor_that_changes() -> None:
    rate = torch.tensor(0.1)
    weight = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.AdamW([weight], rate)
    optimizers.set_rate(optimizer, 0.5)
    assert optimizer.param_groups[0]["lr"] is rate
    assert float(rate) == 0.5


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("config", CONFIGS)
def test_captured_steps_give_the_eager_ones_losses(
    config: TrialConfig, training_data: TrainingData, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = torch.device("cuda")
    moved = dataclasses.replace(training_data, digits=training_data.digits.to(device))
    config = changed(config, dropout=0.0)

    def losses(most: int) -> list[float]:
        monkeypatch.setattr(cuda_graphs, "MAX_GRAPHS", most)
        state = engine.start(config, seed=0, epochs=2, device=device)
        found = [metrics.train_loss for metrics in engine.train(state, moved)]
        assert state.note is None
        return found

    assert losses(16) == pytest.approx(losses(0), rel=0.02)
