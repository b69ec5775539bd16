"""Fixtures of tests that download weights: a local hub, a repository with a tiny network of timm, and a study of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save

from mem.cli.main import main
from tests.models.hub_server import HubServer, ServedRepository, commit, running_hub

ARCHITECTURE = "test_vit"
TAG = "test_vit.r160_in1k"
REPOSITORY = f"timm/{TAG}"
NAME = f"hf-hub:{REPOSITORY}"
OLD, NEW = commit(1), commit(2)
TRAINING = {"epochs": 1, "global_batch": 32, "optimizer": "sgd", "lr": 0.1, "weight_decay": 0.0, "sampler": "instance"}
CARD = "---\nlicense: {licence}\n---\n# A network\n"


@cache
def weights(seed: int = 0) -> bytes:
    """Return the content of a safetensors file with random weights of the tiny network."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return save(timm.create_model(ARCHITECTURE, num_classes=3).state_dict())


def files(seed: int = 0, licence: str = "apache-2.0", **config: object) -> dict[str, bytes]:
    """Return the files of a repository, as timm writes them."""
    stated = {"input_size": [3, 160, 160], "fixed_input_size": True, "mean": [0.5] * 3, "std": [0.25] * 3} | config
    content = {"architecture": ARCHITECTURE, "num_classes": 3, "pretrained_cfg": stated}
    return {
        "README.md": CARD.format(licence=licence).encode(),
        "config.json": json.dumps(content).encode(),
        "model.safetensors": weights(seed),
    }


def files_of_open_clip() -> dict[str, bytes]:
    """Return the files of a repository with weights for open_clip (seed 0) and for another library (seed 1)."""
    of_transformers = files(1) | {"config.json": b'{"architectures": ["CLIPModel"], "model_type": "clip"}'}
    return of_transformers | {"open_clip_model.safetensors": weights(0)}


def use_hub(server: HubServer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make huggingface_hub use a server and an empty cache. It reads its environment variables only when imported."""
    from huggingface_hub import constants

    for variable in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("MEM_WEIGHTS", str(folder / "weights"))
    for name, value in {
        "ENDPOINT": server.address,
        "HUGGINGFACE_CO_URL_TEMPLATE": server.address + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(folder / "cache"),
        "HF_TOKEN_PATH": str(folder / "token"),
        "HF_HUB_OFFLINE": False,
    }.items():
        monkeypatch.setattr(constants, name, value)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A hub with one repository of two commits, and an empty cache in the test's folder."""
    with running_hub() as server:
        server.repositories[REPOSITORY] = ServedRepository({OLD: files(0), NEW: files(1)})
        use_hub(server, tmp_path, monkeypatch)
        monkeypatch.setattr("time.sleep", lambda seconds: None)  # the library waits before it resumes a download
        yield server


@pytest.fixture
def get(capsys: pytest.CaptureFixture[str]):
    """A function that runs `mem weights get` and returns what it printed, with the expected exit status."""

    def run(*arguments: str, fails: bool = False, action: str = "get") -> str:
        assert main(["weights", action, *arguments]) == (2 if fails else 0)
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err
        return printed.err if fails else printed.out

    return run


def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forbid downloads, as HF_HUB_OFFLINE does when the library is imported."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def study_values(mini_values: dict[str, Any], initial: dict[str, Any], model: str = ARCHITECTURE) -> dict[str, Any]:
    """Return the settings of a study of a head on the frozen tiny network.

    Args:
        mini_values: Settings of the mini study.
        initial: Its initial weights.
        model: timm's name of the network.
    """
    network = {"name": "t", "kind": "timm", "model": model, "image_size": 32, "norm_batch": None, "center_crop": 1.0}
    return mini_values | {
        "backbone": network,
        "initial": initial,
        "pretrain": None,
        "finetune": None,
        "features": {"views": 1, "augmentation": mini_values["features"]["augmentation"], "tokens": False},
        "heads": {"ce": {"training": TRAINING}},
    }
