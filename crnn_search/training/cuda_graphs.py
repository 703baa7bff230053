"""Training steps as CUDA graphs: a whole step is captured once and replayed with one launch.

A training's batches have few shapes (see `data.sequences.training_table`); each shape has a graph
of its own, so that nothing is padded. The graphs share one memory pool: a step's loss is read
before the next step begins. If a capture fails, all later steps run eagerly, and `note` says why.
Not measured: no GPU was available (`docs/decisions/0022`).
"""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from crnn_search.data.sequences import Batch
from crnn_search.text import first_line

MAX_GRAPHS = 16
"""Shapes that are captured."""

WARM_UP_STEPS = 3
"""Steps of a shape before its capture, in which libraries choose kernels and allocate memory."""

CAPTURE_ERRORS = range(900, 909)
"""CUDA's error codes of a capture that failed: they leave the process usable."""

Step = Callable[[Batch], Tensor]
"""A packed batch on the device to the loss, `()`."""


@dataclass(frozen=True)
class CapturedGraph:
    """A graph, the batch that it reads, and the loss that it writes."""

    graph: torch.cuda.CUDAGraph
    batch: Batch
    loss: Tensor


class GraphedStep:
    """The training step of one training, captured once for each shape of batch.

    step: must refer neither to this object nor to what refers to it: the graphs' memory is freed
    with this object.
    note: why steps run eagerly, if they do.
    """

    def __init__(self, step: Step) -> None:
        self._step = step
        self._steps: Counter[tuple[int, ...]] = Counter()
        self._graphs: dict[tuple[int, ...], CapturedGraph] = {}
        self.note: str | None = None

    def __call__(self, batch: Batch) -> Tensor:
        """Train on a batch. Returns its loss, which the next step may overwrite.

        Raises:
            torch.OutOfMemoryError: the GPU's memory does not suffice for the step or its graph.
            torch.AcceleratorError: a CUDA error that leaves the process unusable.
        """
        shape = (len(batch.images), *batch.batch_sizes.tolist())
        if shape not in self._graphs:
            if self.note is not None or len(self._graphs) >= MAX_GRAPHS:
                return self._step(batch)
            self._steps[shape] += 1
            if self._steps[shape] <= WARM_UP_STEPS:
                return self._warm_up(batch)
            try:
                self._graphs[shape] = self._capture(batch)
            except RuntimeError as error:
                if not _is_capture_error(error):
                    raise
                self.note = f"steps run without CUDA graphs: {first_line(error)}"
                self._graphs.clear()
                return self._step(batch)
        captured = self._graphs[shape]
        for read, values in zip(_read(captured.batch), _read(batch), strict=True):
            read.copy_(values)
        captured.graph.replay()
        return captured.loss

    @functools.cached_property
    def _stream(self) -> torch.cuda.Stream:
        return torch.cuda.Stream()

    @functools.cached_property
    def _pool(self) -> Any:
        return torch.cuda.graph_pool_handle()

    def _warm_up(self, batch: Batch) -> Tensor:
        """A step on the stream of the captures, as PyTorch asks for."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            loss = self._step(batch)
        torch.cuda.current_stream().wait_stream(self._stream)
        return loss

    def _capture(self, batch: Batch) -> CapturedGraph:
        graph = torch.cuda.CUDAGraph()
        batch = dataclasses.replace(
            batch,
            images=batch.images.clone(),
            targets=batch.targets.clone(),
            rows=None if batch.rows is None else batch.rows.clone(),
        )
        random_state = torch.cuda.get_rng_state()
        try:
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
                loss = self._step(batch)
        except BaseException:
            _renew_generator(random_state)
            raise
        return CapturedGraph(graph, batch, loss)


def _read(batch: Batch) -> list[Tensor]:
    """What a step reads of a batch on the GPU. Its batch sizes are part of the graph."""
    return [batch.images, batch.targets] + ([] if batch.rows is None else [batch.rows])


def _renew_generator(random_state: Tensor) -> None:
    """Let the GPU's generator draw again: a capture that fails leaves it in a state of its own."""
    renewed = torch.Generator("cuda")
    renewed.set_state(random_state)
    generator = torch.cuda.default_generators[torch.cuda.current_device()]
    generator.graphsafe_set_state(renewed.graphsafe_get_state())


def _is_capture_error(error: BaseException) -> bool:
    """Whether only the capture failed; ending it may raise a second error, after the true one."""
    if isinstance(error.__context__, RuntimeError) and not _is_capture_error(error.__context__):
        return False
    if isinstance(error, torch.AcceleratorError):
        return getattr(error, "error_code", None) in CAPTURE_ERRORS
    return not isinstance(error, torch.OutOfMemoryError)
