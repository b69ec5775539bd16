"""The table of deviations from the paper in a report."""

from __future__ import annotations

from typing import Any

import pytest

from mem.config import Initial, Mem, Study
from mem.config.load import load_study
from mem.report.ablation import flatten
from mem.report.deviations import MEM, MEM_HINTS, NOT_STATED, deviations, ranked_deviations
from tests.conftest import REPOSITORY

PAPER = REPOSITORY / "config" / "paper"


def table(study: Study) -> dict[str, tuple[str, str]]:
    header, *lines = deviations(study)
    assert header == ["setting", "paper", "this study"]
    found = {setting: (paper, own) for setting, paper, own in lines}
    assert len(found) == len(lines)
    return found


def recipe(name: str, change: dict[str, Any] | None = None) -> dict[str, tuple[str, str]]:
    return table(load_study([PAPER / f"{name}.yaml"], change or {}))


def test_an_additive_weight_departs_from_equation_8_and_a_factor_does_not():
    additive = recipe("imagenet_lt_vit_base", {"heads": {"mem": {"weight": "additive"}}})
    assert additive["mem: weight"] == ("multiplies the logits (eq. 8)", "additive")
    factor = recipe("imagenet_lt_vit_base")
    assert factor["mem: weight"] == ("multiplies the logits (eq. 8); its activation is not stated", "free")


def test_the_default_reading_is_reported_as_a_departure():
    found = table(load_study([REPOSITORY / "config" / "fashion_lt.yaml"]))
    assert found["mem: weight"] == ("multiplies the logits (eq. 8)", "additive")
    assert found["finetune.weight_decay"] == ("0.05", "0.3")
    assert found["mem: norms"] == ("raw (eq. 7)", "scaled")


@pytest.mark.parametrize(
    ("change", "setting", "expected"),
    [
        ({"finetune": {"weight_decay": 0.3}}, "finetune.weight_decay", ("0.05", "0.3")),
        ({"finetune": {"sampler": "sqrt"}}, "finetune.sampler", ("instance", "sqrt")),
        ({"finetune": {"warmup_epochs": 0}}, "finetune.warmup_epochs", ("5", "0")),
        ({"finetune": {"layer_decay": 1.0}}, "finetune.layer_decay", ("as He et al. (2022): 0.65 to 0.75", "1 (none)")),
        (
            {"finetune": {"step_decay": {"every_epochs": 30, "factor": 0.1}}},
            "finetune.step_decay",
            ("cosine schedule", "factor 0.1 every 30 epochs"),
        ),
        (
            {"finetune": {"step_decay": {"at_epochs": [20, 30], "factor": 0.1}}},
            "finetune.step_decay",
            ("cosine schedule", "factor 0.1 at epochs 20, 30"),
        ),
        (
            {"pretrain": {"step_decay": {"every_epochs": 30, "factor": 0.1}}},
            "pretrain.step_decay",
            ("cosine schedule", "factor 0.1 every 30 epochs"),
        ),
        ({"pretrain": {"epochs": 100}}, "pretrain.epochs", ("400", "100")),
        ({"pretrain": None}, "pretrain", ("400 epochs, or none in table 5", "none")),
        ({"heads": {"mem": {"reo_weight": 0.1}}}, "mem: reo_weight", ("1 (eq. 10)", "0.1")),
        ({"heads": {"mem": {"training": {"epochs": 30}}}}, "mem: training.epochs", ("10 (table 5)", "30")),
    ],
)
def test_a_setting_that_differs_from_the_paper_is_in_the_table(change, setting, expected):
    assert setting not in recipe("imagenet_lt_vit_base")
    assert recipe("imagenet_lt_vit_base", change)[setting] == expected


def test_experts_are_one_setting(mini_values):
    mini_values["features"]["tokens"] = False
    mini_values["finetune"]["experts"] = {"number": 3, "own_from": "blocks.1"}
    mini_values["heads"] = {"ce": None}
    found = {name: cells for name, cells in table(Study.model_validate(mini_values)).items() if "experts" in name}
    assert found == {"finetune.experts": ("none", "3, each with its own blocks.1")}


FINETUNED = {"method": "finetuned", "finetuning": "balanced"}
VARIANTS = {"balanced": {"objective": {"name": "logit_adjustment", "tau": 1.5}, "weight_decay": 0.3, "base_lr": 0.5}}


def test_a_variant_of_finetuning_has_a_line_for_each_setting_that_differs_from_finetune():
    change = {"finetune": {"epochs": 50}, "finetune_variants": VARIANTS, "heads": {"end_to_end": FINETUNED}}
    found = recipe("imagenet_lt_vit_base", change)
    sections = {name: cells for name, cells in found.items() if name.startswith("finetune")}
    assert sections == {
        "finetune.epochs": ("100", "50"),
        "finetune_variants.balanced.objective": ("cross_entropy", "logit_adjustment, tau 1.5"),
        "finetune_variants.balanced.weight_decay": ("0.05", "0.3"),
        "finetune_variants.balanced.base_lr": ("not stated", "0.5"),
    }


