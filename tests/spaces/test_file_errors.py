"""Errors of search space files: all at once, each with line, rule and value received."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pytest

from crnn_search.errors import SpaceError
from crnn_search.spaces.file import load_space, parse_space
from tests.spaces.examples import problems


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "1: must be a mapping with a section space, got nothing: the file is empty"),
        ("# only a comment\n", "1: must be a mapping with a section space, got nothing"),
        ("- space\n", "1: must be a mapping with a section space, got ['space']"),
        ("task: {}\n", "1: space: must be a mapping of hyperparameters ({} searches nothing), got"),
        ("task: {}\nspace:\n", "2: space: must be a mapping of hyperparameters"),
        ("space: {}\nspace: {}\n", "2: space: the key is given twice, first on line 1"),
        ("space: {}\n\nserach: {}\n", "3: serach: unknown name 'serach'; did you mean search?"),
        ("space:\n  ? [1]\n  : 2\n", "2: space: a key must be a word, got a list or mapping"),
        ("space: {}\nsearch: 3\n", "2: search: must be a mapping, got 3"),
        ("space: {}\nfirst: {}\n", "2: first: must be a list of configurations, got {}"),
        ("space: {}\nfirst:\n- 3\n", "3: first[0]: must be a mapping of hyperparameters, got 3"),
    ],
)
def test_errors_of_the_document(text: str, problem: str) -> None:
    (found,) = problems(text)
    assert found.startswith(f"space.yaml:{problem}")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("space:\n  dropout: [0.1\n", "space.yaml:3: not YAML: while parsing a flow sequence: exp"),
        ("space:\n\tdropout: 0\n", "space.yaml:2: not YAML: while scanning for the next token"),
        ("space: {}\n---\nspace: {}\n", "space.yaml:2: not YAML: expected a single document"),
        ("space: {dropout: \x00}", "space.yaml: not YAML: unacceptable character"),
        ("[" * 3000, "space.yaml: not YAML that can be read: nested too deeply"),
        ("a: &x 1\n", "space.yaml:1: not YAML: anchors, aliases and tags are not supported"),
        ("a: 1\n? [&x 1]\n: 2\n", "space.yaml:2: not YAML: anchors, aliases and tags are not"),
        ("a: 1\nb: !x {}\n", "space.yaml:2: not YAML: anchors, aliases and tags are not"),
        ("a: 1\nb: *x\n", "space.yaml:2: not YAML: anchors, aliases and tags are not supported"),
        ("a: !!python/name:os.system\n", "space.yaml:1: not YAML: anchors, aliases and tags"),
    ],
)
def test_errors_of_yaml(text: str, problem: str) -> None:
    (found,) = problems(text)
    assert found.startswith(problem)


TRIALS = "must be a whole number from 1 to 1000000"
CPUS = "must be a number from 0.0001 to 10000"
MS = "must be a number above 0 and at most 1000000, in ms, got "
GPUS = "must be auto, 0, a number from 0.0001 to 1 or a whole number from 1 to 10000, since Ray"


@pytest.mark.parametrize(
    ("section", "problem"),
    [
        ("task: {max_digits: 0}", "task.max_digits: must be a whole number from 1 to 64, got 0"),
        ("task: {max_digits: 65}", "task.max_digits: must be a whole number from 1 to 64, got 65"),
        ("search: {trials: 0}", f"search.trials: {TRIALS}, got 0"),
        ("search: {trials: yes}", f"search.trials: {TRIALS}, got True"),
        ("search: {trials: 3.0}", f"search.trials: {TRIALS}, got 3.0"),
        ("search: {trials: '3'}", f"search.trials: {TRIALS}, got '3'"),
        ("search: {trials: 010}", f"search.trials: {TRIALS}, got '010'"),
        ("search: {trials: 1000001}", f"search.trials: {TRIALS}, got 1000001"),
        ("search: {max_epochs: 0}", "search.max_epochs: must be a whole number from 1 to 100000"),
        ("search: {max_epochs: 100001}", "search.max_epochs: must be a whole number from 1 to 1"),
        ("search: {grace_epochs: 0}", "search.grace_epochs: must be a whole number from 1 to 100"),
        (
            "search: {grace_epochs: 9, max_epochs: 3}",
            "search.grace_epochs: must be at most max_epochs, which is 3, got 9",
        ),
        (
            "search: {reduction_factor: 1}",
            "search.reduction_factor: must be a whole number from 2 to 1000, got 1",
        ),
        ("search: {reduction_factor: 1001}", "search.reduction_factor: must be a whole number fro"),
        ("search: {epoch_sequences: 0}", "search.epoch_sequences: must be a whole number from 1 t"),
        (
            "search: {epoch_sequences: 10000001}",
            "search.epoch_sequences: must be a whole number from 1 to 10000000, got 10000001",
        ),
        (
            "search: {max_concurrent_trials: 0}",
            "search.max_concurrent_trials: must be auto or a whole number from 1 to 1000000, got 0",
        ),
        (
            "search: {max_concurrent_trials: 99999999999999999}",
            "search.max_concurrent_trials: must be auto or a whole number from 1 to 1000000, got 9",
        ),
        ("search: {seed: -1}", "search.seed: must be a whole number from 0 to 2147483648, got -1"),
        ("search: {seed: 2147483649}", "search.seed: must be a whole number from 0 to 2147483648"),
        *(
            (f"search: {{max_ms_per_sequence: {value}}}", f"search.max_ms_per_sequence: {MS}")
            for value in (0, -1, 1000001, "1e999", ".nan", "on", "fast")
        ),
        ("search: {trails: 1}", "search.trails: unknown name 'trails'; did you mean trials?"),
        ("retrain: {finalists: 0}", "retrain.finalists: must be a whole number from 1 to 1000"),
        ("retrain: {finalists: 1001}", "retrain.finalists: must be a whole number from 1 to 1000"),
        ("retrain: {seeds: 0}", "retrain.seeds: must be a whole number from 1 to 1000, got 0"),
        ("retrain: {seeds: 99999999999999999}", "retrain.seeds: must be a whole number from 1 to"),
        ("retrain: {epochs: 0}", "retrain.epochs: must be a whole number from 1 to 100000, got 0"),
        ("retrain: {epoch_sequences: 0}", "retrain.epoch_sequences: must be a whole number from"),
        ("resources: {cpus_per_trial: 0}", f"resources.cpus_per_trial: {CPUS}, got 0"),
        ("resources: {cpus_per_trial: 1e-5}", f"resources.cpus_per_trial: {CPUS}, got 1e-05"),
        ("resources: {cpus_per_trial: 10001}", f"resources.cpus_per_trial: {CPUS}, got 10001"),
        ("resources: {cpus_per_trial: 1e999}", f"resources.cpus_per_trial: {CPUS}, got inf"),
        *(
            (f"resources: {{gpus_per_trial: {value}}}", f"resources.gpus_per_trial: {GPUS}")
            for value in (-0.5, 1.5, "2.5", "1e-5", "1e999", 10001, "all", "on")
        ),
        (
            "resources: {precision: int16}",
            "resources.precision: must be one of auto, float32, bfloat16, got 'int16'",
        ),
        (
            "resources: {cpu_kernels: on}",
            "resources.cpu_kernels: must be one of auto, off, got True",
        ),
    ],
)
def test_errors_of_sections(section: str, problem: str) -> None:
    (found,) = problems(f"space: {{}}\n{section}\n")
    assert found.startswith(f"space.yaml:2: {problem}")


@pytest.mark.parametrize("length", ["{list_of: 8, length: [4, 6]}", "[8, 8, 8, 8]"])
def test_error_if_no_network_can_be_built(length: str) -> None:
    assert problems(f"search:\n  seed: 1\nspace:\n  conv_channels: {length}\n  pooling: 4\n") == [
        "space.yaml:3: space: no sample is feasible: convolution 3 leaves no pixels: it "
        "gets 1×1, its kernel is 3×3 (same padding), its pooling 4; use fewer conv_channels, a "
        "smaller kernel_size, a smaller pooling or padding: same"
    ]


def test_error_if_all_networks_are_too_large() -> None:
    assert problems("search:\n  max_parameters: 1000\nspace:\n  gru_sizes: [1]\n") == [
        "space.yaml:3: space: no sample is feasible: the network has 25,147 parameters; "
        "search.max_parameters is 1,000"
    ]


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ("{dropuot: 0.1}", "first[1].dropuot: unknown name 'dropuot'; did you mean dropout?"),
        ("{dropout: 0.5}", "first[1].dropout: must be a number from 0.0 to 0.2, got 0.5"),
        ("{dropout: a}", "first[1].dropout: must be a number from 0 to 0.95, got 'a'"),
        ("{padding: same}", "first[1].padding: must be 'valid', which is fixed, got 'same'"),
        ("{schedule: constant}", "first[1].schedule: must be 'one_cycle', which is fixed by def"),
        (
            "{conv_channels: [8, 8, 8], kernel_size: 9}",
            "first[1]: is infeasible: conv",
        ),
        (
            "{batch_size: 30}",
            "first[1]: is infeasible: batch_size must be a multiple of reuse, which is 4, got 30",
        ),
    ],
)
def test_errors_of_first(entry: str, problem: str) -> None:
    space = (
        "space: {dropout: {float: [0, 0.2]}, padding: valid, kernel_size: {choice: [3, 9]},\n"
        "  conv_channels: {list_of: 8, length: [1, 3]}, reuse: 4, batch_size: {int: [16, 64]}}\n"
    )
    (found,) = problems(f"first:\n  - {{conv_channels: [8, 8, 8]}}\n  - {entry}\n{space}")
    assert found.startswith(f"space.yaml:3: {problem}")


def test_all_problems_are_reported_at_once_in_the_order_of_the_file() -> None:
    found = problems(
        "space:\n"
        "  dropuot: 0.5\n"
        "  batch_size:\n"
        "    int: [0, 8]\n"
        "    log: perhaps\n"
        "search: {trials: 0,\n"
        "  seed: -1}\n"
        "first:\n"
        "  - {dropout: 3}\n"
        "resourses: {}\n",
        ["retrain.seeds=0"],
    )
    origins = [re.match(r"(.*?): (\S*):", problem) for problem in found]
    assert [match.groups() for match in origins if match] == [
        ("space.yaml:2", "space.dropuot"),
        ("space.yaml:4", "space.batch_size.int"),
        ("space.yaml:5", "space.batch_size.log"),
        ("space.yaml:6", "search.trials"),
        ("space.yaml:7", "search.seed"),
        ("space.yaml:9", "first[0].dropout"),
        ("space.yaml:10", "resourses"),
        ("--set", "retrain.seeds"),
    ]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("space:\n  precision: bfloat16\n", "2: space"),
        ("space:\n  precision: {choice: [float32, int16]}\n", "2: space"),
        ("space: {}\nfirst:\n  - {precision: auto}\n", "3: first[0]"),
    ],
)
def test_precision_is_not_a_hyperparameter_any_more(text: str, place: str) -> None:
    assert problems(text) == [
        f"space.yaml:{place}.precision: moved to resources.precision: all trials of a run compute "
        "in the same precision"
    ]


def test_augmentation_is_named_affine() -> None:
    assert problems("space: {augmentation: 0.3}\n") == [
        "space.yaml:1: space.augmentation: is named affine now, for what it does"
    ]


def test_one_mistake_gives_one_problem() -> None:
    assert len(problems("first: [{dropout: 0.1}]\nspace: {dropuot: {float: [0, 0.5]}}\n")) == 1
    assert len(problems("task: {max_digits: 99}\nspace: {max_sequence_length: 16}\n")) == 1
    assert len(problems("search: {max_epochs: 0, grace_epochs: 30}\nspace: {}\n")) == 1
    assert len(problems("first: [{dropout: 0.1}]\n")) == 1


def test_errors_of_reading_files(tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match=r"none\.yaml: cannot be read: No such file or directory"):
        load_space(tmp_path / "none.yaml")
    with pytest.raises(SpaceError, match="cannot be read: it is a folder; give a regular file"):
        load_space(tmp_path)
    os.mkfifo(tmp_path / "pipe.yaml")
    for path in (tmp_path / "pipe.yaml", Path("/dev/zero")):
        with pytest.raises(SpaceError, match="cannot be read: it is a pipe, a device"):
            load_space(path)
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"space:\n  # \xfc\n")
    with pytest.raises(SpaceError, match=r"latin\.yaml:2: must be UTF-8 text, got the byte 0xfc"):
        load_space(latin)
    latin.write_text("space:\n  x: 1\n")
    with pytest.raises(SpaceError, match=r"latin\.yaml:2: space\.x: unknown name 'x'"):
        load_space(latin)


IN_SPACE = "{dropout: %.4f, conv_channels: [%d, 8], kernel_size: [%d], learning_rate: 0.00%03d}"


@pytest.mark.parametrize(("valid", "entries"), [(True, 10_000), (False, 2_000)])
def test_many_entries_of_first_are_checked_fast(valid: bool, entries: int) -> None:
    size = "{choice: [3, 5, 9]}"
    text = (
        "space:\n  dropout: {float: [0, 0.5]}\n  learning_rate: {float: [1e-4, 0.01]}\n"
        f"  conv_channels: {{list_of: {{int: [1, 900]}}, length: [1, 4]}}\n  kernel_size: {size}\n"
        "  padding: {choice: [valid]}\n  pooling: {choice: [4, 3]}\nfirst:\n"
    )
    kernel = 3 if valid else 9
    text += "".join(
        f"  - {IN_SPACE % (n % 5000 / 10000, 1 + n % 900, kernel, 100 + n % 900)}\n"
        for n in range(entries)
    )
    started = time.process_time()
    if valid:
        assert len(parse_space(text).first) == entries
    else:
        assert len(problems(text)) == entries
    assert time.process_time() - started < 4, "about one second where nothing else runs"
