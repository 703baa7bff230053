"""Training steps as CUDA graphs: a whole step is captured once and replayed with one launch.

A training's batches have few shapes (see `data.sequences.training_table`); each shape has a graph
of its own, so that nothing is padded. If a capture fails, all later steps run eagerly, and `note`
says why. Not measured: no GPU was available (`docs/benchmarks.md`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from crnn_search.text import first_line

MAX_GRAPHS = 16
"""Shapes that are captured; each keeps the memory of one step."""

WARM_UP_STEPS = 3
"""Steps before a capture, in which libraries choose kernels and allocate their workspaces."""

CAPTURE_ERRORS = range(900, 909)
"""CUDA's error codes of a capture that failed: they leave the process usable."""

Step = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Images `(N,)`, targets `(B,)` and batch sizes `(T,)` of a packed batch to the loss, `()`."""


@dataclass(frozen=True)
class CapturedGraph:
    """A graph, the tensors that it reads, and the one that it writes."""

    graph: torch.cuda.CUDAGraph
    images: Tensor
    targets: Tensor
    loss: Tensor


class GraphedStep:
    """The training step of one training, captured once for each shape of batch.

    note: why steps run eagerly, if they do.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, step: Step) -> None:
        self._model, self._optimizer, self._step = model, optimizer, step
        self._graphs: dict[tuple[int, ...], CapturedGraph] = {}
        self.note: str | None = None

    def __call__(self, images: Tensor, targets: Tensor, batch_sizes: Tensor) -> Tensor:
        """Train on a batch. Returns its loss, which the next step overwrites.

        Raises:
            torch.OutOfMemoryError: the GPU's memory does not suffice for the step or its graph.
            torch.AcceleratorError: a CUDA error that leaves the process unusable.
        """
        shape = tuple(batch_sizes.tolist())
        if shape not in self._graphs and self.note is None and len(self._graphs) < MAX_GRAPHS:
            try:
                self._graphs[shape] = self._capture(images, targets, batch_sizes)
            except RuntimeError as error:
                if not _is_capture_error(error):
                    raise
                self.note = f"steps run without CUDA graphs: {first_line(error)}"
        if self.note is not None or shape not in self._graphs:
            return self._step(images, targets, batch_sizes)
        captured = self._graphs[shape]
        captured.images.copy_(images)
        captured.targets.copy_(targets)
        captured.graph.replay()
        return captured.loss

    def _capture(self, images: Tensor, targets: Tensor, batch_sizes: Tensor) -> CapturedGraph:
        graph = torch.cuda.CUDAGraph()
        images, targets = images.clone(), targets.clone()
        with restored(self._model, self._optimizer):
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(WARM_UP_STEPS):
                    self._step(images, targets, batch_sizes)
            torch.cuda.current_stream().wait_stream(stream)
        with torch.cuda.graph(graph):
            loss = self._step(images, targets, batch_sizes)
        return CapturedGraph(graph, images, targets, loss)


def _is_capture_error(error: RuntimeError) -> bool:
    if isinstance(error, torch.AcceleratorError):
        return getattr(error, "error_code", None) in CAPTURE_ERRORS
    return not isinstance(error, torch.OutOfMemoryError)


@contextlib.contextmanager
def restored(model: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """On leaving, restore in place what was trained inside, and the state of random generators.

    Moments that the optimizer allocates inside stay allocated, as the zeros that they start from.
    """
    saved = [(tensor, tensor.clone()) for tensor in _state_tensors(model, optimizer)]
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        with torch.no_grad():
            known = {id(tensor) for tensor, _ in saved}
            for tensor in _state_tensors(model, optimizer):
                if id(tensor) not in known:
                    tensor.zero_()
            for tensor, value in saved:
                tensor.copy_(value)


def _state_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[Tensor]:
    moments = [v for values in optimizer.state.values() for v in values.values()]
    return [*model.parameters(), *model.buffers(), *(v for v in moments if torch.is_tensor(v))]
