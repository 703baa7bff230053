"""CUDA graphs: without a GPU, everything but the capture itself."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from crnn_search.data.sequences import Batch
from crnn_search.data.task import Draw
from crnn_search.hyperparameters import TrialConfig
from crnn_search.training import cuda_graphs, engine, memory
from crnn_search.training.cuda_graphs import WARM_UP_STEPS, CapturedGraph, GraphedStep
from crnn_search.training.engine import TrainingData, TrainState
from tests.training.test_engine import CPU, SMALL, changed, reproducible

CONFIGS = [
    SMALL,
    changed(SMALL, optimizer="rmsprop", gru_sizes=[7, 5], dropout=0.3),
    changed(SMALL, reuse=4, ema=0.9, feature_dropout=0.2, shift=0.5, elastic=0.5),
]


def make_batch(images: Tensor, *batch_sizes: int, rows: Tensor | None = None) -> Batch:
    """Of two sequences, or more."""
    count = batch_sizes[0]
    return Batch(images, torch.tensor(batch_sizes), torch.ones(count), torch.arange(count), rows)


BATCH = make_batch(torch.arange(3), 2, 1)


def start(config: TrialConfig) -> TrainState:
    return engine.start(config, seed=0, epochs=2, device=CPU)


@dataclasses.dataclass
class FakeGraph:
    """Like CUDA's, it computes on the tensors that were captured."""

    run: Callable[[], None]

    def replay(self) -> None:
        self.run()


class FakeStep(GraphedStep):
    """Graphs without CUDA."""

    def __init__(self, step: cuda_graphs.Step) -> None:
        super().__init__(step)
        self.captured: list[tuple[int, ...]] = []
        self.replayed: list[float] = []

    def _warm_up(self, batch: Batch) -> Tensor:
        return self._step(batch)

    def _capture(self, batch: Batch) -> CapturedGraph:
        self.captured.append(tuple(batch.batch_sizes.tolist()))
        captured, loss = copy.deepcopy(batch), torch.zeros(())

        def run() -> None:
            self.replayed.append(float(captured.images.sum()))
            loss.copy_(self._step(captured))

        return CapturedGraph(FakeGraph(run), captured, loss)  # type: ignore[arg-type]


class FailingStep(FakeStep):
    """A step whose capture of the shape `(2, 1)` raises `error`."""

    error: RuntimeError

    def _capture(self, batch: Batch) -> CapturedGraph:
        if batch.batch_sizes.tolist() == [2, 1]:
            raise self.error
        return super()._capture(batch)


def accelerator_error(code: int) -> RuntimeError:
    error = torch.AcceleratorError("CUDA error: operation not permitted\nmore text")
    error.error_code = code  # type: ignore[attr-defined]
    return error


def out_of_memory(context: BaseException | None = None) -> RuntimeError:
    error = torch.OutOfMemoryError("CUDA out of memory")
    error.__context__ = context
    return error


def followed_by(first: RuntimeError, second: RuntimeError) -> RuntimeError:
    """The second error, raised while the first one was handled."""
    second.__context__ = first
    return second


def sums(batch: Batch) -> Tensor:
    return batch.images.sum() + batch.targets.sum()


def test_each_shape_is_captured_after_its_warm_up_up_to_the_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cuda_graphs, "MAX_GRAPHS", 2)
    graphed = FakeStep(sums)
    for number in range(WARM_UP_STEPS + 2):
        for sizes in ([2, 1], [2, 2], [2, 2, 2]):
            loss = graphed(make_batch(torch.full((sum(sizes),), number), *sizes))
            assert loss == number * sum(sizes) + 2
    assert graphed.captured == [(2, 1), (2, 2)]
    last = WARM_UP_STEPS, WARM_UP_STEPS + 1
    assert graphed.replayed == [number * images for number in last for images in (3, 4)]


def test_a_graph_reads_images_targets_and_rows_of_each_batch() -> None:
    places = torch.tensor([1.0, 10.0, 100.0])

    def step(batch: Batch) -> Tensor:
        assert batch.rows is not None
        return (batch.images[batch.rows] * places).sum() + batch.targets[0]

    graphed = FakeStep(step)
    rows = torch.tensor([[0, 0, 1], [1, 0, 0], [0, 1, 1]])
    for number in range(WARM_UP_STEPS + 3):
        batch = make_batch(torch.tensor([number, -number]), 2, 1, rows=rows[number % 3])
        batch = dataclasses.replace(batch, targets=torch.tensor([number / 2, 0.0]))
        assert graphed(batch) == step(batch)
    assert len(graphed.replayed) == 3


