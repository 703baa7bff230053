"""Compiles the kernels with the flags in the arguments, and runs and checks every one.

A script of its own, as sanitizers have to be loaded before Python.
"""

from __future__ import annotations

import itertools
import os
import sys
from unittest import mock

import torch

from crnn_search.hyperparameters import MNIST_SHAPE, ImageShape, ModelSpec
from crnn_search.kernels import compiler, signatures
from crnn_search.kernels.accelerate import accelerate
from tests.kernels.reference import (
    distance,
    double,
    largest_distance,
    make_images,
    make_model,
    run,
    run_reference,
)

SHAPES = (MNIST_SHAPE, ImageShape(3, 33, 18), ImageShape(1, 22, 133))

SPECS = (
    ModelSpec(conv_channels=(16, 19, 24), gru_sizes=(9,)),
    ModelSpec(conv_channels=(3, 8, 16), kernel_size=(9, 2), pooling=(1, 3), gru_sizes=(8, 5)),
    ModelSpec(conv_channels=(24,), pooling=(4,), padding="valid", batch_norm=False, embedding=5),
    ModelSpec(conv_channels=(11, 23), pooling=(3, 1), padding="valid", batch_norm=False),
)


def main(flags: list[str]) -> None:
    torch.set_num_threads(1)
    os.environ.pop("LD_PRELOAD", None)  # the compiler needs no sanitizer
    with (
        mock.patch.object(compiler, "FLAGS", (*compiler.FLAGS, *flags)),
        mock.patch.object(signatures, "arguments", wraps=signatures.arguments) as arguments,
    ):
        for spec, shape in itertools.product(SPECS, SHAPES):
            check(spec, shape, "float32", 2e-2)
            check(spec, shape, "bfloat16", 0.3)
    missing = signatures.SIGNATURES.keys() - {call.args[0] for call in arguments.call_args_list}
    assert not missing, f"not run: {missing}"


def check(spec: ModelSpec, shape: ImageShape, precision: str, limit: float) -> None:
    case, model = (spec, shape, precision), make_model(spec, precision, shape)
    images = make_images(shape=shape)
    expected = run_reference(double(model), images)
    accelerate(model)
    found = run(model, images)
    assert distance(found.gates, expected.gates) < limit, case
    assert largest_distance(found.gradients, expected.gradients) < limit, case


if __name__ == "__main__":
    main(sys.argv[1:])
