from __future__ import annotations

import dataclasses
import json
import random
import struct
from pathlib import Path
from typing import Any

import pytest
import torch

from crnn_search.data import sequences
from crnn_search.data.sequences import TRAINING_IMAGES, Digits
from crnn_search.errors import InputError, ModelFileError, RunError
from crnn_search.hyperparameters import MNIST_CRNN_2016, TrialConfig
from crnn_search.results import importance, markdown, plots, report, scores
from crnn_search.storage import jsonl
from crnn_search.storage.files import read_json, write_json
from crnn_search.storage.run_folder import RunPaths
from crnn_search.training import checkpoint, engine, metrics, predict

CPU = torch.device("cpu")
SMALL = TrialConfig.from_dict(
    {"conv_channels": [4], "kernel_size": [5], "pooling": [4], "gru_sizes": [8]}
)
REASON = "diverged: training loss `nan` | <script>\nTraceback of many lines"


@pytest.fixture(scope="module", autouse=True)
def few_test_sequences() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sequences, "TEST_SEQUENCES", 2000)
        yield


def save_networks(run: RunPaths, name: str, config: TrialConfig, seeds: int) -> list[Any]:
    entries = []
    for seed in range(seeds):
        file = f"retrained/{name}-{seed}.safetensors"
        state = engine.start(config, seed=seed, epochs=1, device=CPU)
        checkpoint.save_model(run.root / file, state.model, config, {})
        entries.append(
            {
                "seed": seed, "file": file, "seconds": 30.0, "core_seconds": 60.0,
                "gpu_seconds": 7.5, "device": "cpu", "train_loss": [3.0, 2.0],
            }
        )  # fmt: skip
    return entries


def trial(number: int, state: str, values: list[float | None], **config: Any) -> jsonl.Record:
    return {
        "number": number, "state": state, "reason": REASON if state == "FAIL" else None,
        "config": SMALL.to_dict() | config, "values": values, "node": "a", "device": "cpu",
        "seconds": 5.0 * len(values), "core_seconds": 10.0 * len(values),
        "gpu_seconds": 1.0 * len(values), "seed": number, "checkpoint": None,
    }  # fmt: skip


def full_budget_trials(count: int = 12) -> list[jsonl.Record]:
    """Trials whose RMSE hangs on the learning rate alone; three other things vary beside it."""
    rng = random.Random(0)
    trials = []
    for number in range(count):
        rate = 10 ** rng.uniform(-4, -1)
        rmse = 1 + abs(rate - 0.001) ** 0.5
        other = {
            "batch_size": rng.choice([32, 64]), "gru_sizes": rng.choice([[8], [16]]),
            "batch_norm": rng.choice([True, False]),
        }  # fmt: skip
        trials.append(trial(number, "COMPLETE", [8.0, 3.0, rmse], learning_rate=rate, **other))
    return trials


