"""Errors of domains: each with its line, its rule and the value received."""

from __future__ import annotations

import pytest

from tests.spaces.examples import problems

INT_64 = "must be a whole number from 1 to 65536"


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("dropuot: 0.1", "dropuot: unknown name 'dropuot'; did you mean dropout?"),
        ("batch_size: 0", f"batch_size: {INT_64}, got 0"),
        ("batch_size: -64", f"batch_size: {INT_64}, got -64"),
        ("batch_size: 64.0", f"batch_size: {INT_64}, got 64.0"),
        ("batch_size: yes", f"batch_size: {INT_64}, got True"),
        ("batch_size: 1:30", f"batch_size: {INT_64}, got '1:30'"),
        ("batch_size:", f"batch_size: {INT_64}, got None"),
        ("batch_norm: 1", "batch_norm: must be true or false, got 1"),
        ("optimizer: adam", "optimizer: must be one of adamw, rmsprop, got 'adam'"),
        ("optimizer: no", "optimizer: must be one of adamw, rmsprop, got False"),
        ("dropout: .nan", "dropout: must be a number from 0 to 0.95, got '.nan'"),
        ("gru_sizes: []", "gru_sizes: must be a list of 1 to 4 whole numbers from 1 to 2048, got"),
        ("batch_size: {}", "batch_size: must have one of int, float, choice, list_of, got {}"),
        ("batch_size: {int: [1, 2], choice: [3]}", "batch_size: must have one of int, float, cho"),
        (
            "batch_size: {integer: [1, 2]}",
            "batch_size: unknown domain: unknown name 'integer'; did you mean int? (valid names: "
            "choice, float, int, list_of)",
        ),
        (
            "batch_size: {int: [1, 2], lag: true}",
            "batch_size.lag: unknown name 'lag'; did you mean log? (valid names: int, log, step)",
        ),
        (
            "learning_rate: {int: [1, 2]}",
            "learning_rate: must be a number from 1e-07 to 1: use float or choice, got int",
        ),
        ("batch_size: {float: [1, 2]}", f"batch_size: {INT_64}: use int or choice, got float"),
        (
            "padding: {int: [1, 2]}",
            "padding: must be one of same, valid: use choice, got int",
        ),
        (
            "batch_norm: {list_of: yes}",
            "batch_norm: must be true or false: use choice, got list_of",
        ),
        (
            "gru_sizes: {int: [1, 2]}",
            "gru_sizes: must be a list of 1 to 4 whole numbers from 1 to 2048: use list_of or "
            "choice, got int",
        ),
        (
            "batch_size: {list_of: {int: [1, 2]}, length: 1}",
            f"batch_size: {INT_64}: use int or choice, got list_of",
        ),
        ("batch_size: {int: 3}", "batch_size.int: must be two bounds, [low, high], got 3"),
        ("batch_size: {int: [3]}", "batch_size.int: must be two bounds, [low, high], got [3]"),
        ("batch_size: {int: [9, 3]}", "batch_size.int: low must be at most high, got [9, 3]"),
        (
            "batch_size: {int: [1, a]}",
            "batch_size.int: each bound must be a whole number from 1 to",
        ),
        (
            "batch_size: {int: [0, 3]}",
            "batch_size.int: each bound must be a whole number from 1 to",
        ),
        ("batch_size: {int: [1, 3.5]}", "batch_size.int: each bound must be a whole number from"),
        ("dropout: {float: [0, 1.5]}", "dropout.float: each bound must be a number from 0 to 0.95"),
        (
            "dropout: {float: [0, 0.5], log: true}",
            "dropout.log: log: true needs a lower bound above 0, got 0.0",
        ),
        (
            "embedding: {int: [0, 64], log: true}",
            "embedding.log: log: true needs a lower bound above 0, got 0",
        ),
        ("batch_size: {int: [1, 2], log: 1}", "batch_size.log: must be true or false, got 1"),
        (
            "batch_size: {int: [1, 3], log: true, step: 1}",
            "batch_size.step: a range has log: true or a step, not both, got step 1",
        ),
        ("batch_size: {int: [1, 3], step: 0}", "batch_size.step: must be a whole number above 0"),
        ("batch_size: {int: [1, 3], step: true}", "batch_size.step: must be a whole number above"),
        ("batch_size: {int: [1, 3], step: 0.5}", "batch_size.step: must be a whole number above 0"),
        ("dropout: {float: [0, 0.5], step: x}", "dropout.step: must be a number above 0, got 'x'"),
        (
            "dropout: {float: [0, 0.5], step: 0.2}",
            "dropout.step: must lead from 0.0 to 0.5 in 0 to 1000000 whole steps, got 0.2",
        ),
        (
            "gradient_clip: {float: [0.01, 10000.02], step: 0.01}",  # one step too many
            "gradient_clip.step: must lead from 0.01 to 10000.02 in 0 to 1000000 whole steps, got",
        ),
        ("dropout: {float: [0, 0.5], step: 1e-320}", "dropout.step: must lead from 0.0 to 0.5 in"),
        (
            "batch_size: {choice: 3}",
            "batch_size.choice: must be a list of at least one option, got",
        ),
        ("batch_size: {choice: []}", "batch_size.choice: must be a list of at least one option"),
        ("batch_size: {choice: [1, 0]}", f"batch_size.choice[1]: {INT_64}, got 0"),
        ("batch_size: {choice: [1, 1]}", "batch_size.choice[1]: options must differ, got 1 twice"),
        ("pooling: {choice: [2, [2]]}", "pooling.choice[1]: options must differ, got [2] twice"),
        ("dropout: {choice: [0, 0.0]}", "dropout.choice[1]: options must differ, got 0.0 twice"),
        (
            "gru_sizes: {list_of: {int: [1, 4096]}, length: 1}",
            "gru_sizes.list_of.int: each bound must be a whole number from 1 to 2048, got",
        ),
        (
            "gru_sizes: {list_of: {list_of: 8, length: 1}, length: 1}",
            "gru_sizes.list_of: must be a whole number from 1 to 2048: use int or choice, got lis",
        ),
        (
            "gru_sizes: {list_of: 8}",
            "gru_sizes.length: must be a whole number from 1 to 4 or [low, high], got none",
        ),
        (
            "gru_sizes: {list_of: 8, length: 5}",
            "gru_sizes.length: must be a whole number from 1 to 4 or [low, high], got 5",
        ),
        (
            "gru_sizes: {list_of: 8, length: [1, 5]}",
            "gru_sizes.length: each bound must be a whole number from 1 to 4, got [1, 5]",
        ),
        (
            "gru_sizes: {list_of: 8, length: [2, 1]}",
            "gru_sizes.length: low must be at most high, got [2, 1]",
        ),
        (
            "max_sequence_length: {int: [2, 9]}",
            "max_sequence_length: must be at most 8, the images of the longest sequence, got 9",
        ),
        (
            "max_sequence_length: {choice: [16, 8]}",
            "max_sequence_length: must be at most 8, the images of the longest sequence, got 16",
        ),
    ],
)
def test_errors_of_domains(line: str, problem: str) -> None:
    (found,) = problems(f"space:\n  weight_decay: 0\n  {line}\n")
    assert found.startswith(f"space.yaml:3: space.{problem}")
