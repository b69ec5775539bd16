"""Loading valid studies, and error messages for invalid studies."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

from mem.config import Mem
from mem.config.json_schema import study_schema
from mem.config.load import load_study, study_files
from mem.errors import UserError
from tests.config.studies import error_message
from tests.conftest import REPOSITORY

SHIPPED = sorted((REPOSITORY / "config").rglob("*.yaml"))


def line_of(path: Path, text: str) -> int:
    return next(i for i, line in enumerate(path.read_text().splitlines(), 1) if text in line)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_every_shipped_study_is_valid(path):
    assert load_study([path]).study == path.stem


def test_the_shipped_json_schema_is_up_to_date():
    shipped = (REPOSITORY / "workflow" / "schemas" / "study.schema.json").read_text()
    assert shipped == study_schema(), "run: mem config --schema > workflow/schemas/study.schema.json"
    assert json.loads(shipped)["title"] == "Study"


def test_an_unknown_key_is_reported_with_its_line_and_the_nearest_name(tmp_path, mini_values):
    mini_values["heads"]["mem"]["xii"] = 50
    message = error_message(tmp_path, mini_values)
    line = line_of(tmp_path / "study.yaml", "xii:")
    assert message.startswith(f"{tmp_path}/study.yaml:{line}: unknown key `heads.mem.xii`; did you mean `xi`?")
    assert "Allowed here: finetuning, method, partition," in message


def test_all_errors_are_listed(tmp_path, mini_values):
    mini_values["pretrain"]["epoch"] = 3
    mini_values["finetune"]["layer_decay"] = 1.5
    del mini_values["backbone"]["width"]
    message = error_message(tmp_path, mini_values)
    assert len(message.splitlines()) == 3
    assert "did you mean `epochs`?" in message
    assert "`finetune.layer_decay` is 1.5: input should be less than or equal to 1" in message
    assert "`backbone.width` is missing: Dimension of a token." in message


@pytest.mark.parametrize(
    ("section", "key", "value", "expected"),
    [
        ("pretrain", "epochs", "many", "`pretrain.epochs` is 'many': input should be a valid number"),
        ("pretrain", "mask_ratio", 1.0, "`pretrain.mask_ratio` is 1.0: input should be less than 1"),
        ("pretrain", "warmup_epochs", 9, "warmup_epochs (9) must be smaller than epochs (6)"),
        ("pretrain", "step_decay", {"factor": 0.1}, "specify either every_epochs or at_epochs"),
        ("pretrain", "step_decay", {"factor": 0.1, "at_epochs": [4, 2]}, "expected increasing epochs, got [4.0, 2.0]"),
        ("finetune", "precision", "fp16", "`finetune.precision` is 'fp16': input should be 'fp32' or 'bf16'"),
        ("backbone", "patch_size", 3, "image_size (8) must be a multiple of patch_size (3)"),
        (
            "dataset",
            "cut",
            {"counts": [5, 4], "seed": 0, "val_per_class": 1},
            "expected one count for each of the 10 classes, got 2",
        ),
        ("dataset", "source", "digit", "`dataset.source` is `digit`; did you mean `digits`?"),
        ("features", "augmentation", None, "views requires `augmentation`"),
        ("compute", "train_head", {"gpus_per_node": 4}, "train_head runs as one process, but nodes, gpus_per_node and"),
    ],
)
def test_an_invalid_value_is_reported(tmp_path, mini_values, section, key, value, expected):
    mini_values[section][key] = value
    message = error_message(tmp_path, mini_values)
    assert expected in message
    assert "Traceback" not in message


def test_an_invalid_value_is_reported_with_its_line(tmp_path, mini_values):
    mini_values["finetune"]["drop_path"] = -1
    message = error_message(tmp_path, mini_values)
    assert message.startswith(f"{tmp_path}/study.yaml:{line_of(tmp_path / 'study.yaml', 'drop_path')}: ")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"method": "memm"}, "`heads.mem.method` is `memm`; did you mean `mem`?"),
        ({"mu": 30}, "mu (30) must be smaller than xi (20)"),
        ({"groups": 4}, "partition `shot` has 3 groups, but groups is 4"),
        (
            {"classifier_from": "mem_on_crt"},
            "heads.mem.classifier_from: this study has no head `mem_on_crt` with a linear classifier",
        ),
    ],
)
def test_an_invalid_head_is_reported(tmp_path, mini_values, change, expected):
    mini_values["heads"]["mem"].update(change)
    assert expected in error_message(tmp_path, mini_values)


def test_a_head_on_tokens_requires_stored_tokens(tmp_path, mini_values):
    mini_values["features"]["tokens"] = False
    assert "heads.mem_on_crt.input: `tokens` requires `features.tokens: true`" in error_message(tmp_path, mini_values)


def test_a_duplicate_key_is_reported_with_its_first_line(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text("study: a\nseeds: [0]\nstudy: b\n")
    with pytest.raises(UserError, match=r"study\.yaml:3: invalid YAML: duplicate key `study`, first defined in line 1"):
        load_study([path])


def test_an_invalid_merged_or_listed_value_is_reported_with_the_line_where_it_is_written(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text("x: &shared\n  epochs: -1\npretrain:\n  <<: *shared\nseeds:\n  - 0\n  - one\n")
    with pytest.raises(UserError) as error:
        load_study([path])
    assert f"{path}:2: `pretrain.epochs` is -1: input should be greater than 0" in str(error.value)
    assert f"{path}:7: `seeds.1` is 'one': input should be a valid integer" in str(error.value)


def test_a_file_with_another_encoding_is_reported(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_bytes("description: Zürich".encode("latin-1"))
    with pytest.raises(UserError, match=r"study\.yaml: cannot read this file as a study: 'utf-8' codec can't decode"):
        load_study([path])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: [1", r"study\.yaml:1: invalid YAML"),
        ("- 1\n- 2\n", "a study must be a mapping of settings, but this file contains a list"),
        ("", "a study must be a mapping of settings, but this file contains nothing"),
    ],
)
def test_a_file_that_is_not_a_study_is_reported(tmp_path, text, expected):
    path = tmp_path / "study.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=expected):
        load_study([path])


def test_a_missing_study_is_reported_with_the_nearest_name():
    with pytest.raises(UserError, match=r"no such study; did you mean `.*digits_lt\.yaml`\?"):
        load_study([REPOSITORY / "config" / "digit_lt.yaml"])


def test_overrides_change_only_the_settings_that_they_name(mini_values):
    path = REPOSITORY / "tests" / "mini.yaml"
    plain = load_study([path])
    changed = load_study([path], {"heads": {"mem": {"xi": 50}}})
    assert isinstance(head := changed.heads["mem"], Mem)
    assert head.xi == 50
    restored = load_study([path], {"heads": {"mem": {"xi": 20}}})
    assert restored == plain != changed


def test_a_later_file_is_merged_over_an_earlier_one(tmp_path):
    over = tmp_path / "over.yaml"
    over.write_text("seeds: [3, 4]\npretrain: {epochs: 7}\n")
    study = load_study([REPOSITORY / "tests" / "mini.yaml", over])
    assert study.seeds == (3, 4)
    assert study.pretrain is not None
    assert (study.pretrain.epochs, study.pretrain.global_batch) == (7, 64)


def test_a_file_can_extend_another_with_only_the_differences(tmp_path):
    base, middle, top = tmp_path / "base.yaml", tmp_path / "sub" / "middle.yaml", tmp_path / "sub" / "top.yaml"
    middle.parent.mkdir()
    base.write_text((REPOSITORY / "tests" / "mini.yaml").read_text())
    middle.write_text("extends: ../base.yaml\npretrain: {epochs: 7}\nseeds: [5]\n")
    top.write_text("extends: middle.yaml\nstudy: top\nseeds: [3]\n")
    study = load_study([top])
    assert study.pretrain is not None
    assert (study.study, study.seeds, study.pretrain.epochs) == ("top", (3,), 7)
    assert load_study([middle], {"study": "top", "seeds": [3]}) == study


def test_null_removes_a_section(tmp_path):
    path = tmp_path / "scratch.yaml"
    path.write_text(f"extends: {REPOSITORY}/tests/mini.yaml\npretrain: null\n")
    assert load_study([path]).pretrain is None


def test_an_error_in_an_extended_file_is_reported_with_that_file_and_line(tmp_path):
    (tmp_path / "base.yaml").write_text((REPOSITORY / "tests" / "mini.yaml").read_text() + "epochs: 3\n")
    (tmp_path / "top.yaml").write_text("extends: base.yaml\nsedes: [1]\n")
    with pytest.raises(UserError) as error:
        load_study([tmp_path / "top.yaml"])
    line = line_of(tmp_path / "base.yaml", "epochs: 3")
    assert f"{tmp_path}/base.yaml:{line}: unknown key `epochs`" in str(error.value)
    assert f"{tmp_path}/top.yaml:2: unknown key `sedes`; did you mean `seeds`?" in str(error.value)


@pytest.mark.parametrize(
    ("extends", "expected"),
    [
        (
            "bsae.yaml",
            r"top\.yaml:1: `extends` refers to .*bsae\.yaml, which does not exist; did you mean `base\.yaml`\?",
        ),
        ("top.yaml", r"top\.yaml:1: `extends` is circular: .*top\.yaml > .*top\.yaml"),
        ("base.yaml", r"base\.yaml:1: `extends` is circular: .*top\.yaml > .*base\.yaml > .*top\.yaml"),
        ("[a.yaml, b.yaml]", r"`extends` is \['a\.yaml', 'b\.yaml'\]; expected the path of one YAML file"),
    ],
)
def test_an_invalid_extends_is_reported(tmp_path, extends, expected):
    (tmp_path / "top.yaml").write_text(f"extends: {extends}\n")
    (tmp_path / "base.yaml").write_text("extends: top.yaml\n")
    with pytest.raises(UserError, match=expected):
        load_study([tmp_path / "top.yaml"])


def test_an_error_in_an_override_is_reported_with_its_origin():
    with pytest.raises(UserError, match=r"^--config: unknown key `seed`; did you mean `seeds`\?"):
        load_study([REPOSITORY / "tests" / "mini.yaml"], {"seed": 1})


def test_the_name_of_a_head_is_its_method_by_default(mini):
    assert {name: head.method for name, head in mini.heads.items()} == {
        "ce": "ce",
        "tau": "tau",
        "crt": "crt",
        "lws": "lws",
        "mem": "mem",
        "mem_on_crt": "mem",
    }


def test_snakemake_options_select_studies_by_name_or_path(tmp_path):
    folder = REPOSITORY / "config"
    assert study_files({}, [], folder) == ([folder / "digits_lt.yaml"], {})
    assert study_files({"study": "digits_lt", "seeds": [1]}, [], folder) == (
        [folder / "digits_lt.yaml"],
        {"seeds": [1]},
    )
    custom = tmp_path / "custom.yaml"
    custom.touch()
    assert study_files({"study": str(custom)}, [], folder) == ([custom], {})
    assert study_files({}, [custom], folder) == ([custom], {})


def test_loading_does_not_modify_the_overrides(mini_values):
    before = copy.deepcopy(mini_values)
    load_study([REPOSITORY / "tests" / "mini.yaml"], mini_values)
    assert mini_values == before


def test_more_views_than_features_provides_are_reported(tmp_path, mini_values):
    mini_values["heads"]["mem"]["training"]["views"] = 9
    assert "heads.mem.training.views: requests 9 augmented views, but features.views is" in error_message(
        tmp_path, mini_values
    )
