from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from crnn_search.data.digits import Digits, training_table
from crnn_search.data.sequences import SequenceTable
from crnn_search.data.task import Draw
from crnn_search.hyperparameters import Arithmetic, ImageShape, TrialConfig
from crnn_search.kernels import native
from crnn_search.training import engine, optimizers
from crnn_search.training.engine import TrainingData, TrainState
from crnn_search.training.metrics import EpochMetrics
from crnn_search.training.model import CRNN
from tests.tasks import FewDigits

CPU = torch.device("cpu")
SMALL = TrialConfig.from_dict(
    {
        "conv_channels": [4, 8],
        "kernel_size": 5,
        "pooling": [3, 2],
        "padding": "valid",
        "gru_sizes": [16],
        "batch_size": 32,
        "learning_rate": 0.01,
    }
)
FLOAT32, BFLOAT16 = Arithmetic("float32"), Arithmetic("bfloat16")


def run(
    config: TrialConfig,
    data: TrainingData,
    *,
    epochs: int = 2,
    seed: int = 0,
    arithmetic: Arithmetic = FLOAT32,
) -> list[EpochMetrics]:
    state = engine.start(config, seed=seed, epochs=epochs, device=CPU, arithmetic=arithmetic)
    return [engine.train_epoch(state, data) for _ in range(epochs)]


def reproducible(metrics: EpochMetrics) -> tuple[object, ...]:
    """The metrics that two equal trainings share: all but times and memory."""
    return (metrics.epoch, metrics.train_loss, metrics.validation_rmse, metrics.learning_rate)


def changed(config: TrialConfig, **values: object) -> TrialConfig:
    return TrialConfig.from_dict(config.to_dict() | values)


def test_same_seed_gives_same_metrics(training_data: TrainingData) -> None:
    first, second = run(SMALL, training_data), run(SMALL, training_data)
    assert [reproducible(m) for m in first] == [reproducible(m) for m in second]


def test_different_seed_gives_different_loss(training_data: TrainingData) -> None:
    first, second = run(SMALL, training_data)[0], run(SMALL, training_data, seed=1)[0]
    assert first.train_loss != second.train_loss


def test_training_learns_to_sum(training_data: TrainingData) -> None:
    data = dataclasses.replace(training_data, epoch_sequences=1000)
    last = run(changed(SMALL, learning_rate=0.03, gru_sizes=[32]), data, epochs=5)[-1]
    assert last.validation_rmse is not None
    assert data.validation is not None
    assert last.validation_rmse < 0.5 * float(data.validation.targets.std())


@pytest.mark.parametrize(
    ("config", "arithmetic"),
    [
        (SMALL, FLOAT32),
        (
            changed(SMALL, dropout=0.3, affine=0.5, weight_decay=0.1, batch_norm=False),
            FLOAT32,
        ),
        (
            changed(SMALL, optimizer="rmsprop", schedule="constant", embedding=9, gru_sizes=[8, 8]),
            FLOAT32,
        ),
        (changed(SMALL, reuse=4, ema=0.99, feature_dropout=0.2, shift=0.5, elastic=0.5), FLOAT32),
        (SMALL, BFLOAT16),
    ],
)
def test_every_option_gives_finite_metrics(
    config: TrialConfig, arithmetic: Arithmetic, training_data: TrainingData
) -> None:
    for metrics in run(config, training_data, arithmetic=arithmetic):
        assert all(math.isfinite(value) for value in metrics.to_dict().values())
        assert 0 <= (metrics.exact_sum_rate or 0) <= 1


@pytest.mark.parametrize("shape", [ImageShape(3, 12, 20), ImageShape(1, 40, 9)])
@pytest.mark.parametrize("cpu_kernels", [False, True])
def test_images_of_any_shape_are_trained_on(shape: ImageShape, cpu_kernels: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (40, *shape), dtype=torch.uint8, generator=generator)
    digits = Digits(images, torch.arange(40, dtype=torch.uint8) % 10)
    task = FewDigits(digits, pool=20)
    data = TrainingData(task, task.validation_table(), 128)
    config = changed(SMALL, affine=0.5, padding="same")
    arithmetic = Arithmetic("float32", cpu_kernels)
    state = engine.start(config, seed=0, epochs=1, device=CPU, shape=shape, arithmetic=arithmetic)
    metrics = engine.train_epoch(state, data)
    assert math.isfinite(metrics.train_loss)
    assert metrics.validation_rmse is not None
    assert math.isfinite(metrics.validation_rmse)
    assert state.arithmetic == arithmetic


