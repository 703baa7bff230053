"""The report's pages, Markdown and HTML, and the terminal's summary."""

from __future__ import annotations

import re
from typing import Any

import pytest

from crnn_search.results import doubts, formatting
from crnn_search.results.summary import summary
from crnn_search.storage.run_folder import RunFolder
from tests.results.result_files import to_html, to_markdown


def test_markdown_depends_on_report_json_alone(reported: RunFolder, written: Any) -> None:
    assert to_markdown(written, reported) == reported.report_markdown.read_text()


def test_headline_has_the_result_beside_its_baselines(written: Any, reported: RunFolder) -> None:
    written["test"] |= {"rmse": 0.61234, "rmse_interval": [0.551, 0.6789], "rmse_std": 0.0123}
    written["baselines"]["mnist_crnn_2016"]["rmse"] = 1.0512
    written["baselines"]["count_only"]["rmse"] = 4.0
    text = to_markdown(written, reported).split("\n\n")
    (headline,) = (part for part in text if part.startswith("**The retrained winner"))
    assert (
        "RMSE of 0.612 (95 % interval 0.551 to 0.679; mean of 2 seeds, SD 0.012; 2,000 sequences "
        "of 1,000 test images), where the network of 2016 has 1.05, counting the digits 4.00"
    ) in headline


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.6123, "0.612"), (1.0, "1.00"), (11.94, "11.9"), (123.4, "123"), (1234.5, "1,234"),
        (-0.05, "-0.0500"), (0.0, "0.00"), (None, "missing"),
    ],
)  # fmt: skip
def test_numbers_have_three_significant_digits(value: float | None, text: str) -> None:
    assert formatting.number(value) == text


@pytest.mark.parametrize(
    "expected",
    [
        "# crnn-search report: night",
        "| mnistCRNN README, 2016 (published, other sequences) | 1.17 | – | – | – |",
        "| mnistCRNN README, 2018 (ImageNet MobileNet) (published, other sequences) | 0.65 |",
        "2 epochs of 700 sequences of all 60,000 training images",
        "```yaml\nconv_channels: [4]\nkernel_size: [5]",
        "| trial 3 | 1.23 | 1.25 | 0.071 | 2 |",
        "| network of 2016 | 0 | ",
        "| ensemble of its 2 seeds | ",
        "An ensemble, the mean of the predictions of the winner's 2 seeds, has an RMSE of ",
        "for 2 times the time to predict a sequence (2 × ",
        "Intervals of ensembles are for other images and these very networks.",
        "| early stopping saved | 2 | 3 | 30 s | 3 s |",
        "| the end of the search cut | 0 | 0 | 0 s | 0 s |",
        "Longer than any sequence of training: 140 further sequences of the same test images.",
        "| digits | sequences | winner | 95 % interval | MAE | exact sums | ensemble | network of",
        "| digits | sequences | winner | 95 % interval | MAE | exact sums | network of 2016 | coun",
        "\n| 20 | 20 | ",
        "| position | steps | RMSE of the step | mean error |",
        "![The worst sequences](plots/worst.png)",
        "| 3 (winner) | completed | 3 | ",
        "| epochs | reached | continued | best RMSE | median RMSE |",
        "**Warning: the retraining budget, 2 epochs of 700 sequences, is below a trial's, 3 epochs",
        "12 completed, 2 stopped early, 2 failed. Early stopping saved 7.1 % of the epochs",
        "Infeasible samples, drawn again: 1.",
        "- 2 × `diverged: training loss 'nan' | <script>`\n",
        "| finalists, repeated | 1 min 40 s | 0 s |",
        "| completed trials | 6 min 00 s | 36 s |",
        "Wall time: start 2 s, search 1 min 30 s, finalists 30 s, retrain 2 h 13 min.",
        "| `learning_rate` |",
        "```console\ncrnn-search launch quick.yaml\ncrnn-search report ",
        "- commit: missing, not run from a checkout",
        "- arithmetic: float32, compiled kernels; test predictions in float32\n",
        "- node: CPU model missing, cores 2, GPUs 0, memory 7.5 GB",
        "- versions: torch 2.0",
    ],
)
def test_markdown_has(expected: str, reported: RunFolder) -> None:
    assert expected in reported.report_markdown.read_text()


def test_no_doubt_is_no_warning(written: Any, reported: RunFolder) -> None:
    written["warnings"] = []
    assert "Warning" not in to_markdown(written, reported)
    assert "WARNING" not in summary(written)