def test_batches_with_other_numbers_of_images_have_graphs_of_their_own() -> None:
    graphed = FakeStep(sums)
    for _ in range(WARM_UP_STEPS + 1):
        for images in (1, 3):
            graphed(make_batch(torch.ones(images), 2, 1, rows=torch.zeros(3).long()))
    assert graphed.captured == [(2, 1), (2, 1)]


@pytest.mark.parametrize("config", CONFIGS)
def test_captured_training_is_the_eager_one(
    config: TrialConfig, training_data: TrainingData
) -> None:
    data = dataclasses.replace(training_data, epoch_sequences=5 * 32)  # of one shape
    eager, graphed = start(config), start(config)
    graphed.graphed = FakeStep(engine._make_step(graphed, data.task.images))
    for _ in range(2):
        expected = reproducible(engine.train_epoch(eager, data))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(engine, "_make_step", lambda state, images: state.graphed)
            assert reproducible(engine.train_epoch(graphed, data)) == expected
    assert graphed.graphed.captured
    assert graphed.graphed.replayed


@pytest.mark.parametrize("error", [accelerator_error(900), RuntimeError("CUDA error: operation")])
def test_capture_error_continues_eagerly(error: RuntimeError) -> None:
    graphed = FailingStep(sums)
    graphed.error = error
    four = make_batch(torch.arange(4), 2, 2)
    for _ in range(WARM_UP_STEPS + 1):
        assert graphed(four) == 8
        assert graphed(BATCH) == 5
    replayed = len(graphed.replayed)
    assert graphed(four) == 8
    assert len(graphed.replayed) == replayed == 1
    assert graphed.note is not None
    assert graphed.note.startswith("steps run without CUDA graphs: CUDA error: operation")
    assert "\n" not in graphed.note


@pytest.mark.parametrize(
    "error",
    [
        out_of_memory(),
        accelerator_error(700),
        followed_by(out_of_memory(), accelerator_error(901)),
        followed_by(accelerator_error(700), RuntimeError("CUDA error: invalidated")),
    ],
)
def test_memory_and_device_errors_of_a_capture_are_raised(error: RuntimeError) -> None:
    graphed = FailingStep(sums)
    graphed.error = error
    for _ in range(WARM_UP_STEPS):
        graphed(BATCH)
    with pytest.raises(type(error), match="CUDA"):
        graphed(BATCH)
    assert graphed.note is None


def test_error_of_a_warm_up_is_raised() -> None:
    def step(batch: Batch) -> Tensor:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        FakeStep(step)(BATCH)


