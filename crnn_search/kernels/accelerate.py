"""The one way into this room: compiled CPU kernels for a model."""

from __future__ import annotations

from torch import nn

from crnn_search.kernels import native
from crnn_search.kernels.encoder import KernelEncoder
from crnn_search.kernels.gru import KernelGRU


def accelerate(model: nn.Module) -> None:
    """Have a model compute with the compiled kernels on a CPU; changes it.

    Replaces `model.encoder` (an `nn.Sequential` of convolutional layers, `nn.Flatten` and any
    modules) and each of `model.grus` (an `nn.GRU` with methods `project` and `recur`). Parameters,
    buffers and the keys of the state dict stay the same objects and names; outputs differ in the
    last digits.

    Raises:
        RuntimeError: this machine cannot compile the kernels; `native.problem` says why.
        TypeError: the encoder has a module without a kernel.
    """
    reason = native.problem()
    if reason is not None:
        raise RuntimeError(f"there are no compiled kernels: {reason}")
    encoder, grus = model.encoder, model.grus
    assert isinstance(encoder, nn.Sequential)
    assert isinstance(grus, nn.ModuleList)
    if isinstance(encoder, KernelEncoder):
        return
    model.encoder = KernelEncoder(encoder)
    model.grus = nn.ModuleList(KernelGRU(gru) for gru in grus)  # type: ignore[arg-type]
