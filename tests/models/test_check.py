"""Bad initial weights and settings that a network does not support are found before any stage runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from safetensors.torch import save_file

from mem.cli.main import main
from mem.config import Study
from mem.models.backbones import build
from mem.models.mae import build_autoencoder
from mem.models.weights import official
from mem.models.weights.check import check_backbone
from mem.models.weights.external import read_checkpoint

CNN = {"name": "c", "kind": "timm", "model": "resnet18", "image_size": 32, "norm_batch": 8, "center_crop": 1.0}


@pytest.fixture
def write(tmp_path: Path, mini_values: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
    """A function that writes a study with changed settings into the current folder, and returns its path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(official.FOLDER_VARIABLE, str(tmp_path / "downloaded"))

    def written(changes: dict[str, Any]) -> str:
        Path("study.yaml").write_text(yaml.safe_dump(mini_values | changes))
        return "study.yaml"

    return written


def state(study_file: str) -> dict[str, torch.Tensor]:
    """Return random weights for the finetuning model of a study."""
    study = Study.model_validate(yaml.safe_load(Path(study_file).read_text()))
    return dict(build(study.backbone, 7).backbone.state_dict())


def bad_weights(kind: str, good: dict[str, torch.Tensor]) -> str:
    """Write a faulty weights file, and return its name."""
    match kind:
        case "text":
            Path("w.pth").write_text("not weights")
        case "page":
            Path("w.pth").write_text("<html>Sign in</html>")
        case "cut":
            save_file(good, "w.safetensors")
            content = Path("w.safetensors").read_bytes()
            Path("w.safetensors").write_bytes(content[: len(content) // 2])
            return "w.safetensors"
        case "cut_pth":
            torch.save(good, "w.pth")
            content = Path("w.pth").read_bytes()
            Path("w.pth").write_bytes(content[: len(content) // 2])
        case "shapes":
            torch.save({name: value.repeat(2, *[1] * (value.ndim - 1)) for name, value in good.items()}, "w.pth")
        case "architecture":
            save_file(timm.create_model("resnet10t").state_dict(), "w.safetensors")
            return "w.safetensors"
        case "missing_keys":
            torch.save({"model": dict(list(good.items())[:10])}, "w.pth")
    return "w.pth"


@pytest.mark.parametrize("command", [["config", "--check"], ["plan", "--core-gflops", "50"]], ids=["config", "plan"])
@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("no_file", "w.pth: weights file not found (initial.file)"),
        ("text", "w.pth: not a PyTorch checkpoint, or damaged"),
        ("page", "w.pth: this is a web page, not a checkpoint"),
        ("cut", "w.safetensors: cannot be read as safetensors"),
        ("cut_pth", "w.pth: damaged or incomplete"),
        ("shapes", "w.pth (initial.file): The weights do not fit the model:\n  cls_token has shape"),
        ("architecture", "w.safetensors (initial.file): the weights belong to a different architecture"),
        ("missing_keys", "w.pth (initial.file): The weights do not fit the model:\n  missing: "),
    ],
)
def test_bad_weights_are_found_before_the_study_runs(write, capsys, command, kind, expected):
    file = bad_weights(kind, state(write({"pretrain": None})))
    study = write({"pretrain": None, "initial": {"file": file}})
    assert main([command[0], *command[1:], study] if command[0] == "config" else ["plan", study, *command[1:]]) == 2
    assert expected in capsys.readouterr().err


def test_good_weights_are_accepted_without_reading_their_values(write, capsys):
    save_file(state(write({"pretrain": None})), "w.safetensors")
    assert all(tensor.is_meta for tensor in read_checkpoint(Path("w.safetensors"), shapes_only=True).values())
    torch.save(state("study.yaml"), "w.pth")
    assert all(tensor.is_meta for tensor in read_checkpoint(Path("w.pth"), shapes_only=True).values())
    for file in ("w.safetensors", "w.pth"):
        assert main(["config", "--check", write({"pretrain": None, "initial": {"file": file}})]) == 0
    assert "is valid" in capsys.readouterr().out


def test_the_first_stage_that_loads_the_weights_is_checked(write, capsys, mini):
    assert mini.pretrain is not None
    torch.save(build_autoencoder(mini.backbone, mini.pretrain).state_dict(), "mae.pth")
    assert main(["config", "--check", write({"initial": {"file": "mae.pth"}})]) == 0
    torch.save(timm.create_model("resnet18", num_classes=3).state_dict(), "cnn.pth")
    assert main(["config", "--check", write({"initial": {"file": "cnn.pth"}})]) == 2
    assert "cnn.pth (initial.file): the weights belong to a different architecture" in capsys.readouterr().err
    values = {"pretrain": None, "backbone": CNN, "initial": {"file": "cnn.pth"}}
    assert main(["config", "--check", write(values)]) == 0


def test_official_weights_that_are_not_on_this_machine_are_noted(write, capsys):
    backbone = CNN | {"model": "resnet152"}
    study = write({"pretrain": None, "backbone": backbone, "initial": {"weights": "resnet152_imagenet"}})
    assert main(["config", "--check", study]) == 0
    out = capsys.readouterr().out
    assert "The weights resnet152_imagenet are not on this machine and were not checked" in out
    assert "mem weights get resnet152_imagenet" in out


@pytest.mark.parametrize(
    ("backbone", "expected"),
    [
        (CNN | {"model": "halonet26t", "image_size": 320}, "halonet26t does not accept images of 320 x 320 pixels"),
        (CNN | {"model": "dla34"}, "dla34 does not end in a linear layer"),
        (CNN | {"model": "convnext_atto"}, "backbone.norm_batch: convnext_atto has no BatchNorm; set this to null"),
    ],
)
def test_a_network_that_does_not_support_the_settings_is_found(write, capsys, backbone, expected):
    assert main(["config", "--check", write({"pretrain": None, "backbone": backbone})]) == 2
    assert expected in capsys.readouterr().err


def test_a_custom_module_whose_file_is_missing_is_found(write, capsys):
    training = {"epochs": 1, "global_batch": 32, "optimizer": "sgd", "lr": 0.1, "weight_decay": 0.0}
    backbone = {"name": "m", "kind": "module", "module": "net.py:net", "image_size": 8, "center_crop": 1.0}
    heads = {"ce": {"training": training | {"sampler": "instance"}}}
    study = write({"pretrain": None, "finetune": None, "backbone": backbone, "heads": heads})
    assert main(["config", "--check", study]) == 2
    assert "net.py: file not found (backbone.module: net.py:net)" in capsys.readouterr().err


def test_weights_for_another_image_size_are_checked_without_values(write):
    torch.save(state(write({"pretrain": None})), "w.pth")
    values = yaml.safe_load(Path("study.yaml").read_text())
    values["backbone"]["image_size"] *= 2
    assert check_backbone(Study.model_validate(values | {"initial": {"file": "w.pth"}})) == ""


def test_a_missing_file_of_class_embeddings_is_found(write, mini_values, capsys):
    text = {"source": "text", "model": "ViT-B-16", "file": "clip.pt", "prompts": ["a {}"]}
    start = {"finetune": mini_values["finetune"] | {"initial_classifier": {"source": "file", "file": "rows.npy"}}}
    zero_shot = {
        "pretrain": None,
        "finetune": None,
        "backbone": {"name": "m", "kind": "module", "module": "m.py:f", "image_size": 8, "center_crop": 1.0},
        "features": {"views": 0, "tokens": False},
        "heads": {"zero_shot": {"embeddings": text, "scale": 100}},
        "compute": {},
    }
    Path("m.py").write_text("f = None")
    for changes, expected in (
        (start, "finetune.initial_classifier.file: rows.npy not found. Expected a file with class embeddings"),
        (zero_shot, "heads.zero_shot.embeddings.file: clip.pt not found. Expected a file with the weights of the text"),
    ):
        assert main(["config", "--check", write(changes)]) == 2
        assert expected in capsys.readouterr().err
    Path("rows.npy").write_bytes(b"")
    assert main(["config", "--check", write(start)]) == 0