def test_different_arithmetics_are_a_warning(written: Any, reported: RunFolder) -> None:
    written["arithmetics"] = {
        "float32": ["trial-0003"],
        "bfloat16": [f"trial-{number:04d}" for number in range(7)],
    }
    written["warnings"] = doubts.different_arithmetics(written["arithmetics"])
    text = to_markdown(written, reported)
    assert (
        "**Warning: trials trained in different arithmetics, so that their RMSEs differ by more "
        "than their configurations and seeds: 7 in bfloat16 (trial-0000, trial-0001, trial-0002, "
        "trial-0003, trial-0004 and 2 more); 1 in float32 (trial-0003)**\n"
    ) in text
    line = "- arithmetic: float32, compiled kernels; really used: float32 and bfloat16; test"
    assert line in text
    assert (
        "  WARNING         trials trained in different arithmetics, see the report"
        in summary(written).splitlines()
    )


def test_markdown_has_a_row_for_every_length(written: Any, reported: RunFolder) -> None:
    lines = to_markdown(written, reported).splitlines()
    assert len(written["test"]["rmse_by_length"]) == 5
    for length, rmse in written["test"]["rmse_by_length"].items():
        row = next(line for line in lines if line.startswith(f"| {length} |"))
        blind = written["baselines"]["count_only"]["rmse_by_length"][length]
        count = written["test"]["sequences_by_length"][length]
        assert row.startswith(f"| {length} | {count} | {formatting.number(rmse)} |")
        assert row.endswith(f"| {formatting.number(blind)} |")


def test_more_than_ten_reasons_of_failures_are_counted(written: Any, reported: RunFolder) -> None:
    written["trials"]["failures"] = [
        {"reason": f"reason {n}", "count": 2, "numbers": [n]} for n in range(13)
    ]
    text = to_markdown(written, reported)
    assert "- 2 × `reason 9`\n- 6 for other reasons, all in report.json" in text
    written["trials"]["failures"] = []
    assert "No trial failed." in to_markdown(written, reported)


@pytest.mark.parametrize(
    ("changes", "row"),
    [
        ({"validation_rmse_by_seed": []}, "| trial 3 | 1.23 | not repeated | – | 0 |"),
        (
            {
                "validation_rmse_by_seed": [0.0, None],
                "validation_rmse": None,
                "failure": "diverged\nat epoch 2",
            },
            "| trial 3 | 1.23 | failed: `diverged` | – | 2 |",
        ),
        (
            {"validation_rmse_by_seed": [0.0, 0.0], "validation_rmse": 0.0},
            "| trial 3 | 1.23 | 0.00 | 0 | 2 |",
        ),
    ],
)
def test_finalists(written: Any, changes: dict[str, Any], row: str, reported: RunFolder) -> None:
    written["finalists"] = [written["finalists"][0] | changes]
    assert row in to_markdown(written, reported).splitlines()


def test_earlier_reports_of_an_extended_search(written: Any, reported: RunFolder) -> None:
    earlier = {"trials": 8, "rmse": 0.9, "rmse_interval": [0.8, 1.0]}
    written["run"]["earlier_reports"] = [earlier]
    assert "test RMSE 0.900 after 8 trials (95 % interval 0.800 to 1.00). Every choice" in (
        to_markdown(written, reported)
    )


@pytest.mark.parametrize("name", ["reported", "own_reported"])
def test_html_needs_no_other_file(name: str, request: pytest.FixtureRequest) -> None:
    run: RunFolder = request.getfixturevalue(name)
    assert run.report_html.stat().st_size < 6_000_000
    page = run.report_html.read_text()
    start, end = page.index("/**\n* plotly.js"), page.rindex('<script>\n"use strict"')
    page = page[:start] + page[end:]
    assert not re.search(r"""(src|href)=["'](?!data:image/png;base64,|#)""", page)
    assert page.count("<img ") == page.count('src="data:image/png;base64,') >= 52
    assert f"<title>crnn-search report: {run.name}</title>" in page
    assert "prefers-color-scheme: dark" in page


def test_summary_is_short_and_plain(written: Any) -> None:
    written["test"] |= {"rmse": 0.61234, "rmse_interval": [0.551, 0.6789]}
    text = summary(written)
    assert "test RMSE       0.612  (95 % interval 0.551 to 0.679)" in text
    assert "12 completed, 2 stopped early, 2 failed" in text
    assert text.startswith("night: sums of 1 to 5 digits\n")
    lines = [line for line in text.splitlines() if "WARNING" not in line]
    assert len(lines) <= 16
    assert max(map(len, lines)) <= 90


