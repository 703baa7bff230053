from __future__ import annotations

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from crnn_search.data.sequences import Digits, SequenceTable, training_table
from crnn_search.errors import ConfigError
from crnn_search.hyperparameters import MNIST_CRNN_2016, TrainingSpec, TrialConfig
from crnn_search.kernels import native
from crnn_search.training import engine, forward, optimizers, predict
from crnn_search.training.engine import TrainingData
from crnn_search.training.metrics import EpochMetrics
from tests.conftest import small_table

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
        "precision": "float32",
    }
)


def run(
    config: TrialConfig, data: TrainingData, *, epochs: int = 2, seed: int = 0
) -> list[EpochMetrics]:
    return list(engine.train(engine.start(config, seed=seed, epochs=epochs, device=CPU), data))


def figures(metrics: EpochMetrics) -> tuple[object, ...]:
    """What two equal trainings share: all but times and memory."""
    return (metrics.epoch, metrics.train_loss, metrics.validation_rmse, metrics.learning_rate)


def changed(config: TrialConfig, **values: object) -> TrialConfig:
    return TrialConfig.from_dict(config.to_dict() | values)


def test_same_seed_same_numbers(training_data: TrainingData) -> None:
    first, second = run(SMALL, training_data), run(SMALL, training_data)
    assert [figures(m) for m in first] == [figures(m) for m in second]


def test_another_seed_other_numbers(training_data: TrainingData) -> None:
    assert (
        run(SMALL, training_data)[0].train_loss != run(SMALL, training_data, seed=1)[0].train_loss
    )


def test_it_learns_to_add(training_data: TrainingData) -> None:
    data = dataclasses.replace(training_data, epoch_sequences=2000)
    last = run(SMALL, data, epochs=8)[-1]
    assert last.validation_rmse is not None
    assert last.validation_rmse < 0.5 * float(small_table(data.digits, 200).sums.std())


@pytest.mark.parametrize(
    "config",
    [
        SMALL,
        changed(SMALL, dropout=0.3, augmentation=0.5, weight_decay=0.1, batch_norm=False),
        changed(SMALL, optimizer="rmsprop", schedule="constant", embedding=9, gru_sizes=[8, 8]),
        changed(SMALL, precision="bfloat16"),
        changed(SMALL, precision="int16", conv_channels=8, gru_sizes=[48]),
    ],
)
def test_metrics_are_whole_for_every_option(
    config: TrialConfig, training_data: TrainingData
) -> None:
    for metrics in run(config, training_data):
        assert all(math.isfinite(value) for value in metrics.to_dict().values())
        assert 0 <= (metrics.exact_sum_rate or 0) <= 1


def slow_losses(
    config: TrialConfig, digits: Digits, table: SequenceTable, steps: int
) -> list[float]:
    """Training steps written out: padded images, plain loops, no packing, no autocast."""
    state = engine.start(config, seed=0, epochs=1, device=CPU)
    model, spec = state.model, config.training
    total = math.ceil(len(table) / spec.batch_size)
    model.train()
    losses = []
    for step in range(steps):
        rows = range(step * spec.batch_size, (step + 1) * spec.batch_size)
        sequences = [digits.images[table.indices[r, : table.lengths[r]].long()] for r in rows]
        features = _encode_all(model.encode, sequences)
        sums = []
        for feature in features:
            for gru in model.grus:
                feature = gru(feature.unsqueeze(1))[0].squeeze(1)
            sums.append(model.output(feature[-1])[0])
        loss = (torch.stack(sums) - table.sums[list(rows)]).square().mean()
        losses.append(loss.item())
        for group in state.optimizer.param_groups:
            group["lr"] = optimizers.learning_rate_at(spec, step / total)
        state.optimizer.zero_grad()
        loss.backward()
        if spec.gradient_clip:
            torch.nn.utils.clip_grad_norm_(model.parameters(), spec.gradient_clip)
        state.optimizer.step()
    return losses


def _encode_all(encode: object, sequences: list[Tensor]) -> tuple[Tensor, ...]:
    """All sequences' images at once, because batch norm sees the whole batch."""
    assert callable(encode)
    features: Tensor = encode(torch.cat(sequences).unsqueeze(1).float() / 255)
    parts: tuple[Tensor, ...] = features.split([len(s) for s in sequences])
    return parts


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"batch_norm": False, "embedding": 6},
        {"gru_sizes": [7, 5], "optimizer": "rmsprop", "schedule": "constant"},
        {"padding": "same", "kernel_size": 3, "pooling": 2},
        {"pooling": [1, 4], "batch_norm": False},
        {"conv_channels": 8, "gru_sizes": [48], "precision": "int16"},
        {
            "conv_channels": 8,
            "pooling": [2, 1],
            "batch_norm": False,
            "embedding": 128,
            "precision": "int16",
        },
        {"gradient_clip": 0.0, "weight_decay": 0.05, "max_sequence_length": 3},
    ],
)
def test_fast_steps_equal_slow_ones(options: dict[str, object], digits: Digits) -> None:
    config = changed(SMALL, learning_rate=1e-3, **options)
    longest = min(8, config.training.max_sequence_length)
    table = training_table(torch.arange(1000), digits.labels, 20 * 32, longest, 0, 0)
    state = engine.start(config, seed=0, epochs=1, device=CPU)
    state.model.train()
    train_on = engine._step_of(state, digits, config.training.precision)
    fast = []
    for step, batch in enumerate(table.batches(32)):
        for group in state.optimizer.param_groups:
            group["lr"] = optimizers.learning_rate_at(config.training, step / 20)
        fast.append(train_on(batch.images, batch.targets, batch.batch_sizes).item())
    torch.testing.assert_close(
        torch.tensor(fast),
        torch.tensor(slow_losses(config, digits, table, 20)),
        rtol=2e-3,
        atol=1e-3,
    )


