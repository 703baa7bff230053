"""Search space files: what a valid one means, overrides, UTF-8."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from crnn_search.spaces.domains import Choice, Fixed, FloatRange, IntRange, ListOf
from crnn_search.spaces.file import load_space, parse_space
from crnn_search.spaces.sections import (
    MnistSumsSpec,
    ResourcesSpec,
    RetrainSpec,
    SearchSpec,
    TaskSpec,
)
from crnn_search.spaces.space import sample, to_yaml
from tests.spaces.examples import FULL, problems, space_of


def test_full_file() -> None:
    space = parse_space(FULL)
    assert space.task == TaskSpec(mnist_sums=MnistSumsSpec(max_digits=8))
    assert space.search == SearchSpec(trials=16, grace_epochs=1, epoch_sequences=6000)
    assert space.retrain == RetrainSpec(epoch_sequences=6000)
    assert space.first == ({"conv_channels": [16, 32], "learning_rate": 0.003},)
    assert space.space == {
        "conv_channels": ListOf(IntRange(8, 64, log=True), 1, 4),
        "gru_sizes": ListOf(IntRange(32, 256, log=True), 1, 3),
        "dropout": FloatRange(0.0, 0.5),
        "max_sequence_length": IntRange(2, 8),
        "learning_rate": FloatRange(1e-4, 2e-2, log=True),
        "batch_size": Choice((64, 128, 256, 512)),
        "optimizer": Fixed("adamw"),
        "kernel_size": Choice(((3,), (5,), (4, 3))),
    }


def test_sections_other_than_space_have_defaults() -> None:
    space = parse_space("space: {}\nsearch:\nfirst:\n")
    assert (space.task, space.search, space.retrain) == (
        TaskSpec(mnist_sums=MnistSumsSpec()),
        SearchSpec(),
        RetrainSpec(),
    )
    assert space.resources == ResourcesSpec(
        cpus_per_trial=1, gpus_per_trial="auto", precision="auto", cpu_kernels="auto"
    )
    assert space.first == ()
    assert sample(space, 0, 2) == [{}, {}]
    assert space.search.model_dump() == {
        "trials": 64,
        "max_epochs": 27,
        "grace_epochs": 9,
        "reduction_factor": 3,
        "epoch_sequences": 60_000,
        "max_concurrent_trials": "auto",
        "seed": 0,
        "sampler": "tpe",
        "max_parameters": None,
        "max_ms_per_sequence": None,
        "target": None,
        "patience": None,
    }


@pytest.mark.parametrize(("epochs", "first_rung"), [(1, 1), (3, 1), (8, 2), (9, 3), (100, 33)])
def test_the_first_rung_is_at_a_third(epochs: int, first_rung: int) -> None:
    space = parse_space(f"search: {{max_epochs: {epochs}}}\nspace: {{}}\n")
    assert space.search.grace_epochs == first_rung
    assert parse_space(to_yaml(space)) == space


@pytest.mark.parametrize(("text", "limit_ms"), [("2", 2.0), ("0.05", 0.05), ("1e6", 1e6)])
def test_time_that_a_network_may_take(text: str, limit_ms: float) -> None:
    space = parse_space(f"search: {{max_ms_per_sequence: {text}}}\nspace: {{}}\n")
    assert space.search.max_ms_per_sequence == limit_ms
    assert parse_space(to_yaml(space)) == space


def test_retraining_has_its_own_epoch_sequences() -> None:
    space = parse_space("retrain: {epoch_sequences: 9}\nspace: {}\n")
    assert (space.retrain.epoch_sequences, space.search.epoch_sequences) == (9, 60_000)


@pytest.mark.parametrize(
    ("line", "domain"),
    [
        ("learning_rate: 1e-3", Fixed(0.001)),  # a text in YAML 1.1
        ("learning_rate: {float: [1e-4, 2E-2]}", FloatRange(1e-4, 2e-2)),
        ("dropout: 0", Fixed(0.0)),
        ("dropout: .5", Fixed(0.5)),
        ("dropout: {float: [0, 0.3], step: 0.1}", FloatRange(0.0, 0.3, step=0.1)),
        ("batch_size: 1_024", Fixed(1024)),
        (
            "gradient_clip: {float: [0.01, 10000.01], step: 0.01}",
            FloatRange(0.01, 10000.01, step=0.01),
        ),
        ("batch_size: {int: [32, 128], step: 32}", IntRange(32, 128, step=32)),
        ("batch_norm: {choice: [yes, off]}", Choice((True, False))),
        ("kernel_size: 3", Fixed((3,))),
        ("kernel_size: [5, 3]", Fixed((5, 3))),
        ("pooling: {list_of: {choice: [1, 2]}, length: 2}", ListOf(Choice((1, 2)), 2, 2)),
        ("gru_sizes: {list_of: 64, length: [1, 2]}", ListOf(Fixed(64), 1, 2)),
        ("padding: {choice: [same, valid]}", Choice(("same", "valid"))),
    ],
)
def test_domains(line: str, domain: Any) -> None:
    space = space_of(line)
    assert list(space.space.values()) == [domain]
    assert parse_space(to_yaml(space)) == space


@pytest.mark.parametrize("precision", ["auto", "float32", "bfloat16"])
def test_precision_of_a_run(precision: str) -> None:
    space = parse_space(f"resources: {{precision: {precision}}}\nspace: {{}}\n")
    assert space.resources.precision == precision
    assert parse_space(to_yaml(space)) == space


@pytest.mark.parametrize("text", ["off", "'off'", "false"])
def test_cpu_kernels_can_be_off(text: str) -> None:
    space = parse_space(f"resources: {{cpu_kernels: {text}}}\nspace: {{}}\n")
    assert space.resources.cpu_kernels == "off"
    assert parse_space(to_yaml(space)) == space
    assert parse_space("space: {}", [f"resources.cpu_kernels={text}"]) == space


def test_utf_8_byte_order_mark_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes("\ufeffspace: {dropout: 0.1}  # ü\n".encode())
    assert load_space(path).space == {"dropout": Fixed(0.1)}


def test_overrides_replace_and_add_values() -> None:
    space = parse_space(
        FULL,
        [
            "search.trials=4",
            "space.dropout=0.1",
            "space.learning_rate={float: [1e-4, 1e-2], log: true}",
            "space.conv_channels.length=[2, 2]",
            "space.affine = {choice: [0, 1]}",
            "first=[]",
        ],
    )
    assert space.search.trials == 4
    assert space.space["dropout"] == Fixed(0.1)
    assert space.space["learning_rate"] == FloatRange(1e-4, 1e-2, log=True)
    assert space.space["conv_channels"] == ListOf(IntRange(8, 64, log=True), 2, 2)
    assert space.space["affine"] == Choice((0.0, 1.0))
    assert space.first == ()
    assert parse_space(to_yaml(space)) == space


def test_override_fills_an_empty_section() -> None:
    assert parse_space("space: {}\nsearch:\n", ["search.seed=3"]).search.seed == 3


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("trials", "must be key=value with a dotted key, got 'trials'"),
        ("=3", "must be key=value with a dotted key, got '=3'"),
        ("search..seed=3", "must be key=value with a dotted key, got 'search..seed=3'"),
        ("search.trails=3", "search.trails: unknown name 'trails'; did you mean trials?"),
        ("serach.trials=3", "serach: unknown name 'serach'; did you mean search?"),
        ("search.trials=", "search.trials: must be a whole number from 1 to 1000000, got None"),
        ("search.trials.x=3", "search.trials.x: search.trials is not a mapping, it is 16"),
        ("search.trials=[1", "search.trials: value:1: not YAML: while parsing a flow sequence"),
        ("space.dropout={float: [1, 0]}", "space.dropout.float: each bound must be a number from"),
        ("space.dropout={log: yes, log: no}", "space.dropout.log: the key is given twice"),
        ("space.dropout.float=[0.5, 0.1]", "space.dropout.float: low must be at most high, got"),
        ("space=3", "space: must be a mapping of hyperparameters ({} searches nothing), got 3"),
    ],
)
def test_errors_of_overrides(override: str, problem: str) -> None:
    found = problems(FULL, [override])
    assert found[0].startswith(f"--set: {problem}")


def test_override_keeps_the_lines_of_other_values() -> None:
    found = problems("space:\n  dropout: {float: [2, 1]}\n", ["search.seed=1"])
    assert found[0].startswith("space.yaml:2: space.dropout.float: ")


def test_spaces_import_neither_optuna_nor_torch_nor_ray() -> None:
    program = (
        "import sys, crnn_search.spaces.space as s, crnn_search.spaces.file as f; "
        "s.sample(f.parse_space('space: {dropout: 0}'), 0, 1); "
        "sys.exit(bool({'optuna', 'torch', 'ray'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