def test_no_text_of_a_run_is_markup(written: Any, reported: RunFolder) -> None:
    name = "*a* [b](http://c) <script> | `d` \x1b[31m"
    written["run"]["name"] = name
    written["run"]["command"] = "crnn-search launch '\n```\n<script>'"
    written["run"]["hardware"]["nodes"][0]["cpu_model"] = "<b>x</b>"
    written["finalists"][0] |= {"validation_rmse": None, "failure": "a | b\nc"}
    text = to_markdown(written, reported)
    assert "````console\ncrnn-search launch '\n```\n<script>'\ncrnn-search report " in text
    page = to_html(written, reported)
    assert "<h1>crnn-search report: *a* [b](http://c) &lt;script&gt; | `d` \\x1b[31m</h1>" in page
    assert "CPU &lt;b&gt;x&lt;/b&gt;, cores 2" in page
    assert "<code>a | b</code></td>" in page
    assert page.count("<script") == 4


def test_a_long_name_or_reason_is_cut(written: Any, reported: RunFolder) -> None:
    written["run"]["name"] = "n" * 5000
    written["trials"]["failures"] = [{"reason": "r" * 5000, "count": 1, "numbers": [1]}]
    text = to_markdown(written, reported)
    assert "n" * 201 not in text
    assert "r" * 201 not in text


@pytest.mark.parametrize(
    "expected",
    [
        "**The retrained winner predicts `height` of `plants` with an RMSE of 18.5 mm (95 % inter",
        "36 sequences of 70 test images), where the default network has 18.6 mm, least squares on "
        "the length 0.981 mm and guessing the mean 8.76 mm.**\n",
        "\n**Warning: 2 identical images are in more than one split**\n",
        "\n|  | RMSE (mm) | 95 % interval | SD over seeds | MAE (mm) | R² |\n",
        "\n| **retrained winner** | 18.5 | ",
        "\n| the default network, trained in this run | 18.6 | ",
        "\n| least squares on the length, in training and validation | 0.981 | ",
        "\n| guess the mean of training and validation | 8.76 | ",
        "Winner and default network had the same budget: 2 epochs of all 50 sequences of training "
        "and validation that are not too long. On the same",
        "the RMSE of the default network less the winner's is 0.113 mm (95 %",
        "first seed, chosen before any was scored: RMSE 18.6 mm.",
        "Intervals resample the 12 test *groups*, not sequences,",
        "\n## Test RMSE by length (mm)\n\nBins of lengths hold about equally many test sequences.",
        "\n| images | sequences | winner | 95 % interval | MAE | ensemble | default network | ",
        "Intervals of ensembles are for other groups and these very networks.",
        "Other lengths are not tried: the data set has no other test sequences.",
        "Left out: a target is of a whole sequence, and what each image adds to it is not known.",
        "\n| 1–3 | 8 | 5.13 | ",
        "\n## Data\n\n`plants`:\n\n|  | found |\n| --- | --- |\n| sequences | 86 in 29 groups |\n",
        "\n| size | 8 × 10; 3 had another size and were ... |\n",
        "\n| height (mm) | sequences | mean | SD | least | 25 % | median | 75 % | greatest |\n",
        "\n| training and validation | 50 | ",
        "\n22 sequences of training and validation have more images than the winner's "
        "`max_sequence_length`, 8; the winner was not trained on them (`longer: drop`).",
        "parameters, validation RMSE 1.25 mm.",
        "## Finalists and seeds\n\nValidation RMSE (mm). The best",
        "16 trials of at most 3 epochs of at most 500 sequences",
        "| retraining of winner and default network | ",
        "\n- data: file, SHA-256 0123\n",
    ],
)
def test_own_markdown_has(expected: str, own_reported: RunFolder) -> None:
    assert expected in own_reported.report_markdown.read_text()


ONLY_SUMS = ("exact", "published", "digit", "60,000", "count", "MNIST", "sums")


@pytest.mark.parametrize("word", ONLY_SUMS)
def test_what_is_true_of_sums_alone_appears_only_there(
    word: str, own_reported: RunFolder, own_written: Any, reported: RunFolder
) -> None:
    text = own_reported.report_markdown.read_text()
    assert word.casefold() not in (text + summary(own_written)).casefold()
    assert word.casefold() in reported.report_markdown.read_text().casefold()


def test_summary_of_own_data(own_written: Any) -> None:
    assert summary(own_written).splitlines()[:10] == [
        "day: plants: height",
        f"  test RMSE       18.5 mm  (95 % interval {interval(own_written)})",
        "                  mean of 2 seeds, SD 0.093, 36 sequences of 70 images",
        "  exported model  18.6 mm  (first seed)",
        f"  ensemble        18.5 mm  (95 % interval {interval(own_written, 'ensemble')}; "
        "2 networks, 2 times the work)",
        "  MAE             16.3 mm",
        "  R²              -3.477",
        "  default network 18.6 mm  (same run, same budget)",
        "  length only     0.981 mm",
        "  guess the mean  8.76 mm",
    ]
    assert summary(own_written).endswith(
        "\n  WARNING         data: 2 identical images are in more than one split"
    )


def interval(report: dict[str, Any], score: str = "test") -> str:
    return formatting.interval(report[score]["rmse_interval"])


