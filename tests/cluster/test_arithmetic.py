"""The one arithmetic of all trials: what is stated, else what every node can."""

from __future__ import annotations

import platform
from typing import Any

import pytest
import torch

from crnn_search.cluster import arithmetic
from crnn_search.cluster.arithmetic import (
    Ability,
    common_arithmetic,
    probe_ability,
    resolve_arithmetic,
    trial_device,
)
from crnn_search.cluster.nodes import Node, NoResult
from crnn_search.cluster.resources import Allocation
from crnn_search.hyperparameters import Arithmetic
from crnn_search.spaces.sections import ResourcesSpec

BOTH = Ability("both", bfloat16=True, kernels_problem=None)
NO_BFLOAT16 = Ability("old", bfloat16=False, kernels_problem=None)
NO_COMPILER = Ability("bare", bfloat16=True, kernels_problem="there is no compiler")
AUTO = ResourcesSpec()
ON_CPUS, ON_GPUS = Allocation(1, 0.0, 4), Allocation(1, 0.25, 4)


@pytest.mark.parametrize(
    ("abilities", "expected", "message"),
    [
        ([BOTH, BOTH], Arithmetic("bfloat16", True), None),
        ([NO_BFLOAT16, NO_BFLOAT16], Arithmetic("float32", True), None),
        ([BOTH, NO_BFLOAT16], Arithmetic("float32", True), "float32: old has no native bfloat16"),
        ([BOTH, NO_COMPILER], Arithmetic("bfloat16", False), "bare: there is no compiler"),
        ([], Arithmetic("float32", False), None),
    ],
)
def test_nodes_of_different_abilities_get_a_common_arithmetic(
    abilities: list[Ability], expected: Arithmetic, message: str | None
) -> None:
    notes: list[str] = []
    assert common_arithmetic(AUTO, abilities, False, notes.append) == expected
    assert len(notes) == (message is not None)
    assert (message or "") in "".join(notes)


def test_stated_arithmetic_wins_and_emulation_is_message() -> None:
    notes: list[str] = []
    stated = ResourcesSpec(precision="bfloat16", cpu_kernels="off")
    expected = Arithmetic("bfloat16", cpu_kernels=False)
    assert common_arithmetic(stated, [BOTH, NO_BFLOAT16], False, notes.append) == expected
    assert notes == ["resources.precision: bfloat16 is emulated, which is slow, on old"]
    stated = ResourcesSpec(precision="float32")
    expected = Arithmetic("float32", cpu_kernels=True)
    assert common_arithmetic(stated, [BOTH], False, pytest.fail) == expected


def test_trials_on_gpus_have_no_cpu_kernels() -> None:
    expected = Arithmetic("bfloat16", cpu_kernels=False)
    assert common_arithmetic(AUTO, [NO_COMPILER], True, pytest.fail) == expected


def test_nothing_is_probed_if_all_is_stated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arithmetic, "nodes", lambda: pytest.fail("nodes were probed"))
    stated = ResourcesSpec(precision="float32", cpu_kernels="off")
    assert resolve_arithmetic(stated, ON_CPUS, pytest.fail) == Arithmetic()
    stated = ResourcesSpec(precision="float32")
    assert resolve_arithmetic(stated, ON_GPUS, pytest.fail) == Arithmetic()


def node(name: str, cpus: float = 4, gpus: float = 0) -> Node:
    return Node(f"id of {name}", name, cpus, gpus, 8.0)


class Cluster:
    """A cluster that is not there: nodes by name, with their answers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, answers: dict[Node, Any]) -> None:
        self.probed: list[str] = []
        self.gpus = -1.0
        self.answers = answers
        monkeypatch.setattr(arithmetic, "nodes", lambda: list(answers))
        monkeypatch.setattr(arithmetic, "run_on_nodes", self.run_on_nodes)

    def run_on_nodes(
        self, targets: list[Node], function: Any, *arguments: Any, gpus: float, timeout_s: float
    ) -> list[tuple[Node, Any]]:
        assert function is probe_ability
        assert arguments == (gpus,)
        self.gpus = gpus
        self.probed += [node.name for node in targets]
        return [(node, self.answers[node]) for node in targets]


def test_only_nodes_that_run_trials_are_probed(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(
        monkeypatch,
        {node("head", cpus=0): NO_BFLOAT16, node("a"): BOTH, node("b"): BOTH},
    )
    found = resolve_arithmetic(AUTO, ON_CPUS, pytest.fail)
    assert (found, cluster.probed) == (Arithmetic("bfloat16", True), ["a", "b"])
    assert cluster.gpus == 0.0


def test_nodes_with_gpus_are_probed_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {node("cpus"): NO_BFLOAT16, node("gpu", gpus=1): BOTH}
    cluster = Cluster(monkeypatch, answers)
    found = resolve_arithmetic(AUTO, ON_GPUS, pytest.fail)
    assert (found, cluster.probed, cluster.gpus) == (Arithmetic("bfloat16"), ["gpu"], 0.01)


def test_node_that_does_not_answer_can_do_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    silent = NoResult("it does not answer within 180 s")
    Cluster(monkeypatch, {node("a"): BOTH, node("b"): silent})
    notes: list[str] = []
    assert resolve_arithmetic(AUTO, ON_CPUS, notes.append) == Arithmetic("float32", False)
    assert notes[0] == "b does not tell what it can compute in: it does not answer within 180 s"


def test_nodes_that_are_there_decide_before_any_that_runs_trials(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    notes: list[str] = []
    cluster = Cluster(monkeypatch, {node("head", cpus=0): BOTH})
    found = resolve_arithmetic(AUTO, ON_CPUS, notes.append)
    assert (found, cluster.probed) == (Arithmetic("bfloat16", True), ["head"])
    found = resolve_arithmetic(AUTO, ON_GPUS, notes.append)
    assert (found, cluster.probed) == (Arithmetic(), ["head"])
    assert len(notes) == 2
    assert "no node that runs trials has joined yet" in notes[0]
    assert "no node with a GPU has joined yet" in notes[1]


def test_single_local_node_is_probed_without_a_task(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch, {node(platform.node()): NO_COMPILER})
    monkeypatch.setattr(arithmetic, "probe_ability", lambda gpus: BOTH)
    found = resolve_arithmetic(AUTO, ON_CPUS, pytest.fail)
    assert (found, cluster.probed) == (Arithmetic("bfloat16", True), [])


@pytest.mark.parametrize("flags", [{"avx2"}, {"avx2", "avx512_bf16"}])
def test_ability_of_a_cpu(monkeypatch: pytest.MonkeyPatch, flags: set[str]) -> None:
    monkeypatch.setattr("crnn_search.training.device.cpu_flags", lambda: flags)
    monkeypatch.setattr("crnn_search.kernels.native.problem", lambda: "there is no compiler")
    expected = Ability(platform.node(), "avx512_bf16" in flags, "there is no compiler")
    assert probe_ability(0.0) == expected


def test_trial_without_a_gpu_runs_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert trial_device(0.0).type == "cpu"
    assert trial_device(0.25).type == "cuda"


def test_kernels_are_not_compiled_where_trials_run_on_another_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(arithmetic, "trial_device", lambda gpus: torch.device("mps"))
    monkeypatch.setattr("crnn_search.kernels.native.problem", lambda: pytest.fail("compiled"))
    assert probe_ability(0.0) == Ability(platform.node(), False, "trials run on its mps")