def make_run(root: Path) -> RunPaths:
    run = RunPaths(root)
    root.mkdir()
    write_json(
        run.manifest,
        {
            "name": root.name, "command": "crnn-search launch quick.yaml", "git_commit": None,
            "created": "2026-01-02T03:04:05+00:00", "versions": {"torch": "2.0"}, "seed": 0,
            "hardware": {
                "nodes": [{"cpus": 2.0, "gpus": 0.0, "cpu_model": None, "memory_gb": 7.5}]
            },
            "data_sha256": {"file": "0123"},
            "space": {
                "task": {"max_digits": 5},
                "search": {
                    "trials": 16, "max_epochs": 3, "grace_epochs": 1, "reduction_factor": 3,
                    "epoch_sequences": 500, "seed": 0,
                },
                "retrain": {"epochs": 2, "seeds": 2, "finalists": 2, "epoch_sequences": 700},
            },
        },
    )  # fmt: skip
    stopped = [trial(12, "PRUNED", [9.0]), trial(13, "PRUNED", [8.0, 5.0])]
    failed = [trial(14, "FAIL", [7.0, 90.0, None]), trial(15, "FAIL", [])]
    for record in full_budget_trials() + stopped + failed:
        jsonl.append(run.ledger, record)
    with run.ledger.open("a") as file:
        file.write('{"number": 16, "sta')  # a crash while writing
    finalist = {
        "config": SMALL.to_dict(), "seeds": [5, 6], "core_seconds": 50.0, "gpu_seconds": 0.0,
    }  # fmt: skip
    best = {"number": 3, "search_rmse": 1.23, "rmse_by_seed": [1.2, 1.3], "rmse": 1.25}
    second = {"number": 5, "search_rmse": 1.21, "rmse_by_seed": [1.4, 1.6], "rmse": 1.5}
    write_json(run.finalists, {"finalists": [best | finalist, second | finalist], "repeats": 2})
    write_json(run.best, {"number": 3, "config": SMALL.to_dict(), "rmse": 1.25})
    write_json(
        run.retrained,
        {
            "epochs": 2, "epoch_sequences": 700,
            "winner": save_networks(run, "winner", SMALL, 2),
            "mnist_crnn_2016": save_networks(run, "mnist_crnn_2016", MNIST_CRNN_2016, 1),
            "seconds": {"search": 90.0, "finalists": 30.0, "retrain": 8000.0},
        },
    )  # fmt: skip
    return run


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, digits: Digits) -> RunPaths:
    """A run with its report written."""
    run = make_run(tmp_path_factory.mktemp("runs") / "night")
    report.write_report(run, digits)
    return run


@pytest.fixture
def written(finished: RunPaths) -> dict[str, Any]:
    """The content of its report.json, for a test to change."""
    return dict(read_json(finished.report_json))


@pytest.fixture
def fresh(tmp_path: Path) -> RunPaths:
    return make_run(tmp_path / "fresh")


def change(path: Path, **values: Any) -> None:
    write_json(path, read_json(path) | values)


def predictions(run: RunPaths, name: str, digits: Digits) -> torch.Tensor:
    model = checkpoint.load_model(run.root / f"retrained/{name}.safetensors")[0]
    return predict.predict(model, digits, sequences.testing_table(digits.labels, 5))


def test_scores_are_those_of_the_models_on_the_test_sequences(
    finished: RunPaths, written: dict[str, Any], digits: Digits
) -> None:
    table = sequences.testing_table(digits.labels, 5)
    assert int(table.indices[table.indices > 0].min()) >= TRAINING_IMAGES
    ours = [predictions(finished, f"winner-{seed}", digits) for seed in range(2)]
    theirs = [predictions(finished, "mnist_crnn_2016-0", digits)]
    expected = scores.score(ours, table).to_dict()
    assert {key: written["test"][key] for key in expected} == expected
    assert written["test"]["exported_rmse"] == metrics.rmse(ours[0], table.sums)
    assert written["test"]["images"] == 1000
    old = scores.score(theirs, table)
    base = written["baselines"]
    assert base["mnist_crnn_2016_rmse"] == old.rmse
    assert base["mnist_crnn_2016_rmse_interval"] == old.rmse_interval
    assert base["mnist_crnn_2016_rmse_std"] is None
    assert base["mnist_crnn_2016_exact_sum_rate"] == old.exact_sum_rate
    assert written["improvement"] == scores.paired_difference(theirs, ours, table).to_dict()


def test_blind_baselines_come_from_training_labels(written: dict[str, Any], digits: Digits) -> None:
    table = sequences.testing_table(digits.labels, 5)
    mean = digits.labels[:TRAINING_IMAGES].double().mean()
    guess = (mean * 3 - table.sums).square().mean().sqrt()
    count = (mean * table.lengths - table.sums).square().mean().sqrt()
    assert written["baselines"]["mean_guess_rmse"] == pytest.approx(guess.item())
    assert written["baselines"]["count_only_rmse"] == pytest.approx(count.item())