def test_a_target_without_unit(own_written: Any, own_reported: RunFolder) -> None:
    own_written["task"]["unit"] = None
    text = to_markdown(own_written, own_reported)
    assert "with an RMSE of 18.5 (95 %" in text
    assert "|  | RMSE | 95 % interval | SD over seeds | MAE | R² |" in text
    assert "| height | sequences |" in text
    assert not re.search(r"\bmm\b", text)


def test_the_network_of_2016_on_own_data(own_written: Any, own_reported: RunFolder) -> None:
    own_written["baselines"]["mnist_crnn_2016"] = own_written["baselines"].pop("default")
    own_written["baseline_name"], own_written["warnings"] = "mnist_crnn_2016", []
    text = to_markdown(own_written, own_reported)
    assert "| mnistCRNN's network of 2016, trained in this run | 18.6 |" in text
    assert "default network" not in text
    assert "  2016 network    18.6 mm  (same run" in summary(own_written)
    own_written["best_config"] = own_written["baseline_config"]
    assert "They are the same network" in to_markdown(own_written, own_reported)


def test_data_of_one_length_have_no_section_of_lengths(
    own_written: Any, own_reported: RunFolder
) -> None:
    del own_written["baselines"]["length_only"]
    own_written["test"]["rmse_by_length"] = {"7": 1.0}
    text = to_markdown(own_written, own_reported)
    assert "by length" not in text
    assert "where the default network has 18.6 mm and guessing the mean 8.76 mm.**" in text
    assert "length only" not in text + summary(own_written)


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        (36, "Intervals resample the 36 test *sequences* (infinitesimal jackknife), and add"),
        (1, "Intervals are missing: all test sequences are of one group."),
    ],
)
def test_what_intervals_resample(
    own_written: Any, groups: int, words: str, own_reported: RunFolder
) -> None:
    own_written["test"]["groups"] = groups
    assert words in to_markdown(own_written, own_reported)


def test_intervals_of_one_group_are_missing(own_written: Any, own_reported: RunFolder) -> None:
    own_written["test"] |= {"groups": 1, "rmse_interval": None}
    own_written["ensemble"] |= {"rmse_interval": None}
    own_written["improvement"]["interval"] = None
    text = to_markdown(own_written, own_reported)
    assert "(95 % interval missing; mean of 2 seeds" in text
    assert "(95 % interval, paired, missing)" in text


@pytest.mark.parametrize(
    ("longer", "count", "words"),
    [
        ("first", 3, "3 sequences of training and validation have more images than the winner's "
         "`max_sequence_length`, 8; the winner was trained on their first images (`longer: first`"),
        ("last", 3, "the winner was trained on their last images (`longer: last`)."),
        ("drop", 0, "No sequence of training and validation has more images than the winner's "
         "`max_sequence_length`, 8 (`longer: drop`)."),
    ],
)  # fmt: skip
def test_the_rule_for_longer_sequences(
    own_written: Any, longer: str, count: int, words: str, own_reported: RunFolder
) -> None:
    own_written["data"] |= {"longer": longer, "longer_sequences": count}
    assert words in to_markdown(own_written, own_reported)


def test_an_epoch_of_some_of_the_sequences(own_written: Any, own_reported: RunFolder) -> None:
    own_written["retrained"]["epoch_sequences"] = 20
    own_written["data"]["longer"] = "last"
    expected = "2 epochs of 20 of the 50 sequences of training and validation. On the same"
    assert expected in to_markdown(own_written, own_reported)


@pytest.mark.parametrize(
    "odd",
    [
        "a | b", "# a", "*a* _b_ `c` ~~d~~", "[a](http://b) <script>", "<b>x</b>", "a\nb\n\n- c",
        "``` a", "\x1b[31m", "n" * 5000, "$x_1$", "1. a", "![a](b)", "&lt;", "\\", "a\\|b", "|||",
    ],
)  # fmt: skip
def test_no_name_of_own_data_is_markup(own_written: Any, own_reported: RunFolder, odd: str) -> None:
    before = shape(to_html(own_written, own_reported))
    own_written["task"] |= {"name": odd, "target": odd, "unit": odd}
    own_written["data"]["facts"][1] = [odd, odd]
    own_written["warnings"][-1]["text"] = odd
    page, text = (made(own_written, own_reported) for made in (to_html, to_markdown))
    assert shape(page) == before
    assert "\x1b" not in text + summary(own_written)
    assert "n" * 201 not in text + summary(own_written)
    assert len(summary(own_written).splitlines()) == 14 + len(own_written["warnings"])


def shape(page: str) -> list[str]:
    """All tags of a page, without what is in them, and without scripts."""
    page = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    return re.findall(r"</?[a-z0-9]+", page)