class FakeCuda:
    """Records how `torch.cuda` captures. failing: raised by the end of a capture."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, failing: Exception | None = None) -> None:
        self.captures: list[tuple[Any, Any]] = []
        self.renewed: list[Tensor] = []
        self.failing = failing
        for name in ("Stream", "CUDAGraph", "graph_pool_handle"):
            monkeypatch.setattr(torch.cuda, name, object)
        monkeypatch.setattr(torch.cuda, "get_rng_state", lambda: torch.tensor([7]))
        monkeypatch.setattr(torch.cuda, "graph", self.graph)
        monkeypatch.setattr(cuda_graphs, "_renew_generator", self.renewed.append)

    @contextlib.contextmanager
    def graph(self, graph: Any, pool: Any, stream: Any) -> Iterator[None]:
        self.captures.append((pool, stream))
        yield
        if self.failing:
            raise self.failing


def test_all_graphs_share_one_pool_and_one_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda, graphed = FakeCuda(monkeypatch), GraphedStep(sums)
    for sizes in ([2, 1], [2, 2], [2, 2, 2]):
        graphed._capture(make_batch(torch.arange(sum(sizes)), *sizes))
    assert len(cuda.captures) == 3
    assert len(set(cuda.captures)) == 1
    assert not cuda.renewed


def test_failed_capture_renews_the_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda(monkeypatch, RuntimeError("CUDA error: invalidated"))
    with pytest.raises(RuntimeError, match="invalidated"):
        GraphedStep(sums)._capture(BATCH)
    assert cuda.renewed == [torch.tensor([7])]


def test_graphs_are_freed_with_their_training(training_data: TrainingData) -> None:
    """Without a garbage collection: an actor captures its next trial at once."""
    state = start(SMALL)
    state.graphed = FakeStep(engine._make_step(state, training_data.task.images))
    state.graphed(BATCH)
    alive: list[weakref.ref[Any]] = [weakref.ref(state.graphed), weakref.ref(state.model)]
    gc.collect()
    gc.disable()
    try:
        del state
        assert [reference() for reference in alive] == [None, None]
    finally:
        gc.enable()


@pytest.mark.parametrize("reuse", [1, 4])
def test_batches_on_a_device_keep_shapes_and_dtypes(
    training_data: TrainingData, reuse: int
) -> None:
    """`meta` is the only other device on every machine; its tensors have no values."""
    table = training_data.task.training_table(Draw(100, 8, 0, 0, 32, reuse=reuse))
    expected = list(table.batches(32))
    found = list(engine._to_device(iter(expected), torch.device("meta")))
    assert [layout(batch) for batch in found] == [layout(batch) for batch in expected]
    assert {batch.images.device.type for batch in found} == {"meta"}
    assert all(batch.batch_sizes.device == CPU for batch in found)


def layout(batch: Batch) -> list[tuple[torch.Size, torch.dtype]]:
    tensors = (batch.images, batch.targets, batch.batch_sizes, batch.order, batch.rows)
    return [(t.shape, t.dtype) for t in tensors if t is not None]


needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")


def on_cuda(data: TrainingData) -> TrainingData:
    return dataclasses.replace(data, task=data.task.to(torch.device("cuda")))


def start_on_cuda(config: TrialConfig) -> TrainState:
    return engine.start(config, seed=0, epochs=4, device=torch.device("cuda"))


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("config", CONFIGS)
def test_graphed_losses_match_eager_losses(
    config: TrialConfig, training_data: TrainingData, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = on_cuda(training_data)
    config = changed(config, dropout=0.0, feature_dropout=0.0, shift=0.0, elastic=0.0)

    def losses(max_graphs: int) -> list[float]:
        monkeypatch.setattr(cuda_graphs, "MAX_GRAPHS", max_graphs)
        state = start_on_cuda(config)
        found = [engine.train_epoch(state, data).train_loss for _ in range(4)]
        assert state.note is None
        assert state.graphed is not None
        assert len(state.graphed._graphs) == min(max_graphs, 1)  # batches of 32 have one shape
        return found

    assert losses(16) == pytest.approx(losses(0), rel=0.02)


@pytest.mark.gpu
@needs_cuda
def test_graphs_of_a_trial_share_their_memory_on_cuda(training_data: TrainingData) -> None:
    """Eight shapes take little more than one; without a shared pool they would take eight times."""
    config = changed(SMALL, batch_size=129, conv_channels=[32, 32])
    data = dataclasses.replace(on_cuda(training_data), epoch_sequences=8 * 129)

    def reserved(shapes: int) -> float:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_reserved()
        state = start_on_cuda(config)
        epoch = dataclasses.replace(data, epoch_sequences=shapes * 129, validation=None)
        for _ in range(WARM_UP_STEPS + 1):
            engine.train_epoch(state, epoch)
        assert state.note is None
        assert state.graphed is not None
        assert len(state.graphed._graphs) == shapes
        assert len({captured.graph.pool() for captured in state.graphed._graphs.values()}) == 1
        return torch.cuda.max_memory_reserved() - before

    reserved(1)  # libraries' own workspaces
    assert reserved(8) < 2.5 * reserved(1)


@pytest.mark.gpu
@needs_cuda
def test_failed_capture_trains_on_eagerly_on_cuda(training_data: TrainingData) -> None:
    """A step that waits for the GPU cannot be captured; dropout then draws as before."""
    data = on_cuda(training_data)
    state = start_on_cuda(changed(SMALL, dropout=0.3, affine=0.3))
    plain = engine._make_step(state, data.task.images)
    assert isinstance(plain, GraphedStep)
    step = plain._step

    def waiting(batch: Batch) -> Tensor:
        loss = step(batch)
        loss.item()
        return loss

    state.graphed = GraphedStep(waiting)
    metrics = [engine.train_epoch(state, data) for _ in range(2)]
    assert state.note is not None
    assert "without CUDA graphs" in state.note
    assert metrics[1].train_loss < metrics[0].train_loss


@pytest.mark.gpu
@needs_cuda
def test_out_of_memory_of_a_step_is_raised_on_cuda(training_data: TrainingData) -> None:
    data = on_cuda(training_data)
    config = changed(SMALL, batch_size=512, conv_channels=[64, 64])
    device = data.task.images.device
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.empty_cache()
    fraction = (torch.cuda.memory_reserved() + 2**28) / total
    torch.cuda.set_per_process_memory_fraction(fraction, device)
    try:
        with pytest.raises(torch.OutOfMemoryError, match="memory"):
            engine.train_epoch(start_on_cuda(config), data)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)
    assert memory.peak_mb(device) > 0
    engine.train_epoch(start_on_cuda(SMALL), data)  # the process is usable