def test_a_finetuning_that_no_head_uses_has_no_line(mini_values):
    mini_values["finetune_variants"] = VARIANTS
    mini_values["heads"] = {"end_to_end": FINETUNED}
    found = table(Study.model_validate(mini_values))
    sections = {name: cells for name, cells in found.items() if name.startswith("finetune")}
    # Without lines for `finetune`, the variant has a line for every difference from the paper.
    assert sections == {
        "finetune_variants.balanced.objective": ("cross_entropy", "logit_adjustment, tau 1.5"),
        "finetune_variants.balanced.weight_decay": ("0.05", "0.3"),
        "finetune_variants.balanced.epochs": ("100", "6"),
        "finetune_variants.balanced.warmup_epochs": ("5", "1"),
    }


def test_the_finetuning_of_a_head_is_not_a_setting_of_mem(mini_values):
    mini_values["finetune_variants"] = {"short": {"epochs": 3}}
    mini_values["heads"] |= {"ce_short": {"method": "ce", "finetuning": "short"}}
    mini_values["heads"]["mem"] |= {"finetuning": "short", "classifier_from": "ce_short"}
    found = table(Study.model_validate(mini_values))
    assert "mem: finetuning" not in found
    assert found["finetune_variants.short.epochs"] == ("100", "3")


def test_a_recipe_has_no_deviation_in_what_the_paper_states():
    recipes = [path.stem for path in PAPER.glob("*.yaml") if path.stem[:6] in ("imagen", "inat18", "places")]
    assert len(recipes) == 12
    for name in recipes:
        sections = [line for line in recipe(name) if line.startswith(("pretrain", "finetune", "initial", "shots"))]
        # The paper's settings for finetuning do not name ResNeXt-50, which follows Kang et al.
        assert sections == (["finetune.warmup_epochs", "finetune.weight_decay"] if "resnext50" in name else []), name
        assert not {"dataset", "backbone", "mem: partition", "mem: reo_weight", "mem: training.epochs"} & {
            *recipe(name)
        }


def test_places_lt_from_scratch_departs_from_the_paper():
    assert recipe("places_lt_vit_base", {"initial": None})["initial"][1] == "none"


def test_other_initial_weights_and_a_frozen_backbone_depart_from_the_paper():
    study = load_study([PAPER.parent / "foundation" / "dinov2_imagenet_lt.yaml"])
    found = table(study)
    assert study.initial is not None
    assert found["initial"] == ("pretraining on the dataset, or random weights", study.initial.weights)
    assert found["finetune"][1] == "none: the backbone is frozen"
    assert recipe("places_lt_vit_base", {"initial": {"weights": "mae_pretrain_vit_base"}})["initial"][1] == (
        "mae_pretrain_vit_base"
    )


def test_the_table_names_no_folders_of_the_machine():
    study = load_study([PAPER.parent / "foundation" / "dinov2_imagenet_lt.yaml"])
    in_folder, as_file = Initial(weights="local-dir:/srv/vit"), Initial(file="/srv/vit.pth")
    for initial, shown in ((in_folder, "local-dir:.../vit"), (as_file, ".../vit.pth")):
        found = table(study.model_copy(update={"initial": initial}))
        assert found["initial"] == ("pretraining on the dataset, or random weights", shown)


def test_every_setting_of_mem_is_stated_by_the_paper_or_in_the_table():
    study = load_study([PAPER / "imagenet_lt_vit_base.yaml"])
    head = study.heads["mem"]
    assert isinstance(head, Mem)
    effective = flatten(head.model_dump(exclude=set(head.without_effect())))
    in_table = {name.removeprefix("mem: ") for name in table(study) if name.startswith("mem: ")}
    hidden = {name for name in effective if name not in in_table and effective[name] is not None} - {"method"}
    assert hidden <= set(MEM)
    assert all(effective[name] in MEM[name][0] for name in hidden)
    assert len(in_table) > 10


def test_a_new_setting_of_mem_is_in_the_table_without_a_change_of_the_code():
    class Extended(Mem):
        """Mem with one more setting."""

        invented: int = 3

    study = load_study([PAPER / "imagenet_lt_vit_base.yaml"])
    head = study.heads["mem"]
    extended = study.model_copy(update={"heads": {"mem": Extended(**head.model_dump())}})
    assert table(extended)["mem: invented"] == (NOT_STATED, "3")


def test_the_paper_s_statements_are_about_settings_that_exist(mini_values):
    head = Study.model_validate(mini_values).heads["mem"]
    assert set(MEM) | set(MEM_HINTS) <= set(flatten(head.model_dump()))
    assert not set(MEM) & set(MEM_HINTS)


def test_deviations_are_ranked_and_separated_from_settings_that_the_paper_does_not_state(mini):
    differing, unstated = ranked_deviations(mini)
    assert sorted([*differing[1:], *unstated[1:]]) == sorted(deviations(mini)[1:])
    settings = [line[0] for line in differing[1:]]
    starts = list(dict.fromkeys("mem" if ":" in setting else setting.partition(".")[0] for setting in settings))
    assert starts == ["dataset", "backbone", "heads", "mem", "pretrain", "finetune"]
    assert all("not stated" not in line[1] for line in differing)
    assert all("not stated" in line[1] for line in unstated[1:])