def reference_losses(
    config: TrialConfig, digits: Digits, table: SequenceTable
) -> tuple[list[float], CRNN]:
    """Training steps written out: one sequence after another, PyTorch's own GRU, no packing.

    Returns their losses, and the model with the gradients of the last one.
    """
    state = engine.start(config, seed=0, epochs=1, device=CPU)
    model, spec = state.model, config.training
    total = math.ceil(len(table) / spec.batch_size)
    model.train()
    losses = []
    for step in range(total):
        rows = range(len(table))[step * spec.batch_size : (step + 1) * spec.batch_size]
        sequences = [table.indices[r, : table.lengths[r]].tolist() for r in rows]
        # All images at once, because batch normalisation uses the statistics of the whole batch,
        # in which an image is as often as it was drawn.
        drawn = sorted(image for sequence in sequences for image in sequence)[:: spec.reuse]
        features = dict(zip(drawn, model.encoder(digits.pixels[drawn]), strict=True))
        sums = []
        for sequence in sequences:
            states = torch.stack([features[image] for image in sequence])
            for gru in model.grus:
                states = gru(states.unsqueeze(1))[0].squeeze(1)
            sums.append(model.output(states[-1])[0])
        loss = (torch.stack(sums) - table.targets[list(rows)]).square().mean()
        losses.append(loss.item())
        for group in state.optimizer.param_groups:
            group["lr"] = optimizers.learning_rate_at(spec, step / total)
        state.optimizer.zero_grad()
        loss.backward()
        if spec.gradient_clip:
            torch.nn.utils.clip_grad_norm_(model.parameters(), spec.gradient_clip)
        state.optimizer.step()
    return losses, model


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"batch_norm": False, "embedding": 6},
        {"gru_sizes": [7, 5], "optimizer": "rmsprop", "schedule": "constant"},
        {"padding": "same", "kernel_size": 3, "pooling": 2},
        {"pooling": [1, 4], "batch_norm": False},
        {"gradient_clip": 0.0, "weight_decay": 0.05, "max_sequence_length": 3},
        {"reuse": 4},
        {"reuse": 2, "gru_sizes": [7, 5], "max_sequence_length": 5},
        {"reuse": 32, "batch_norm": False},
    ],
)
def test_steps_match_an_unpacked_reference(options: dict[str, object], digits: Digits) -> None:
    """Eleven batches and a smaller one."""
    config = changed(SMALL, learning_rate=1e-3, **options)
    losses, _ = step_losses(config, digits, table := steps_table(config, digits, 11 * 32 + 21))
    assert len(losses) == (11 if config.training.reuse == 32 else 12)
    expected, _ = reference_losses(config, digits, table)
    assert losses == pytest.approx(expected, rel=2e-3, abs=1e-3)


@pytest.mark.parametrize("sequences", [32, 12])
@pytest.mark.parametrize("reuse", [1, 2, 4])
def test_gradients_match_those_of_an_unpacked_reference(
    reuse: int, sequences: int, digits: Digits
) -> None:
    config = changed(SMALL, reuse=reuse, gradient_clip=0.0)
    losses, state = step_losses(config, digits, table := steps_table(config, digits, sequences))
    expected, model = reference_losses(config, digits, table)
    assert losses == pytest.approx(expected, rel=1e-5)
    for name, parameter in model.named_parameters():
        found = state.model.get_parameter(name).grad
        torch.testing.assert_close(found, parameter.grad, rtol=1e-3, atol=1e-4)


def steps_table(config: TrialConfig, digits: Digits, sequences: int) -> SequenceTable:
    spec = config.training
    longest = min(8, spec.max_sequence_length)
    draw = Draw(sequences, longest, 0, 0, spec.batch_size, reuse=spec.reuse)
    return training_table(torch.arange(1000), digits.labels, draw)


