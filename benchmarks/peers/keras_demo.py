"""Keras 3 with the model of the demonstration: `TimeDistributed` layers, then GRUs.

As in the demonstration, an epoch's sequences are composed into one float array, padded with zeros,
and the GRUs run over the padding too: the prediction comes after the eighth step. Initial weights
and batch norm's constants, whose defaults differ between frameworks, are set to PyTorch's, so that
the work is the same.
"""

from __future__ import annotations

import os
import time
from typing import Any

import torch
from torch import Tensor

from benchmarks.work import MAX_DIGITS, Trained, Work, padded, side_by_side, tables
from crnn_search.data.digits import Digits
from crnn_search.data.sequences import SequenceTable
from crnn_search.hyperparameters import ModelSpec, TrainingSpec
from crnn_search.training import engine, metrics
from crnn_search.training.optimizers import learning_rate_at


def run(work: Work, backend: str = "jax") -> list[Trained]:
    """Both trials at once."""
    return side_by_side(train, work, backend)


def train(work: Work, seed: int, backend: str) -> Trained:
    """One trial, in a process that has not imported Keras before."""
    os.environ["KERAS_BACKEND"] = backend
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    torch.set_num_threads(1)
    config, digits = work.spec(), work.digits()
    training, validation = tables(digits, work, seed)
    model = build(config.model)
    copy_weights(engine.start(config, seed=seed, epochs=1, device=torch.device("cpu")).model, model)
    steps = -(-work.sequences // config.training.batch_size)
    model.compile(
        loss="mean_squared_error",
        optimizer=optimizer(config.training, steps * work.epochs),
    )
    trained = Trained([], [])
    batch = config.training.batch_size
    for epoch in range(work.epochs):
        images, sums = arrays(digits, training(epoch))
        model.fit(images, sums, batch_size=batch, epochs=1, shuffle=False, verbose=0)
        images, sums = arrays(digits, validation)
        predicted = torch.from_numpy(model.predict(images, batch_size=batch, verbose=0))
        trained.validation_rmse.append(metrics.rmse(predicted.squeeze(1), validation.targets))
        trained.ends.append(time.time())
    return trained


def arrays(digits: Digits, table: SequenceTable) -> tuple[Any, Any]:
    """All sequences at once, `(S, T, 28, 28, 1)`, and their sums, `(S,)`."""
    images = padded(digits, table, slice(None)).permute(0, 1, 3, 4, 2)
    return images.contiguous().numpy(), table.targets.numpy()


def build(spec: ModelSpec) -> Any:
    """The demonstration's model with this architecture."""
    from keras import Input, Sequential, layers

    wrap = layers.TimeDistributed
    model = Sequential([Input((MAX_DIGITS, 28, 28, 1))])
    for width, kernel, pool in spec.layers():
        model.add(
            wrap(layers.Conv2D(width, kernel, padding=spec.padding, use_bias=not spec.batch_norm))
        )
        if spec.batch_norm:
            model.add(wrap(layers.BatchNormalization(momentum=0.9, epsilon=1e-5)))
        model.add(layers.Activation("relu"))
        if pool > 1:
            model.add(wrap(layers.MaxPooling2D(pool)))
    model.add(wrap(layers.Flatten()))
    for layer, width in enumerate(spec.gru_sizes, start=1):
        model.add(layers.GRU(width, return_sequences=layer < len(spec.gru_sizes)))
    model.add(layers.Dropout(spec.dropout))
    model.add(layers.Dense(1))
    return model


def copy_weights(source: torch.nn.Module, model: Any) -> None:
    """Give a Keras model the weights of the package's network of the same architecture.

    Keras has convolutions as (height, width, in, out), flat features with the channel last, and a
    GRU's gates in the order update, reset, new.
    """
    weights: list[Tensor] = []
    channels = 1
    for module in source.modules():
        own = {name: value.detach() for name, value in module.named_parameters(recurse=False)}
        if isinstance(module, torch.nn.Conv2d):
            channels = module.out_channels
            weights.append(own["weight"].permute(2, 3, 1, 0))
            weights += [own["bias"]] if "bias" in own else []
        elif isinstance(module, torch.nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            weights += [own["weight"], own["bias"], module.running_mean, module.running_var]
        elif isinstance(module, torch.nn.GRU):
            gates = {name: _reorder(value) for name, value in own.items()}
            inputs = gates["weight_ih_l0"]
            if channels:  # the first GRU, which reads the flat features
                inputs = inputs.unflatten(1, (channels, -1)).transpose(1, 2).flatten(1)
                channels = 0
            bias = torch.stack([gates["bias_ih_l0"], gates["bias_hh_l0"]])
            weights += [inputs.T, gates["weight_hh_l0"].T, bias]
        elif isinstance(module, torch.nn.Linear):
            weights += [own["weight"].T, own["bias"]]
    model.set_weights([value.numpy() for value in weights])


def _reorder(gates: Tensor) -> Tensor:
    """A GRU's gates, along the first axis, in Keras's order."""
    reset, update, new = gates.chunk(3)
    return torch.cat([update, reset, new])


def optimizer(spec: TrainingSpec, steps: int) -> Any:
    """The configuration's optimizer and schedule over so many steps in all."""
    import numpy as np
    from keras import ops, optimizers

    rates = np.array([learning_rate_at(spec, k / steps) for k in range(steps)], "float32")

    class Schedule(optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]
        def __call__(self, step: Any) -> Any:
            index = ops.minimum(ops.cast(step, "int32"), steps - 1)
            return ops.take(ops.convert_to_tensor(rates), index)

    clip = spec.gradient_clip or None
    if spec.optimizer == "adamw":
        return optimizers.AdamW(
            Schedule(), weight_decay=spec.weight_decay, epsilon=1e-8, global_clipnorm=clip
        )
    return optimizers.RMSprop(Schedule(), rho=0.9, epsilon=1e-7, global_clipnorm=clip)
