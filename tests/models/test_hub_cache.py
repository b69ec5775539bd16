"""Weights of the hub in the cache: which file is used, damaged files, files of other programs, and no network."""

from __future__ import annotations

import hashlib

import pytest

from mem.config import Initial
from mem.errors import UserError
from mem.models.weights.hub import download_file
from mem.models.weights.prepare import require_revision
from mem.models.weights.sources import verify_weights, weights_file
from tests.models.hub_fixtures import NAME, NEW, OLD, files, files_of_open_clip, get, hub, offline, weights
from tests.models.hub_server import ServedRepository

pytestmark = pytest.mark.stage  # starts a server
__all__ = ["get", "hub"]


def test_a_branch_that_moved_leaves_the_commit_of_a_study_as_it_is(hub, get):
    get(NAME, "--revision", OLD)
    old = weights_file(Initial(weights=NAME, revision=OLD)).read_bytes()
    assert f"revision: {NEW}" in get(NAME)
    assert weights_file(Initial(weights=NAME, revision=OLD)).read_bytes() == old == weights(0)
    assert weights_file(Initial(weights=NAME, revision=NEW)).read_bytes() == weights(1)


@pytest.mark.parametrize("change", ["cut", "edited"])
def test_a_damaged_file_in_the_cache_is_reported_by_stages_and_downloaded_again(hub, get, change, monkeypatch):
    get(NAME)
    initial = Initial(weights=NAME, revision=NEW)
    path = weights_file(initial)
    path.write_bytes(weights(1)[:-10] if change == "cut" else weights(0))
    with pytest.raises(UserError, match="incomplete, damaged or manipulated"):
        verify_weights(initial, path)
    with monkeypatch.context() as without_network:
        offline(without_network)
        err = get(NAME, "--revision", NEW, fails=True)
        assert "incomplete, damaged or manipulated" in err
        assert "HF_HUB_OFFLINE" in err
    assert "damaged or changed. Downloading it again." in get(NAME, "--revision", NEW)
    assert verify_weights(initial, weights_file(initial)).authenticated


def test_stored_weights_are_listed(hub, get):
    path = get(NAME).split("is stored: ")[1].splitlines()[0]
    expected = (
        f"{NAME}\n    revision: {NEW}\n    licence: apache-2.0\n    authenticated by the full SHA-256 that is published"
    )
    assert f"{expected}; stored: {path}\n" in get(action="list")


def test_a_file_that_another_program_downloaded_is_used(hub, get, tmp_path):
    get(NAME)
    for record in (tmp_path / "weights").rglob("*.json"):
        record.unlink()
    initial = Initial(weights=NAME, revision=NEW)
    assert verify_weights(initial, weights_file(initial)).authenticated  # the cache names the file by its SHA-256
    # In newer caches, repositories can share a file, whose name is not its SHA-256.
    blob = next((tmp_path / "cache").glob("*/blobs/*" + hashlib.sha256(weights(1)).hexdigest()[-8:]))
    shared = tmp_path / ("0" * 64)
    blob.rename(shared)
    blob.symlink_to(shared)
    assert verify_weights(initial, weights_file(initial)).authenticated
    shared.write_bytes(b"other")
    with pytest.raises(UserError, match="incomplete, damaged or manipulated"):
        verify_weights(initial, weights_file(initial))


def test_the_files_of_open_clip_are_used_if_the_others_belong_to_another_library(hub, get):
    hub.repositories["laion/clip"] = ServedRepository({NEW: files_of_open_clip()})
    name, initial = "hf-hub:laion/clip", Initial(weights="hf-hub:laion/clip", revision=NEW)
    for file in ("config.json", "model.safetensors"):  # as the library transformers downloads them
        download_file("laion/clip", NEW, file)
    assert "open_clip_model.safetensors" in get(name, "--revision", NEW)
    assert weights_file(initial).name == "open_clip_model.safetensors"


def test_a_file_of_open_clip_in_the_cache_does_not_replace_that_of_timm(hub, get, monkeypatch):
    hub.repositories["timm/clip"] = ServedRepository({NEW: files(1) | {"open_clip_model.safetensors": weights(0)}})
    name, initial = "hf-hub:timm/clip", Initial(weights="hf-hub:timm/clip", revision=NEW)
    download_file("timm/clip", NEW, "open_clip_model.safetensors")
    with monkeypatch.context() as patch:
        offline(patch)
        assert weights_file(initial).name == "open_clip_model.safetensors"
        assert "open_clip_model.safetensors" in get(name, "--revision", NEW)  # not recorded without the hub
    get(name, "--revision", NEW)
    assert weights_file(initial).name == "model.safetensors"


def test_without_network_the_stored_commit_is_named(hub, get, monkeypatch):
    get(NAME, "--revision", OLD)
    offline(monkeypatch)
    for action in ("get", "show"):
        expected = f"The commit {OLD} is stored: --revision {OLD} needs no network."
        assert expected in get(NAME, fails=True, action=action)
        assert f"revision: {OLD}" in get(NAME, "--revision", OLD, action=action)
    with pytest.raises(UserError, match=f"  revision: {OLD}"):
        require_revision(Initial(weights=NAME))


def test_a_commit_whose_weights_were_deleted_is_not_named_as_stored(hub, get, monkeypatch):
    get(NAME)
    weights_file(Initial(weights=NAME, revision=NEW)).unlink()
    assert f"revision: {NEW}" in get(action="list")
    assert "not stored any more" in get(action="list")
    offline(monkeypatch)
    assert "is stored" not in get(NAME, fails=True)


@pytest.mark.parametrize("file", ["config.json", "open_clip_config.json"])
def test_a_damaged_description_hides_no_other_weights_and_is_downloaded_again(hub, get, monkeypatch, file):
    hub.repositories["laion/clip"] = ServedRepository({NEW: files_of_open_clip() | {"open_clip_config.json": b"{}"}})
    name = "hf-hub:laion/clip"
    del hub.repositories["laion/clip"].commits[NEW]["README.md"]
    get(name)
    get(NAME)
    damaged = weights_file(Initial(weights=name, revision=NEW)).with_name(file)
    damaged.write_text("{")
    listed = get(action="list")
    assert f"{NAME}\n    revision: {NEW}\n    licence: apache-2.0\n" in listed
    assert (f"licence: unknown. {damaged}: not a valid JSON file" in listed) == (file == "config.json")
    message = f"{damaged}: not a valid JSON file"
    assert "run `mem weights get`, which replaces it." in get(name, "--revision", NEW, action="show", fails=True)
    with monkeypatch.context() as patch:
        offline(patch)
        err = get(name, "--revision", NEW, fails=True)
        assert message in err
        assert err.count("HF_HUB_OFFLINE forbids") == 1
    for revision in (["--revision", NEW], []):
        damaged.write_text("{")
        assert "is stored" in get(name, *revision)
        assert damaged.read_bytes() == hub.repositories["laion/clip"].commits[NEW][file]
