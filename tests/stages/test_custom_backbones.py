"""Studies with a backbone that is not finetuned: a pretrained encoder, or a user-provided module."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from mem.config import Study
from mem.config.load import load_study
from mem.data.features.stored import open_split
from mem.errors import UserError
from mem.heads.build import load_head
from mem.models.backbones.frozen import load_user_module
from mem.report.results import from_csv
from mem.runs.dag import Run, study_runs
from tests.stages.custom_studies import HEADS, LINEAR_PROBE, MODULE, feature_file_study, frozen_study, module_study
from tests.stages.running import MINI_VALUES, find_run, run_study

# --- a pretrained encoder ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def frozen(tmp_path_factory) -> tuple[Path, list[Run]]:
    folder = tmp_path_factory.mktemp("frozen")
    return folder, run_study(folder, frozen_study(study="frozen"))


def test_features_can_come_from_a_pretrained_encoder_without_finetuning(frozen):
    folder, runs = frozen
    assert [run.stage for run in runs[:3]] == ["convert", "pretrain", "features"]
    assert "finetune" not in {run.stage for run in runs}
    assert set(find_run(runs, "features").inputs) == {"images", "encoder"}
    assert not (folder / find_run(runs, "features").folder / "classifier.safetensors").exists()
    rows = from_csv(folder / "results" / "frozen" / "report" / "results.csv")
    assert {row.variant for row in rows} == set(HEADS)
    assert all(row.all > 15 for row in rows if row.variant in ("ce", "crt"))  # chance level: 10 %


def test_heads_start_from_the_linear_probe(frozen):
    folder, runs = frozen
    probe = find_run(runs, "train_head", "ce")
    starts = {run.labels["variant"]: run.inputs.get("head") for run in runs if run.stage == "train_head"}
    crt = find_run(runs, "train_head", "crt")
    assert starts == {"ce": None, "crt": None, "tau": probe, "lws": probe, "mem": probe, "mem_on_crt": crt}
    weight = load_head(folder / probe.folder).get_parameter("weight")
    scaled = load_head(folder / find_run(runs, "train_head", "lws").folder)
    assert torch.equal(scaled.get_buffer("weight"), weight)


# --- a user-provided module -------------------------------------------------------------------------------------------


def test_a_custom_module_computes_the_features(tmp_path):
    runs = run_study(
        tmp_path, module_study(tmp_path, heads={"ce": LINEAR_PROBE, "mem": HEADS["mem"] | {"input": "tokens"}})
    )
    split = open_split(tmp_path / find_run(runs, "features").folder, "train")
    assert split.shape(tokens=True) == (17, 16)
    assert (tmp_path / "results" / "own_module" / "report" / "index.html").exists()


def test_the_key_depends_on_the_content_and_the_function_of_a_module_but_not_on_its_folder(tmp_path):
    def key(folder: Path, function: str = "backbone") -> str:
        return find_run(study_runs(Study.model_validate(module_study(folder, function))), "features").key

    (tmp_path / "elsewhere").mkdir()
    before = key(tmp_path)
    assert key(tmp_path / "elsewhere") == before
    assert key(tmp_path, "other") != before
    values = module_study(tmp_path)
    (tmp_path / "mine.py").write_text(MODULE.replace("relu", "tanh"))
    assert find_run(study_runs(Study.model_validate(values)), "features").key != before


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        ("nothing", "mine.py:nothing: returned int; expected a torch.nn.Module"),
        ("broken", "mine.py:broken: RuntimeError: weights are not here"),
        ("absent", "mine.py:absent: AttributeError"),
    ],
)
def test_a_function_that_does_not_return_a_module_is_named(tmp_path, function, expected):
    (tmp_path / "mine.py").write_text(MODULE)
    with pytest.raises(UserError, match=expected):
        load_user_module(tmp_path / "mine.py", function)


# --- invalid studies --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"heads": HEADS | {"ce": None}}, "heads.ce.training: is required, because nothing is finetuned"),
        ({"heads": {"crt": HEADS["crt"], "tau": HEADS["tau"]}}, "heads.tau: starts from a classifier"),
        ({"features": None}, "features: is required, because the dataset consists of images"),
        ({"backbone": {"name": "n", "kind": "none"}}, "dataset.source `features` requires backbone.kind `none`"),
    ],
)
def test_an_impossible_study_is_refused_when_it_is_loaded(tmp_path, change, expected):
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(frozen_study() | change))
    with pytest.raises(UserError, match=expected):
        load_study([tmp_path / "study.yaml"])


def test_settings_that_do_not_fit_a_frozen_backbone_are_refused(tmp_path):
    for values, expected in (
        (
            feature_file_study(tmp_path, pretrain=MINI_VALUES["pretrain"]),
            "pretrain: must be null, because the dataset consists",
        ),
        (module_study(tmp_path, finetune=MINI_VALUES["finetune"]), "kind `module` cannot be trained"),
        (
            module_study(tmp_path, backbone=module_study(tmp_path)["backbone"] | {"module": "mine"}),
            "path/to/file.py:func",
        ),
        (
            module_study(
                tmp_path,
                backbone={
                    "kind": "timm",
                    "name": "r",
                    "model": "resnet18",
                    "norm_batch": 4,
                    "image_size": 32,
                    "center_crop": 1.0,
                },
            ),
            "backbone.norm_batch: must be null",
        ),
    ):
        (tmp_path / "study.yaml").write_text(yaml.safe_dump(values))
        with pytest.raises(UserError, match=expected):
            load_study([tmp_path / "study.yaml"])