def test_without_kernels_the_same_is_learnt_and_said(
    training_data: TrainingData, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = engine.start(SMALL, seed=0, epochs=2, device=CPU)
    assert state.note is None
    with_kernels = list(engine.train(state, training_data))
    monkeypatch.setattr(native, "problem", lambda: "there is no C compiler")
    assert state.note == (
        "training on PyTorch's own layers, which are slower: there is no C compiler"
    )
    without = run(SMALL, training_data)
    for one, other in zip(with_kernels, without, strict=True):
        assert one.train_loss == pytest.approx(other.train_loss, rel=1e-3)
        assert one.validation_rmse == pytest.approx(other.validation_rmse, rel=1e-3)


def test_precision_is_the_fastest_that_keeps_accuracy(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(bfloat16: bool, level: str, device: str = "cpu") -> str:
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bfloat16)
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: level)
        return forward.resolve_precision("auto", torch.device(device))

    assert resolve(bfloat16=True, level="AVX512") == "bfloat16"
    assert resolve(bfloat16=False, level="AVX512") == "float32"
    assert resolve(bfloat16=False, level="AVX2") == "int16"
    assert resolve(bfloat16=False, level="AVX2", device="mps") == "float32"
    assert forward.resolve_precision("float32", CPU) == "float32"
    assert forward.resolve_precision("int16", CPU) == "int16"
    monkeypatch.setattr(native, "problem", lambda: "there is no C compiler")
    assert resolve(bfloat16=False, level="AVX2") == "float32"


def test_int16_where_there_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="precision int16 needs a CPU; received cuda"):
        forward.resolve_precision("int16", torch.device("cuda"))
    monkeypatch.setattr(native, "problem", lambda: "there is no C compiler")
    with pytest.raises(
        ConfigError, match="precision int16 needs compiled kernels, but there is no C"
    ):
        forward.resolve_precision("int16", CPU)


def test_cached_encodings_give_the_direct_predictions(digits: Digits) -> None:
    state = engine.start(MNIST_CRNN_2016, seed=0, epochs=1, device=CPU)
    table = small_table(digits, 300)
    direct = torch.empty(len(table))
    state.model.eval()
    with torch.no_grad():
        for row in range(len(table)):
            images = digits.images[table.indices[row, : table.lengths[row]].long()]
            pixels = images.unsqueeze(1).float()[None] / 255
            direct[row] = state.model(pixels, table.lengths[row : row + 1])
    fast = predict.predict(state.model, digits, table)
    torch.testing.assert_close(fast, direct, rtol=1e-5, atol=1e-5)


def test_prediction_leaves_the_mode_alone(digits: Digits) -> None:
    model = engine.start(SMALL, seed=0, epochs=1, device=CPU).model
    model.train()
    predict.predict(model, digits, small_table(digits, 10))
    assert model.training


def test_global_randomness_is_left_alone(training_data: TrainingData) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    run(changed(SMALL, dropout=0.5, augmentation=0.5), training_data, epochs=1)
    assert torch.equal(torch.rand(3), expected)


def test_small_numbers_are_left_alone(training_data: TrainingData) -> None:
    run(SMALL, training_data, epochs=1)
    assert float(torch.tensor(1e-40) * 2) > 0


def test_one_cycle_rises_and_falls() -> None:
    spec = TrainingSpec(learning_rate=0.1)
    rates = [optimizers.learning_rate_at(spec, k / 100) for k in range(101)]
    assert rates[0] == pytest.approx(0.1 / 25)
    assert max(rates) == rates[25] == pytest.approx(0.1)
    assert rates[-1] == pytest.approx(1e-4)
    assert rates[:26] == sorted(rates[:26])
    assert rates[25:] == sorted(rates[25:], reverse=True)


def test_augmentation_moves_pixels_but_keeps_the_picture(digits: Digits) -> None:
    pixels = digits.images[:64].unsqueeze(1).float() / 255
    torch.manual_seed(0)
    mild, strong = forward.augment(pixels, 0.1), forward.augment(pixels, 1.0)
    assert mild.shape == pixels.shape
    assert 0 < F.mse_loss(mild, pixels) < F.mse_loss(strong, pixels) < 0.1
    torch.testing.assert_close(forward.augment(pixels, 0.0), pixels, rtol=0, atol=1e-5)


def test_without_validation_there_is_no_validation_figure(training_data: TrainingData) -> None:
    metrics = run(SMALL, dataclasses.replace(training_data, validation=None), epochs=1)[0]
    assert metrics.validation_rmse is None
    assert metrics.exact_sum_rate is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_gives_the_cpus_losses(training_data: TrainingData) -> None:
    device = torch.device("cuda")
    moved = dataclasses.replace(training_data, digits=training_data.digits.to(device))
    state = engine.start(SMALL, seed=0, epochs=2, device=device)
    on_gpu = [m.train_loss for m in engine.train(state, moved)]
    on_cpu = [m.train_loss for m in run(SMALL, training_data)]
    assert on_gpu == pytest.approx(on_cpu, rel=0.05)
