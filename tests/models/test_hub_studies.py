"""Studies with weights by name: keys, checks before anything runs, and stages that read only the cache."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from mem.cli.main import main
from mem.config import Crops, Evaluate
from mem.config.load import load_study
from mem.errors import UserError
from mem.models.weights.check import check_backbone
from mem.models.weights.compare import compare_with_study
from mem.models.weights.prepare import require_revision
from mem.models.weights.pretrained_config import PretrainedConfig
from mem.plan import initial_weights
from mem.plan.initial_weights import prepare_initial_weights
from mem.runs.dag import Run, study_runs
from mem.runs.folder import read_record
from mem.runs.run_config import write_configs
from tests.models.hub_fixtures import (
    ARCHITECTURE,
    NAME,
    NEW,
    OLD,
    REPOSITORY,
    TAG,
    files,
    files_of_open_clip,
    hub,
    offline,
    study_values,
    weights,
)

pytestmark = pytest.mark.stage  # starts a server
__all__ = ["hub"]
ON_HUB = {"weights": NAME, "revision": NEW}


@pytest.fixture
def write(tmp_path: Path, mini_values: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
    """A function that writes a study of a frozen tiny network into the current folder, and returns its path."""
    monkeypatch.chdir(tmp_path)

    def written(initial: dict[str, Any], model: str = ARCHITECTURE, **changes: Any) -> str:
        Path("study.yaml").write_text(yaml.safe_dump(study_values(mini_values, initial, model) | changes))
        return "study.yaml"

    return written


def run_of(path: str, stage: str) -> Run:
    return next(run for run in study_runs(load_study([path])) if run.stage == stage)


def local_folder(path: Path, content: dict[str, bytes] | None = None) -> str:
    path.mkdir(parents=True)
    for name, data in (content or files()).items():
        (path / name).write_bytes(data)
    return f"local-dir:{path}"


def test_the_key_contains_the_name_and_the_commit(write):
    keys = {
        run_of(write(initial), "features").key
        for initial in ({"weights": NAME, "revision": OLD}, ON_HUB, {"weights": TAG, "revision": NEW})
    }
    assert len(keys) == 3


def test_the_key_contains_the_content_of_a_folder_and_not_its_path(write, tmp_path):
    names = [local_folder(tmp_path / "a"), local_folder(tmp_path / "b"), local_folder(tmp_path / "c", files(1))]
    runs = [run_of(write({"weights": name}), "features") for name in names]
    assert runs[0].key == runs[1].key != runs[2].key
    assert str(tmp_path) not in json.dumps(runs[0].document())
    as_file = run_of(write({"file": str(tmp_path / "a" / "model.safetensors")}), "features")
    assert as_file.key == runs[0].key


@pytest.mark.parametrize("command", [["config", "--check"], ["plan"]], ids=["config", "plan"])
def test_without_a_commit_the_study_stops_and_the_lines_to_add_are_printed(hub, write, capsys, command):
    study = write({"weights": NAME})
    assert main([*command, study]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"mem: initial.revision is missing. The weights {NAME} can change on the hub")
    assert err.endswith(f"initial:\n  weights: {NAME}\n  revision: {NEW}\n")
    assert main(["runs", study]) == 2
    assert f"`mem weights show {NAME}` prints the lines to add" in capsys.readouterr().err


def test_without_network_the_commit_in_the_cache_or_the_reason_is_printed(hub, write, monkeypatch):
    from huggingface_hub import hf_hub_download

    initial = load_study([write({"weights": NAME})]).initial
    with monkeypatch.context() as patch:
        offline(patch)
        with pytest.raises(UserError, match=r"could not be found: .*HF_HUB_OFFLINE forbids downloads"):
            require_revision(initial)
    hf_hub_download(REPOSITORY, "config.json")  # of the branch main, as another program would
    offline(monkeypatch)
    with pytest.raises(UserError, match=f"in the cache, because the hub could not be asked[^$]*\n  revision: {NEW}"):
        require_revision(initial)


def test_weights_that_are_not_stored_are_noted_without_contacting_the_hub(hub, write):
    note = check_backbone(load_study([write(ON_HUB)]))
    assert f"run: mem weights get {NAME} --revision {NEW}" in note
    assert not hub.requests


@pytest.mark.parametrize("weights_name", [NAME, TAG, "local-dir"])
def test_notes_compare_the_study_with_the_statements_of_the_publisher(hub, write, capsys, tmp_path, weights_name):
    if weights_name == "local-dir":
        initial: dict[str, Any] = {"weights": local_folder(tmp_path / "net")}
    else:
        initial = {"weights": weights_name, "revision": NEW}
        assert main(["weights", "get", weights_name, "--revision", NEW]) == 0
    capsys.readouterr()
    assert main(["config", "--check", write(initial)]) == 0
    out = capsys.readouterr().out
    assert "was trained on images of 160 x 160 pixels, and backbone.image_size is 32. Tables of positions are" in out
    assert "  dataset:\n    pixel_mean: [0.5, 0.5, 0.5]\n    pixel_std: [0.25, 0.25, 0.25]\n" in out
    dataset = yaml.safe_load(Path("study.yaml").read_text())["dataset"]
    dataset |= {"pixel_mean": [0.5] * 3, "pixel_std": [0.25] * 3}
    assert "pixel_mean" not in check_backbone(load_study([write(initial, dataset=dataset)]))


def test_a_licence_that_forbids_commercial_use_is_noted_once(hub, write):
    hub.repositories[REPOSITORY].commits[NEW] = files(1, licence="cc-by-nc-4.0")
    assert main(["weights", "get", NAME, "--revision", NEW]) == 0
    note = check_backbone(load_study([write(ON_HUB)]))
    assert note.count("forbids commercial use") == 1


@pytest.mark.parametrize("of", ["hub", "tag", "local-dir"])
def test_weights_of_another_architecture_are_rejected(hub, write, capsys, tmp_path, of):
    if of == "hub":
        assert main(["weights", "get", NAME, "--revision", NEW]) == 0
    initial = {
        "hub": ON_HUB,
        "tag": {"weights": TAG, "revision": NEW},
        "local-dir": {"weights": f"local-dir:{tmp_path / 'net'}"},
    }[of]
    local_folder(tmp_path / "net")
    assert main(["config", "--check", write(initial, "test_resnet")]) == 2
    assert "has the architecture test_vit, but backbone.model is test_resnet" in capsys.readouterr().err


def test_a_repository_fits_each_architecture_that_timm_uses_it_for(write):
    model = "vit_base_patch16_clip_quickgelu_224"
    openai = {"weights": "hf-hub:timm/vit_base_patch16_clip_224.openai", "revision": NEW}
    study = load_study([write(openai, model)])
    stated = PretrainedConfig("vit_base_patch16_clip_224")
    assert compare_with_study(study, stated, "timm/vit_base_patch16_clip_224.openai") == []
    with pytest.raises(
        UserError, match=f"has the architecture vit_base_patch16_clip_224, but backbone.model is {model}"
    ):
        compare_with_study(study, stated, "timm/vit_base_patch16_clip_224.laion2b")


def test_names_and_shapes_are_compared(hub, write, capsys, tmp_path):
    name = local_folder(tmp_path / "net")
    config = json.loads((tmp_path / "net" / "config.json").read_text())
    (tmp_path / "net" / "config.json").write_text(json.dumps(config | {"architecture": "test_vit2"}))
    assert main(["config", "--check", write({"weights": name}, "test_vit2")]) == 2
    assert "The weights do not fit the model" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("no_folder", "net: folder not found (initial.weights: local-dir:"),
        ("no_weights", "net: contains no weights file (initial.weights); expected one of model.safetensors"),
        ("broken_config", "config.json: not a valid JSON file"),
        ("wrong_config", "config.json or open_clip_config.json does not have the form"),
        ("cut", "model.safetensors: cannot be read as safetensors"),
    ],
)
def test_a_faulty_folder_is_reported(write, capsys, tmp_path, fault, expected):
    folder = tmp_path / "net"
    name = f"local-dir:{folder}" if fault == "no_folder" else local_folder(folder)
    match fault:
        case "no_weights":
            (folder / "model.safetensors").unlink()
        case "broken_config":
            (folder / "config.json").write_text('{"architecture"')
        case "wrong_config":
            (folder / "config.json").write_text('{"architecture": "test_vit", "pretrained_cfg": {"mean": "half"}}')
        case "cut":
            (folder / "model.safetensors").write_bytes(weights()[:1000])
    assert main(["config", "--check", write({"weights": name})]) == 2
    err = capsys.readouterr().err
    assert expected in err
    assert "Traceback" not in err


def test_the_weights_file_of_a_folder_is_that_of_a_repository_with_the_same_files(write, tmp_path):
    study = load_study([write({"weights": local_folder(tmp_path / "timm")})])
    assert "is used" not in check_backbone(study)
    (tmp_path / "timm" / "pytorch_model.bin").write_bytes(b"")
    assert study.initial is not None
    assert study.initial.custom_file == tmp_path / "timm" / "model.safetensors"
    note = "timm: model.safetensors is used; pytorch_model.bin is not. To use another file, set initial.file to it"
    assert note in check_backbone(study)
    study = load_study([write({"weights": local_folder(tmp_path / "clip", files_of_open_clip())})])
    assert study.initial is not None
    assert study.initial.custom_file == tmp_path / "clip" / "open_clip_model.safetensors"
    assert "clip: open_clip_model.safetensors is used; model.safetensors is not." in check_backbone(study)


def test_stages_read_only_the_cache(hub, write, capsys, monkeypatch):
    monkeypatch.setattr(initial_weights, "_check_in_another_process", check_backbone)
    hub.repositories[REPOSITORY].commits[NEW] = files(1, licence="cc-by-nc-4.0")
    study = load_study([write(ON_HUB)])
    runs = study_runs(study)
    write_configs(runs, study)
    folders = {run.stage: run.folder for run in runs}
    assert main(["convert", "--config", str(folders["convert"])]) == 0
    assert main(["features", "--config", str(folders["features"])]) == 2
    assert "Stages do not contact the hub. On a machine with internet access" in capsys.readouterr().err
    assert not hub.requests
    said: list[str] = []
    prepare_initial_weights(study, runs, said.append)
    assert any("authenticated by the full SHA-256" in text for text in said)
    assert any("pixel_mean: [0.5, 0.5, 0.5]" in text for text in said)
    assert sum("forbids commercial use" in text for text in said) == 1
    requests = len(hub.requests)
    assert main(["features", "--config", str(folders["features"])]) == 0
    initial = read_record(folders["features"])["results"]["initial"]
    assert (initial["weights"], initial["revision"], initial["authenticated"]) == (NAME, NEW, True)
    assert initial["licence"] == {"name": "cc-by-nc-4.0", "link": None}
    assert initial["file"].endswith("model.safetensors")
    said.clear()
    prepare_initial_weights(study, runs, said.append)  # the run that reads the weights is finished
    assert said == []
    with_crops = study.model_copy(update={"evaluate": Evaluate(crops=Crops(number=2, resize=64))})
    prepare_initial_weights(with_crops, study_runs(with_crops), said.append)
    assert any("authenticated by the full SHA-256" in text for text in said), "the crops are not computed yet"
    assert len(hub.requests) == requests


@pytest.mark.parametrize("initial", [ON_HUB, {"file": "w.pth"}])
def test_an_environment_without_pytorch_neither_downloads_nor_checks(hub, write, monkeypatch, initial):
    monkeypatch.setattr(initial_weights, "REQUIRED", ("timm", "no_torch"))
    study, said = load_study([write(initial)]), list[str]()
    prepare_initial_weights(study, study_runs(study), said.append)
    assert said[0].startswith("This environment lacks no_torch. The initial weights are therefore not checked here")
    assert (f"mem weights get {NAME} --revision {NEW}" in said[0]) == ("weights" in initial)
    assert not hub.requests


def test_a_folder_runs_through_a_stage_and_a_changed_file_is_rejected(write, tmp_path, capsys):
    study = load_study([write({"weights": local_folder(tmp_path / "net")})])
    runs = study_runs(study)
    write_configs(runs, study)
    folders = {run.stage: run.folder for run in runs}
    assert main(["convert", "--config", str(folders["convert"])]) == 0
    (tmp_path / "net" / "model.safetensors").write_bytes(weights(1))
    assert main(["features", "--config", str(folders["features"])]) == 2
    assert "changed after this run was planned" in capsys.readouterr().err
    (tmp_path / "net" / "model.safetensors").write_bytes(weights(0))
    assert main(["features", "--config", str(folders["features"])]) == 0
    initial = read_record(folders["features"])["results"]["initial"]
    assert initial["authenticated"] is False
    assert initial["licence"]["name"] == "apache-2.0"
