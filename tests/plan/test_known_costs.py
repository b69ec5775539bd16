"""Costs of models and the rate of a core, which a later plan reads from a file."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest

from mem.config import BiasTuner, Experts
from mem.config.load import load_study
from mem.errors import UserError
from mem.plan import answers, core_rate, known_costs
from mem.plan.answers import FOLDER_VARIABLE, answers_folder, recall, remembered, store
from mem.plan.hours import CoreRate, Rates
from mem.plan.render import render_plan
from mem.plan.text import estimate_study
from tests.conftest import REPOSITORY

MINI = REPOSITORY / "tests" / "mini.yaml"
QUESTION = {"kind": "test"}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    """The folder for answers, which does not exist yet."""
    folder = tmp_path / "answers"
    monkeypatch.setenv(FOLDER_VARIABLE, str(folder))
    return folder


def plan(changes: dict | None = None) -> str:
    study = load_study([MINI], changes)
    rates = Rates(core_gflops=50)
    return render_plan(study, *estimate_study(study, {}, rates), rates, 1e12)


@pytest.fixture
def nothing_is_counted(monkeypatch):
    def refuse() -> ModuleType:
        raise AssertionError("a cost is counted")

    monkeypatch.setattr(known_costs, "_model_costs", refuse)


def test_a_second_plan_of_a_study_counts_nothing_and_is_the_same(folder, request):
    first = plan()
    assert len(list(folder.iterdir())) >= 3
    request.getfixturevalue("nothing_is_counted")
    assert plan() == first


@pytest.mark.parametrize(
    "changes",
    [
        {"backbone": {"depth": 3}},
        {"pretrain": {"decoder": {"width": 48}}},
        {"pretrain": {"mask_ratio": 0.75}},
        {"finetune": {"precision": "bf16"}},
        {"heads": {"mem": {"width": 24}}},
        {"shots": {"many_above": 10, "few_below": 5}},
    ],
)
def test_another_model_is_counted(changes, request):
    plan()
    request.getfixturevalue("nothing_is_counted")
    with pytest.raises(AssertionError, match="a cost is counted"):
        plan(changes)


@pytest.mark.parametrize(
    "changes",
    [{"drop_path": 0.0}, {"cosine_scale": 16.0}, {"experts": Experts(number=2)}, {"tuner": BiasTuner(name="bias")}],
)
def test_another_network_is_counted(changes, mini, request):
    known_costs.classifier_cost(mini, mini.finetune, 10)
    request.getfixturevalue("nothing_is_counted")
    with pytest.raises(AssertionError, match="a cost is counted"):
        known_costs.classifier_cost(mini, mini.finetune.model_copy(update=changes), 10)


def test_settings_that_do_not_change_the_network_count_nothing(request):
    first = plan()
    request.getfixturevalue("nothing_is_counted")
    assert plan({"finetune": {"base_lr": 0.5, "epochs": 2}}) != first


def test_a_head_that_requires_a_linear_classifier_is_refused_after_a_plan_with_one(mini):
    cosine = mini.model_copy(update={"finetune": mini.finetune.model_copy(update={"cosine_scale": 16.0})})
    backbone = known_costs.classifier_cost(mini, mini.finetune, 10)
    known_costs.head_cost(mini, mini.heads["lws"], 10, backbone)
    with pytest.raises(UserError, match="is a cosine classifier"):
        known_costs.head_cost(cosine, mini.heads["lws"], 10, backbone)


def test_a_custom_module_is_always_counted(folder, tmp_path, monkeypatch):
    counted: list[str] = []
    count = known_costs._model_costs
    monkeypatch.setattr(known_costs, "_model_costs", lambda: counted.append("count") or count())
    (tmp_path / "module.py").write_text(
        "import torch\n\nclass Module(torch.nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.layer = torch.nn.Linear(3, 4)\n\n    def forward(self, images):\n"
        "        return self.layer(images.mean((2, 3)))\n"
    )
    backbone = {"kind": "module", "name": "own", "image_size": 16, "center_crop": 1.0}
    backbone["module"] = f"{tmp_path / 'module.py'}:Module"
    training = {"epochs": 1, "global_batch": 8, "optimizer": "sgd", "lr": 0.1, "weight_decay": 0, "sampler": "instance"}
    study = load_study(
        [MINI],
        {"backbone": backbone, "pretrain": None, "finetune": None, "heads": {"ce": {"training": training}}},
    )
    for _ in range(2):
        known_costs.classifier_cost(study, study.finetune, 10)
    assert len(counted) == 2
    assert not folder.exists()


def test_answers_of_other_versions_are_not_used(monkeypatch):
    store(QUESTION, {"value": 1})
    assert recall(QUESTION) == {"value": 1}
    monkeypatch.setattr(answers, "_versions", lambda: {"mem": "another"})
    assert recall(QUESTION) is None


def test_changed_code_is_another_version(monkeypatch):
    before = answers._source_digest()
    monkeypatch.setattr(answers, "_SOURCES", (*answers._SOURCES, "style.py"))
    assert answers._source_digest() != before


@pytest.mark.parametrize("content", ["", "{", "[]", '{"question": {}, "answer": {"value": 2}}', "null"])
def test_a_damaged_file_is_replaced(folder, content):
    store(QUESTION, {"value": 1})
    (path,) = folder.iterdir()
    path.write_text(content)
    assert recall(QUESTION) is None
    assert remembered(QUESTION, lambda: {"value": 1}) == {"value": 1}
    assert json.loads(path.read_text())["answer"] == {"value": 1}


def test_a_folder_that_cannot_be_written_is_not_an_error(folder):
    folder.write_text("this is a file")
    assert remembered(QUESTION, lambda: {"value": 1}) == {"value": 1}
    assert recall(QUESTION) is None


def test_nothing_is_stored_if_the_variable_is_empty(monkeypatch, tmp_path):
    monkeypatch.setenv(FOLDER_VARIABLE, "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert remembered(QUESTION, lambda: {"value": 1}) == {"value": 1}
    assert answers_folder() is None
    monkeypatch.delenv(FOLDER_VARIABLE)
    assert answers_folder() == tmp_path / ".cache" / "mem" / "plan"


def test_a_measured_rate_is_used_again(monkeypatch):
    idle = CoreRate(50.0, 0.1, 2, 1.0)
    monkeypatch.setattr(core_rate, "measure_core", lambda: idle)
    assert core_rate.core_rate() == idle
    monkeypatch.setattr(core_rate, "measure_core", lambda: CoreRate(1.0, 9.0, 2, 0.1))
    again = core_rate.core_rate()
    with monkeypatch.context() as patch:
        patch.setattr(core_rate, "vector_instructions", lambda: "other")
        assert core_rate.core_rate().gflops == 1.0, "the rate of another processor of the same name"
    assert (again.gflops, again.load, again.cores, again.share) == (50.0, 0.1, 2, 1.0)
    rates = Rates(core_gflops=50, measured=again)
    study = load_study([MINI])
    assert f"(measured on {again.date} at load 0.1 on 2 cores; --core-gflops)" in render_plan(
        study, *estimate_study(study, {}, rates), rates, 1e12
    )


def test_the_rate_of_a_busy_machine_is_measured_again(monkeypatch):
    monkeypatch.setattr(core_rate, "measure_core", lambda: CoreRate(1.0, 9.0, 2, 0.1))
    assert core_rate.core_rate().gflops == 1.0
    monkeypatch.setattr(core_rate, "measure_core", lambda: CoreRate(50.0, 0.1, 2, 1.0))
    assert core_rate.core_rate().gflops == 50.0