def test_search_figures(written: dict[str, Any]) -> None:
    trials, compute = written["trials"], written["compute"]
    assert (trials["completed"], trials["stopped"], trials["failed"]) == (12, 2, 2)
    assert trials["failures"] == [{"reason": REASON, "count": 2, "numbers": [14, 15]}]
    assert compute["core_seconds"] == {
        "completed": 360.0, "stopped": 30.0, "failed": 30.0, "finalists": 100.0, "retrain": 180.0,
    }  # fmt: skip
    assert compute["gpu_seconds"]["retrain"] == 22.5
    assert compute["asha_saved_share"] == pytest.approx(1 - 39 / 42)
    assert written["seconds"] == {"search": 90.0, "finalists": 30.0, "retrain": 8000.0}


def test_best_and_run_are_told(written: dict[str, Any]) -> None:
    assert written["best_config"] == SMALL.to_dict()
    model = engine.start(SMALL, seed=0, epochs=1, device=CPU).model
    assert written["best_parameters"] == sum(p.numel() for p in model.parameters())
    assert (written["best_trial"], written["best_validation_rmse"]) == (3, 1.25)
    assert {"name", "command", "git_commit", "versions", "hardware"} <= set(written["run"])


def test_importance_finds_the_one_that_matters() -> None:
    shares, note = importance.importances(full_budget_trials(40))
    assert shares is not None
    assert next(iter(shares)) == "learning_rate"
    assert shares["learning_rate"] > 0.6
    assert set(shares) == {"learning_rate", "batch_size", "gru_sizes", "batch_norm"}
    assert sum(shares.values()) == pytest.approx(1.0)
    assert "40 trials" in note


def test_importance_looks_at_full_budget_trials_only() -> None:
    full = full_budget_trials(8)
    stopped = [trial(20 + n, "PRUNED", [0.1], dropout=n / 10) for n in range(8)]
    assert importance.importances([*full, *stopped]) == importance.importances(full)
    shares, note = importance.importances([*full[:7], *stopped])
    assert shares is None
    assert "at least 8 trials" in note
    assert "got 7 and" in note


def test_importance_needs_two_hyperparameters_that_vary() -> None:
    trials = [trial(n, "COMPLETE", [1.0 + n], learning_rate=1e-3 * (n + 1)) for n in range(9)]
    assert importance.importances(trials)[0] is None


def test_a_report_can_be_written_again_and_is_the_same(finished: RunPaths, digits: Digits) -> None:
    before = {path: path.read_bytes() for path in finished.root.rglob("report.*")}
    result = report.write_report(finished, digits)
    assert len(before) == 3
    assert {path: path.read_bytes() for path in before} == before
    assert result == read_json(finished.report_json)


def test_markdown_is_made_of_report_json_alone(finished: RunPaths, written: dict[str, Any]) -> None:
    assert markdown.render(written) == finished.report_markdown.read_text()


def test_markdown_states_the_result_beside_its_baselines(written: dict[str, Any]) -> None:
    written["test"] |= {"rmse": 0.61234, "rmse_interval": [0.551, 0.6789], "rmse_std": 0.0123}
    written["baselines"] |= {"mnist_crnn_2016_rmse": 1.0512, "count_only_rmse": 4.0}
    headline = markdown.render(written).split("\n\n")[1]
    assert (
        "RMSE of 0.612 (95 % interval 0.551 to 0.679; mean of 2 seeds, SD 0.012; 2,000 sequences "
        "of 1,000 test images), where the network of 2016 has 1.05, counting the digits 4.00"
    ) in headline
    text = markdown.render(written)
    assert "| mnistCRNN README, 2016 (published, other sequences) | 1.17 | – | – | – |" in text
    assert (
        "| mnistCRNN README, 2018 (ImageNet MobileNet) (published, other sequences) | 0.65 |"
        in (text)
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.6123, "0.612"), (1.0, "1.00"), (11.94, "11.9"), (123.4, "123"), (1234.5, "1,234"),
        (-0.05, "-0.0500"), (0.0, "0.00"), (None, "missing"),
    ],
)  # fmt: skip
def test_numbers_have_three_digits_that_count(value: float | None, text: str) -> None:
    assert markdown._number(value) == text


