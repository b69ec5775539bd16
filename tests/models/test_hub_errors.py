"""A message for each problem of a download from the Hugging Face hub, and for names and options that do not apply."""

from __future__ import annotations

import errno
import hashlib
import os
from typing import Any

import pytest

from mem.config import Initial
from mem.errors import UserError
from mem.models.weights.sources import weights_file
from tests.models.hub_fixtures import NAME, NEW, REPOSITORY, get, hub, offline, weights
from tests.models.hub_server import ServedRepository, commit

pytestmark = pytest.mark.stage  # starts a server
__all__ = ["get", "hub"]


@pytest.mark.parametrize("token", ["", "hf_valid_but_without_access"])
def test_a_gated_repository_is_reported_with_what_to_do(hub, get, monkeypatch, token):
    monkeypatch.setenv("HF_TOKEN", token)
    hub.repositories[REPOSITORY].gated = True
    err = get(NAME, fails=True)
    assert f"{hub.address}/{REPOSITORY}: the repository is gated" in err
    assert "accept its conditions" in err


def test_a_wrong_token_is_reported(hub, get, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_expired")
    assert "the hub rejected the token (status 401)" in get(NAME, fails=True)


def test_an_unknown_or_private_repository_is_reported(hub, get, monkeypatch):
    assert "the hub has no such repository, or it is private" in get("hf-hub:timm/other", fails=True)
    monkeypatch.setenv("HF_TOKEN", "hf_valid_but_without_access")
    assert "or the account of the token has no access" in get("hf-hub:timm/other", fails=True)


def test_an_unknown_revision_is_reported(hub, get):
    err = get(NAME, "--revision", commit(3), fails=True)
    assert f"the repository has no revision {commit(3)}" in err


def test_without_network_missing_weights_are_reported(hub, get, monkeypatch, tmp_path):
    offline(monkeypatch)
    err = get(NAME, "--revision", NEW, fails=True)
    assert f"the cache {tmp_path / 'cache'} does not contain the required files, and HF_HUB_OFFLINE forbids" in err
    assert not hub.requests


def test_an_unreachable_server_is_reported(hub, get, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    err = get(NAME, fails=True)
    assert "the download failed: " in err
    assert "Check HF_ENDPOINT" in err


def test_a_server_that_is_no_hub_is_reported(hub, get):
    hub.behaviour.web_page = True
    assert "the server's response is not that of a hub" in get(NAME, fails=True)


def test_another_content_than_the_published_one_is_rejected_and_deleted(hub, get, tmp_path):
    hub.behaviour.other_content = weights(0)
    err = get(NAME, fails=True)
    assert "this is not the file that the hub publishes" in err
    assert hashlib.sha256(weights(1)).hexdigest() in err
    assert not list((tmp_path / "cache").rglob("model.safetensors"))
    with pytest.raises(UserError, match=f"Stages do not contact the hub.*run: mem weights get {NAME} --revision {NEW}"):
        weights_file(Initial(weights=NAME, revision=NEW))
    hub.behaviour.other_content = None
    get(NAME)


def test_an_incomplete_response_is_reported(hub, get, tmp_path):
    hub.behaviour.shorter_by = 1000
    assert "the download failed: Consistency check failed" in get(NAME, fails=True)
    assert not list((tmp_path / "cache").rglob("*.incomplete"))


def test_a_full_disk_is_reported(hub, get, monkeypatch, tmp_path):
    def full(url: str, temp_file: Any, **options: Any) -> None:
        temp_file.write(b"part")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("huggingface_hub.file_download.http_get", full)
    err = get(NAME, fails=True)
    assert f"{tmp_path / 'cache'}: the disk is full" in err
    assert "set HF_HOME" in err


def test_a_repository_without_weights_is_reported(hub, get):
    hub.repositories["timm/empty"] = ServedRepository({NEW: {"README.md": b"# Empty\n"}})
    assert "contains no weights file" in get("hf-hub:timm/empty", fails=True)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([NAME, "--from", "w.pth"], "--from: applies only to official weights"),
        (["mae_pretrain_vit_base", "--revision", NEW], "--revision: applies only to weights of the hub"),
        (["hf-hub:timm"], "expected hf-hub:OWNER/REPOSITORY"),
        (["local-dir:net"], "a folder on this machine needs no download"),
        (
            ["resnet18.no_such_tag"],
            "timm has no weights resnet18.no_such_tag. Weights for this architecture: resnet18.",
        ),
        (["resnet18"], "or a timm tag (`mem weights list resnet18` lists the tags)"),
        (["gcvit_tiny.in1k"], "timm does not publish these weights on the hub. Download https://"),
    ],
)
def test_names_and_options_that_do_not_apply_are_reported(hub, get, arguments, expected):
    assert expected in get(*arguments, fails=True)
    if "--from" not in arguments:
        assert expected in get(*arguments, fails=True, action="show")
    assert not hub.requests
