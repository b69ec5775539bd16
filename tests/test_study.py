"""Reading studies: what is refused, and how the refusal reads."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import yaml

from mem.config import Mem, Study
from mem.config.json_schema import study_schema
from mem.config.load import load_study, study_files
from mem.errors import UserError
from tests.conftest import REPOSITORY

OVERLAYS = ("holdout",)
"""Files in config/ that are no studies, but are laid over one."""
SHIPPED = [path for path in sorted((REPOSITORY / "config").rglob("*.yaml")) if path.stem not in OVERLAYS]


def written(folder: Path, values: dict) -> Path:
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


def refusal(folder: Path, values: dict) -> str:
    with pytest.raises(UserError) as error:
        load_study([written(folder, values)])
    return str(error.value)


def line_of(path: Path, text: str) -> int:
    return next(i for i, line in enumerate(path.read_text().splitlines(), 1) if text in line)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_every_shipped_study_is_valid(path):
    assert load_study([path]).study == path.stem


def test_the_shipped_schema_is_in_step():
    shipped = (REPOSITORY / "workflow" / "schemas" / "study.schema.json").read_text()
    assert shipped == study_schema(), "run: mem config --schema > workflow/schemas/study.schema.json"
    assert json.loads(shipped)["title"] == "Study"


def test_an_unknown_key_is_refused_with_place_and_nearest_name(tmp_path, mini_values):
    mini_values["heads"]["mem"]["xii"] = 50
    message = refusal(tmp_path, mini_values)
    line = line_of(tmp_path / "study.yaml", "xii:")
    assert message.startswith(f"{tmp_path}/study.yaml:{line}: unknown key `heads.mem.xii`; did you mean `xi`?")
    assert "Allowed here: method, partition," in message


def test_every_fault_is_listed_not_only_the_first(tmp_path, mini_values):
    mini_values["pretrain"]["epoch"] = 3
    mini_values["finetune"]["layer_decay"] = 1.5
    del mini_values["backbone"]["width"]
    message = refusal(tmp_path, mini_values)
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
        ("finetune", "precision", "fp16", "`finetune.precision` is 'fp16': input should be 'fp32' or 'bf16'"),
        ("backbone", "patch_size", 3, "image_size (8) must be a multiple of patch_size (3)"),
        (
            "dataset",
            "cut",
            {"counts": [5, 4], "seed": 0, "val_per_class": 1},
            "needs one count for each of the 10 classes, got 2",
        ),
        ("dataset", "source", "digit", "`dataset.source` is `digit`; did you mean `digits`?"),
        ("features", "augmentation", None, "views needs `augmentation`"),
        ("compute", "train_head", {"gpus_per_node": 4}, "train_head is one process, but nodes, gpus_per_node and"),
    ],
)
def test_an_impossible_value_is_refused_in_words(tmp_path, mini_values, section, key, value, expected):
    mini_values[section][key] = value
    message = refusal(tmp_path, mini_values)
    assert expected in message
    assert "Traceback" not in message


def test_an_impossible_value_names_its_line(tmp_path, mini_values):
    mini_values["finetune"]["drop_path"] = -1
    message = refusal(tmp_path, mini_values)
    assert message.startswith(f"{tmp_path}/study.yaml:{line_of(tmp_path / 'study.yaml', 'drop_path')}: ")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"method": "memm"}, "`heads.mem.method` is `memm`; did you mean `mem`?"),
        ({"mu": 30}, "mu (30) must be smaller than xi (20)"),
        ({"groups": 4}, "partition `shot` has 3 groups, not 4"),
        ({"classifier_from": "lws"}, "heads.mem.classifier_from: `lws` is no head of this study with"),
    ],
)
def test_an_impossible_head_is_refused_in_words(tmp_path, mini_values, change, expected):
    mini_values["heads"]["mem"].update(change)
    assert expected in refusal(tmp_path, mini_values)


def test_tokens_must_be_kept_for_a_head_that_needs_them(tmp_path, mini_values):
    mini_values["features"]["tokens"] = False
    assert "heads.mem_on_crt.input is `tokens`, but features.tokens is false" in refusal(tmp_path, mini_values)


def test_a_key_that_stands_twice_is_refused(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text("study: a\nseeds: [0]\nstudy: b\n")
    with pytest.raises(UserError, match=r"study\.yaml:3: no valid YAML: key `study` stands twice, first in line 1"):
        load_study([path])


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a: [1", r"study\.yaml:1: no valid YAML"), ("- 1\n- 2\n", "a study is a mapping"), ("", "a study is a mapping")],
)
def test_a_file_that_is_no_study_is_refused(tmp_path, text, expected):
    path = tmp_path / "study.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=expected):
        load_study([path])


def test_a_missing_study_names_the_nearest_one():
    with pytest.raises(UserError, match=r"no such study; did you mean `.*digits_lt\.yaml`\?"):
        load_study([REPOSITORY / "config" / "digit_lt.yaml"])


def test_overrides_change_what_they_name_and_nothing_else(mini_values):
    path = REPOSITORY / "tests" / "mini.yaml"
    plain = load_study([path])
    changed = load_study([path], {"heads": {"mem": {"xi": 50}}})
    assert isinstance(head := changed.heads["mem"], Mem)
    assert head.xi == 50
    restored = load_study([path], {"heads": {"mem": {"xi": 20}}})
    assert restored == plain != changed


def test_a_later_file_lies_over_an_earlier_one(tmp_path):
    over = tmp_path / "over.yaml"
    over.write_text("seeds: [3, 4]\npretrain: {epochs: 7}\n")
    study = load_study([REPOSITORY / "tests" / "mini.yaml", over])
    assert study.seeds == (3, 4)
    assert study.pretrain is not None
    assert (study.pretrain.epochs, study.pretrain.global_batch) == (7, 64)


def test_a_file_can_extend_another_and_say_only_what_differs(tmp_path):
    base, middle, top = tmp_path / "base.yaml", tmp_path / "sub" / "middle.yaml", tmp_path / "sub" / "top.yaml"
    middle.parent.mkdir()
    base.write_text((REPOSITORY / "tests" / "mini.yaml").read_text())
    middle.write_text("extends: ../base.yaml\npretrain: {epochs: 7}\nseeds: [5]\n")
    top.write_text("extends: middle.yaml\nstudy: top\nseeds: [3]\n")
    study = load_study([top])
    assert study.pretrain is not None
    assert (study.study, study.seeds, study.pretrain.epochs) == ("top", (3,), 7)
    assert load_study([middle], {"study": "top", "seeds": [3]}) == study


def test_a_section_can_be_taken_out_by_null(tmp_path):
    path = tmp_path / "scratch.yaml"
    path.write_text(f"extends: {REPOSITORY}/tests/mini.yaml\npretrain: null\n")
    assert load_study([path]).pretrain is None


def test_a_fault_in_an_extended_file_names_that_file_and_its_line(tmp_path):
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
        ("bsae.yaml", r"top\.yaml:1: `extends` names .*bsae\.yaml, which is not there; did you mean `base\.yaml`\?"),
        ("top.yaml", r"top\.yaml:1: `extends` goes in a circle: .*top\.yaml > .*top\.yaml"),
        ("base.yaml", r"base\.yaml:1: `extends` goes in a circle: .*top\.yaml > .*base\.yaml > .*top\.yaml"),
        ("[a.yaml, b.yaml]", r"`extends` is \['a\.yaml', 'b\.yaml'\]: it names one YAML file"),
    ],
)
def test_an_impossible_extension_is_refused_in_words(tmp_path, extends, expected):
    (tmp_path / "top.yaml").write_text(f"extends: {extends}\n")
    (tmp_path / "base.yaml").write_text("extends: top.yaml\n")
    with pytest.raises(UserError, match=expected):
        load_study([tmp_path / "top.yaml"])


def test_a_fault_in_an_override_says_where_it_came_from():
    with pytest.raises(UserError, match=r"^--config: unknown key `seed`; did you mean `seeds`\?"):
        load_study([REPOSITORY / "tests" / "mini.yaml"], {"seed": 1})


def test_a_method_is_named_by_its_key_unless_it_says_otherwise(mini):
    assert {name: head.method for name, head in mini.heads.items()} == {
        "ce": "ce",
        "tau": "tau",
        "crt": "crt",
        "lws": "lws",
        "mem": "mem",
        "mem_on_crt": "mem",
    }


def test_snakemakes_options_name_studies_by_name_or_path(tmp_path):
    folder = REPOSITORY / "config"
    assert study_files({}, [], folder) == ([folder / "digits_lt.yaml"], {})
    assert study_files({"study": "digits_lt", "seeds": [1]}, [], folder) == (
        [folder / "digits_lt.yaml"],
        {"seeds": [1]},
    )
    own = tmp_path / "own.yaml"
    own.touch()
    assert study_files({"study": str(own)}, [], folder) == ([own], {})
    assert study_files({}, [own], folder) == ([own], {})


def test_values_given_are_not_changed_by_reading(mini_values):
    before = copy.deepcopy(mini_values)
    load_study([REPOSITORY / "tests" / "mini.yaml"], mini_values)
    assert mini_values == before


# --- sweeps ----------------------------------------------------------------------------------------------------


def swept(tmp_path: Path, values: dict, **sweeps: dict):
    return load_study([written(tmp_path, {**values, "sweeps": sweeps})])


def test_a_sweep_makes_a_head_of_every_combination(tmp_path, mini_values):
    over = {"xi": [10, 30], "classifier": ["frozen", "trained"], "training.sampler": ["instance"]}
    study = swept(tmp_path, mini_values, grid={"of": "mem", "over": over})
    made = {name: head for name, head in study.heads.items() if name not in mini_values["heads"]}
    assert list(made) == [f"mem.xi{xi}.{choice}.instance" for xi in (10, 30) for choice in ("frozen", "trained")]
    for name, head in made.items():
        assert isinstance(head, Mem)
        assert f"mem.xi{head.xi:g}.{head.classifier}.{head.training.sampler}" == name
        assert head.width == mini_values["heads"]["mem"]["width"]


def test_a_variant_that_is_a_head_already_is_not_made_twice(tmp_path, mini_values):
    xi = mini_values["heads"]["mem"]["xi"]
    one, other = ({"of": "mem", "over": {"xi": [xi, 33]}} for _ in range(2))
    # Default values count as given: the partition's seed is 0 where it is left out.
    seeds = {"of": "mem", "over": {"partition_seed": [0]}}
    study = swept(tmp_path, mini_values, one=one, other=other, seeds=seeds)
    assert [name for name in study.heads if name.startswith("mem.")] == ["mem.xi33"]


def test_a_study_with_sweeps_is_read_again_from_what_it_dumps(tmp_path, mini_values):
    study = swept(tmp_path, mini_values, xi={"of": "mem", "over": {"xi": [11, 12]}})
    assert Study.model_validate(study.model_dump(mode="json")) == study


@pytest.mark.parametrize(
    ("sweep", "expected"),
    [
        ({"of": "mme", "over": {"xi": [1]}}, "sweeps.s.of: `mme` is no head of this study; there are ["),
        ({"of": "mem", "over": {"xii": [1]}}, "unknown key `heads.mem.xii1.xii`; did you mean `xi`?"),
        ({"of": "mem", "over": {"xi": [0]}}, "`heads.mem.xi0.xi` is 0: input should be greater than 0"),
        ({"of": "mem", "over": {"xi": []}}, "needs different values, has []"),
        ({"of": "mem", "over": {"xi": [5, 5]}}, "needs different values, has [5"),
        ({"of": "mem", "over": {}}, "needs at least one setting"),
        ({"of": "mem", "over": {"trainin.sampler": ["sqrt"]}}, "sweeps.s.over: `mem` has no section `trainin`"),
        ({"of": "ce", "over": {"method": ["crt"]}}, "heads.ce.crt"),
        ({"of": "mem"}, "`sweeps.s.over` is missing"),
    ],
)
def test_an_impossible_sweep_is_refused_in_words(tmp_path, mini_values, sweep, expected):
    assert expected in refusal(tmp_path, {**mini_values, "sweeps": {"s": sweep}})


def test_more_views_than_features_has_are_refused(tmp_path, mini_values):
    mini_values["heads"]["mem"]["training"]["views"] = 9
    assert "heads.mem.training.views: 9 augmented views, but features.views writes" in refusal(tmp_path, mini_values)