@pytest.mark.parametrize(
    "expected",
    [
        "# crnn-search report: night",
        "2 epochs of 700 sequences of all 60,000 training images",
        "```yaml\nconv_channels: [4]\nkernel_size: [5]",
        "| trial 3 | 1.23 | 1.25 | 0.071 | 2 |",
        "12 completed, 2 stopped early, 2 failed. Early stopping left out 7.1 % of the epochs",
        "- 2 × `diverged: training loss 'nan' | <script>`\n",
        "| finalists, repeated | 100 s | 0 s |",
        "| completed trials | 6.0 min | 36 s |",
        "Wall time: search 90 s, finalists 30 s, retrain 2.2 h.",
        "| `learning_rate` |",
        "```console\ncrnn-search launch quick.yaml\n```",
        "- commit: missing, not run from a checkout",
        "- node: CPU model missing, cores 2, GPUs 0, memory 7.5 GB",
        "- versions: torch 2.0",
    ],
)
def test_markdown_has(expected: str, finished: RunPaths) -> None:
    assert expected in finished.report_markdown.read_text()


def test_markdown_has_a_row_for_every_length(written: dict[str, Any]) -> None:
    lines = markdown.render(written).splitlines()
    for length, rmse in written["test"]["rmse_by_length"].items():
        row = next(line for line in lines if line.startswith(f"| {length} |"))
        blind = written["baselines"]["count_only_rmse_by_length"][length]
        assert row.startswith(f"| {length} | {markdown._number(rmse)} |")
        assert row.endswith(f"| {markdown._number(blind)} |")


def test_missing_figures_are_said_to_be_missing(fresh: RunPaths, digits: Digits) -> None:
    fresh.finalists.unlink()
    change(fresh.retrained, mnist_crnn_2016=[], seconds=None)
    fresh.ledger.write_text("".join(fresh.ledger.read_text().splitlines(keepends=True)[-3:]))
    result = report.write_report(fresh, digits)
    assert result["baselines"]["mnist_crnn_2016_rmse"] is None
    assert result["improvement"] is None
    assert result["compute"]["asha_saved_share"] is None
    text = fresh.report_markdown.read_text()
    assert "| mnistCRNN's network of 2016, trained in this run | missing | missing | missing |" in (
        text
    )
    assert "Missing: the run has no finalists.json." in text
    assert "The difference between them is missing: the network of 2016 was not trained." in text
    assert "Missing: it needs at least 8 trials" in text
    assert "| finalists, repeated | missing | missing |" in text
    assert "Wall time: missing." in text
    assert "2016 network    missing" in markdown.summary(result)


def test_a_winner_that_is_the_network_of_2016_is_said_and_counted_once(
    fresh: RunPaths, digits: Digits
) -> None:
    write_json(fresh.best, {"number": 3, "config": MNIST_CRNN_2016.to_dict(), "rmse": 1.25})
    change(fresh.retrained, winner=read_json(fresh.retrained)["mnist_crnn_2016"])
    result = report.write_report(fresh, digits)
    assert result["compute"]["core_seconds"]["retrain"] == 60.0
    assert (result["improvement"]["difference"], result["improvement"]["ratio"]) == (0.0, 1.0)
    assert "They are the same network" in fresh.report_markdown.read_text()


def test_many_reasons_of_failures_are_cut_short(written: dict[str, Any]) -> None:
    written["trials"]["failures"] = [
        {"reason": f"reason {n}", "count": 2, "numbers": [n]} for n in range(13)
    ]
    text = markdown.render(written)
    assert "- 2 × `reason 9`\n- 6 for other reasons, all in report.json" in text
    written["trials"]["failures"] = []
    assert "No trial failed." in markdown.render(written)