def step_losses(
    config: TrialConfig, digits: Digits, table: SequenceTable
) -> tuple[list[float], TrainState]:
    """The losses of the engine's steps, and the state after them."""
    state = engine.start(config, seed=0, epochs=1, device=CPU)
    state.model.train()
    train_step, losses = engine._make_step(state, digits.pixels), []
    batches = list(table.batches(config.training.batch_size))
    for step, batch in enumerate(batches):
        for group in state.optimizer.param_groups:
            group["lr"] = optimizers.learning_rate_at(config.training, step / len(batches))
        losses.append(train_step(batch).item())
    return losses, state


def test_loss_of_an_epoch_is_the_mean_of_its_sequences(
    training_data: TrainingData, digits: Digits
) -> None:
    """Those of the last batch are fewer, and only whole partitions."""
    data = dataclasses.replace(training_data, epoch_sequences=75)
    config = changed(SMALL, reuse=4)
    table = data.task.training_table(Draw(75, 8, 0, 0, 32, reuse=4))
    assert len(table) == 72
    expected, _ = reference_losses(config, digits, table)
    total = 32 * expected[0] + 32 * expected[1] + 8 * expected[2]
    assert run(config, data, epochs=1)[0].train_loss == pytest.approx(total / 72, rel=1e-3)


@pytest.mark.skipif(native.problem() is not None, reason="needs a C compiler")
@pytest.mark.parametrize("config", [SMALL, changed(SMALL, reuse=4, ema=0.9)])
def test_compiled_kernels_give_the_same_metrics(
    config: TrialConfig, training_data: TrainingData
) -> None:
    arithmetic = Arithmetic("float32", cpu_kernels=True)
    state = engine.start(config, seed=0, epochs=2, device=CPU, arithmetic=arithmetic)
    assert (state.arithmetic, state.note) == (arithmetic, None)
    for expected in run(config, training_data):
        found = engine.train_epoch(state, training_data)
        assert found.train_loss == pytest.approx(expected.train_loss, rel=1e-3)
        assert found.validation_rmse == pytest.approx(expected.validation_rmse, rel=1e-3)


def test_missing_kernels_give_a_note(
    training_data: TrainingData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "problem", lambda: "there is no C compiler")
    state = engine.start(
        SMALL, seed=0, epochs=2, device=CPU, arithmetic=Arithmetic("float32", cpu_kernels=True)
    )
    assert state.arithmetic == FLOAT32
    assert state.note == (
        "training without compiled kernels, which is slower: there is no C compiler"
    )
    found = engine.train_epoch(state, training_data)
    assert reproducible(found) == reproducible(run(SMALL, training_data)[0])


def test_no_note_if_kernels_were_not_requested(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "problem", lambda: "there is no C compiler")
    assert engine.start(SMALL, seed=0, epochs=1, device=CPU).note is None


def test_training_leaves_global_random_state_unchanged(training_data: TrainingData) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    distorted = {"affine": 0.5, "shift": 0.5, "elastic": 0.5}
    run(changed(SMALL, dropout=0.5, feature_dropout=0.5, **distorted), training_data, epochs=1)
    assert torch.equal(torch.rand(3), expected)


def test_training_leaves_denormal_setting_unchanged(
    training_data: TrainingData, monkeypatch: pytest.MonkeyPatch
) -> None:
    def is_flushed() -> bool:
        return float(torch.tensor(1e-40) * 2) == 0

    inside: list[bool] = []

    def train_table(*_: object) -> float:
        inside.append(is_flushed())
        return 0.0

    monkeypatch.setattr(engine, "_train_table", train_table)
    run(SMALL, training_data, epochs=1)
    assert inside == [True]
    assert not is_flushed()


def test_without_validation_its_metrics_are_none(training_data: TrainingData) -> None:
    metrics = run(SMALL, dataclasses.replace(training_data, validation=None), epochs=1)[0]
    assert metrics.validation_rmse is None
    assert metrics.exact_sum_rate is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_losses_match_cpu_losses(training_data: TrainingData) -> None:
    device = torch.device("cuda")
    moved = dataclasses.replace(training_data, task=training_data.task.to(device))
    state = engine.start(SMALL, seed=0, epochs=2, device=device)
    on_gpu = [engine.train_epoch(state, moved).train_loss for _ in range(2)]
    on_cpu = [m.train_loss for m in run(SMALL, training_data)]
    assert on_gpu == pytest.approx(on_cpu, rel=0.05)
