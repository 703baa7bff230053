"""CUDA graphs: without a GPU, everything but the capture itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from crnn_search.data.sequences import Batch
from crnn_search.hyperparameters import TrialConfig
from crnn_search.training import cuda_graphs, engine
from crnn_search.training.cuda_graphs import CapturedGraph, GraphedStep
from crnn_search.training.engine import TrainingData, TrainState
from tests.training.test_engine import CPU, SMALL, changed, reproducible

CONFIGS = [SMALL, changed(SMALL, optimizer="rmsprop", gru_sizes=[7, 5], dropout=0.3)]


def start(config: TrialConfig) -> TrainState:
    return engine.start(config, seed=0, epochs=2, device=CPU)


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("epochs", [0, 1])
def test_restored_steps_change_nothing(
    config: TrialConfig, epochs: int, training_data: TrainingData
) -> None:
    data, found = dataclasses.replace(training_data, epoch_sequences=128), []
    for interrupted in (False, True):
        state = start(config)
        metrics = [engine.train_epoch(state, data) for _ in range(epochs)]
        if interrupted:
            step = engine._make_step(state, data.digits)
            with cuda_graphs.restored(state.model, state.optimizer):
                step(torch.arange(9), torch.ones(5), torch.tensor([5, 3, 1]))
        metrics += [engine.train_epoch(state, data) for _ in range(2 - epochs)]
        found.append([reproducible(epoch) for epoch in metrics])
    assert found[0] == found[1]


def test_restored_random_state_repeats_its_draws() -> None:
    state = start(SMALL)
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    with cuda_graphs.restored(state.model, state.optimizer):
        torch.rand(5)
    assert torch.equal(torch.rand(3), expected)


def accelerator_error(code: int) -> RuntimeError:
    error = torch.AcceleratorError("CUDA error: operation not permitted\nmore text")
    error.error_code = code  # type: ignore[attr-defined]
    return error


class FailingStep(GraphedStep):
    """A step whose capture raises `error`."""

    error: RuntimeError

    def _capture(self, images: Tensor, targets: Tensor, batch_sizes: Tensor) -> CapturedGraph:
        raise self.error


@pytest.mark.parametrize("error", [accelerator_error(900), RuntimeError("CUDA error: operation")])
def test_capture_error_continues_eagerly(error: RuntimeError, training_data: TrainingData) -> None:
    state, plain = start(SMALL), start(SMALL)
    step = engine._make_step(state, training_data.digits)
    expected = engine._make_step(plain, training_data.digits)
    state.graphed = FailingStep(state.model, state.optimizer, step)
    state.graphed.error = error
    assert training_data.validation is not None
    for batch in training_data.validation.batches(32):
        arguments = (batch.images, batch.targets, batch.batch_sizes)
        assert torch.equal(state.graphed(*arguments), expected(*arguments))
    assert state.note is not None
    assert state.note.startswith("steps run without CUDA graphs: CUDA error: operation")
    assert "\n" not in state.note


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), accelerator_error(700)]
)
def test_memory_and_device_errors_of_a_capture_are_raised(error: RuntimeError) -> None:
    state = start(SMALL)
    graphed = FailingStep(state.model, state.optimizer, lambda *_: torch.zeros(()))
    graphed.error = error
    with pytest.raises(type(error), match="CUDA"):
        graphed(torch.arange(3), torch.ones(2), torch.tensor([2, 1]))
    assert graphed.note is None


def test_each_shape_is_captured_once_up_to_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_graphs, "MAX_GRAPHS", 2)
    state = start(SMALL)
    captured: list[tuple[int, ...]] = []
    replayed: list[float] = []

    @dataclasses.dataclass
    class FakeGraph:
        """Like CUDA's, it computes on the tensors that were captured."""

        run: Callable[[], None]

        def replay(self) -> None:
            self.run()

    class FakeStep(GraphedStep):
        def _capture(self, images: Tensor, targets: Tensor, sizes: Tensor) -> CapturedGraph:
            captured.append(tuple(sizes.tolist()))
            images, targets, loss = images.clone(), targets.clone(), torch.zeros(())

            def run() -> None:
                replayed.append(float(images.sum()))
                loss.copy_(self._step(images, targets, sizes))

            graph = FakeGraph(run)
            return CapturedGraph(graph, images, targets, loss)  # type: ignore[arg-type]

    def step(images: Tensor, targets: Tensor, sizes: Tensor) -> Tensor:
        return images.sum() + targets.sum()

    graphed = FakeStep(state.model, state.optimizer, step)
    losses: list[float] = []
    for sizes in ([2, 1], [2, 2], [2, 1], [2, 2, 2], [2, 1]):
        images = torch.full((sum(sizes),), len(losses) + 1)
        losses.append(float(graphed(images, torch.ones(2), torch.tensor(sizes))))
    assert captured == [(2, 1), (2, 2)]
    assert replayed == [3, 8, 9, 15]
    assert losses == [3 + 2, 8 + 2, 9 + 2, 24 + 2, 15 + 2]


def test_batches_on_a_device_keep_shapes_and_dtypes(training_data: TrainingData) -> None:
    """`meta` is the only other device on every machine; its tensors have no values."""
    assert training_data.validation is not None
    expected = list(training_data.validation.batches(32))
    found = list(engine._to_device(iter(expected), torch.device("meta")))
    assert [layout(batch) for batch in found] == [layout(batch) for batch in expected]
    assert {batch.images.device.type for batch in found} == {"meta"}
    assert all(batch.batch_sizes.device == CPU for batch in found)


def layout(batch: Batch) -> list[tuple[torch.Size, torch.dtype]]:
    return [(t.shape, t.dtype) for t in (batch.images, batch.targets, batch.batch_sizes)]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("config", CONFIGS)
def test_graphed_losses_match_eager_losses(
    config: TrialConfig, training_data: TrainingData, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = torch.device("cuda")
    moved = dataclasses.replace(training_data, digits=training_data.digits.to(device))
    config = changed(config, dropout=0.0)

    def losses(max_graphs: int) -> list[float]:
        monkeypatch.setattr(cuda_graphs, "MAX_GRAPHS", max_graphs)
        state = engine.start(config, seed=0, epochs=2, device=device)
        found = [engine.train_epoch(state, moved).train_loss for _ in range(2)]
        assert state.note is None
        return found

    assert losses(16) == pytest.approx(losses(0), rel=0.02)
