"""Training steps as CUDA graphs: a whole step is captured once and replayed with one launch.

Lengths take turns (`data.training_table`), so batches of a training have few shapes; each has a
graph of its own, which needs no padding. A step that cannot be captured runs as it is, from then
on, and `note` says why. Not measured: no GPU was at hand (`docs/benchmarks.md`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

MAX_GRAPHS = 16
"""Shapes that are captured; each keeps the memory of a step's results."""

WARM_UPS = 3
"""Steps before a capture, in which libraries choose kernels and take their memory."""

Step = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Images `(N,)`, targets `(B,)` and batch sizes `(T,)` of a packed batch to the loss, `()`."""


@dataclass(frozen=True)
class Captured:
    """A graph, the tensors it reads, and the one it writes."""

    graph: torch.cuda.CUDAGraph
    images: Tensor
    targets: Tensor
    loss: Tensor


class Steps:
    """Steps of one training. captured: one that can be captured. eager: its equal that runs as is.

    note: why steps are not captured, if they are not.
    """

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, captured: Step, eager: Step
    ) -> None:
        self._model, self._optimizer = model, optimizer
        self._captured, self._eager = captured, eager
        self._graphs: dict[tuple[int, ...], Captured] = {}
        self.note: str | None = None

    def __call__(self, images: Tensor, targets: Tensor, batch_sizes: Tensor) -> Tensor:
        """Train on a batch; its loss, which the next step overwrites."""
        shape = tuple(batch_sizes.tolist())
        if shape not in self._graphs and self.note is None and len(self._graphs) < MAX_GRAPHS:
            try:
                self._graphs[shape] = self._capture(images, targets, batch_sizes)
            except RuntimeError as error:
                self.note = f"steps are not captured as CUDA graphs: {str(error).splitlines()[0]}"
        if self.note is not None or shape not in self._graphs:
            return self._eager(images, targets, batch_sizes)
        found = self._graphs[shape]
        found.images.copy_(images)
        found.targets.copy_(targets)
        found.graph.replay()
        return found.loss

    def _capture(self, images: Tensor, targets: Tensor, batch_sizes: Tensor) -> Captured:
        graph = torch.cuda.CUDAGraph()
        images, targets = images.clone(), targets.clone()
        with undone(self._model, self._optimizer):
            aside = torch.cuda.Stream()
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                for _ in range(WARM_UPS):
                    self._captured(images, targets, batch_sizes)
            torch.cuda.current_stream().wait_stream(aside)
        with torch.cuda.graph(graph):
            loss = self._captured(images, targets, batch_sizes)
        return Captured(graph, images, targets, loss)


@contextlib.contextmanager
def undone(model: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Take back, in place, whatever is trained inside, and the draws of random numbers.

    Moments that an optimizer makes at its first step stay, as the zeros they begin as.
    """
    known = [(tensor, tensor.clone()) for tensor in _changing(model, optimizer)]
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        with torch.no_grad():
            kept = {id(tensor) for tensor, _ in known}
            for tensor in _changing(model, optimizer):
                if id(tensor) not in kept:
                    tensor.zero_()
            for tensor, value in known:
                tensor.copy_(value)


def _changing(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[Tensor]:
    moments = [v for values in optimizer.state.values() for v in values.values()]
    return [*model.parameters(), *model.buffers(), *(v for v in moments if torch.is_tensor(v))]