def test_a_single_finalist_was_not_repeated(written: dict[str, Any]) -> None:
    written["finalists"] = [written["finalists"][0] | {"rmse_by_seed": []}]
    assert "| trial 3 | 1.23 | not repeated | – | 0 |" in markdown.render(written)


def test_html_needs_no_other_file(finished: RunPaths) -> None:
    page = finished.report_html.read_text()
    assert page.count('<img src="data:image/png;base64,') == 2
    assert "http" not in page
    assert "<script>" not in page
    assert "<title>crnn-search report: night</title>" in page
    assert page.count("<table>") == 5
    assert "prefers-color-scheme: dark" in page


def test_plots_are_pictures_of_a_readable_size(finished: RunPaths) -> None:
    for name in ("learning_curves.png", "rmse_by_length.png"):
        content = (finished.plots / name).read_bytes()
        assert content.startswith(b"\x89PNG\r\n")
        width, height = struct.unpack(">II", content[16:24])
        assert (width, height) == (975, 572)


def test_learning_curves_of_trials_without_a_number(tmp_path: Path) -> None:
    path = tmp_path / "plots" / "none.png"
    trials = [trial(0, "FAIL", []), trial(1, "FAIL", [None])]
    plots.learning_curves(path, trials, winner=9, epochs=1, ceiling=20.0)
    assert path.is_file()


def test_summary_is_short_and_plain(written: dict[str, Any]) -> None:
    written["test"] |= {"rmse": 0.61234, "rmse_interval": [0.551, 0.6789]}
    text = markdown.summary(written)
    assert "test RMSE       0.612  (95 % interval 0.551 to 0.679)" in text
    assert "12 completed, 2 stopped early, 2 failed" in text
    assert text.startswith("night: sums of 1 to 5 digits\n")
    assert len(text.splitlines()) <= 15
    assert max(map(len, text.splitlines())) <= 90


def test_networks_of_another_configuration_are_refused(fresh: RunPaths, digits: Digits) -> None:
    other = dataclasses.replace(SMALL.training, learning_rate=0.5)
    config = TrialConfig(SMALL.model, other).to_dict()
    write_json(fresh.best, {"number": 4, "config": config, "rmse": 1.0})
    with pytest.raises(RunError, match=r"winner-0\.safetensors must have the configuration"):
        report.write_report(fresh, digits)


def test_a_run_without_a_retrained_winner_is_refused(fresh: RunPaths, digits: Digits) -> None:
    change(fresh.retrained, winner=[])
    with pytest.raises(RunError, match="must list at least one retrained winner, got none"):
        report.write_report(fresh, digits)


def test_missing_files_are_named(fresh: RunPaths, digits: Digits) -> None:
    (fresh.root / "retrained/winner-1.safetensors").unlink()
    with pytest.raises(ModelFileError, match=r"winner-1\.safetensors does not exist"):
        report.write_report(fresh, digits)
    fresh.best.unlink()
    with pytest.raises(InputError, match=r"cannot read .*best\.json"):
        report.write_report(fresh, digits)


def test_a_network_that_diverged_is_refused(fresh: RunPaths, digits: Digits) -> None:
    model = engine.start(SMALL, seed=0, epochs=1, device=CPU).model
    torch.nn.init.constant_(model.output.bias, float("nan"))
    checkpoint.save_model(fresh.root / "retrained/winner-0.safetensors", model, SMALL, {})
    with pytest.raises(RunError, match="got 2000 that are not: the training diverged"):
        report.write_report(fresh, digits)
    assert not fresh.report_json.exists()


def test_report_json_is_strict_json(finished: RunPaths) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    json.loads(finished.report_json.read_text(), parse_constant=refuse)
