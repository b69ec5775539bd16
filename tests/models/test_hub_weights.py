"""Weights of a local server in the form of the Hugging Face hub: download, verification, licence and description."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mem.config import Initial
from mem.models.weights.hub_weights import stored_weights
from mem.models.weights.sources import verify_weights, weights_file
from tests.models.hub_fixtures import NAME, NEW, REPOSITORY, TAG, files, get, hub, offline, weights
from tests.models.hub_server import TOKEN, HubServer

pytestmark = pytest.mark.stage  # starts a server
__all__ = ["get", "hub"]
SECOND_HOST = "/second-host/"


def test_weights_are_downloaded_once_authenticated_and_then_need_no_network(hub, get, monkeypatch):
    digest = hashlib.sha256(weights(1)).hexdigest()
    out = get(NAME)
    assert f"{NAME}: commit {NEW}, licence: apache-2.0" in out
    assert f"{NAME} is authenticated by the full SHA-256 that is published: {digest}" in out
    assert out.endswith(f"initial:\n  weights: {NAME}\n  revision: {NEW}\n")
    assert out.index("licence") < out.index("Downloading model.safetensors")
    path = weights_file(Initial(weights=NAME, revision=NEW))
    assert path.read_bytes() == weights(1)
    before = len(hub.requests)
    offline(monkeypatch)
    assert "is already stored" in get(NAME, "--revision", NEW)
    assert get(NAME, "--revision", NEW, action="show").count("authenticated by the full SHA-256") == 2
    verification = verify_weights(Initial(weights=NAME, revision=NEW), path)
    assert (verification.authenticated, verification.sha256) == (True, digest)
    assert len(hub.requests) == before
    assert weights_file(Initial(weights=TAG, revision=NEW)) == path  # timm's tag stands for the same repository


def test_the_licence_is_known_before_the_weights_are_requested(hub, get):
    hub.repositories[REPOSITORY].commits[NEW] = files(1, licence="cc-by-nc-4.0")
    out = get(NAME)
    assert out.count("forbids commercial use") == 1
    requests = [path for _, path, _ in hub.requests]
    card = next(n for n, path in enumerate(requests) if path.endswith("README.md"))
    assert card < next(n for n, path in enumerate(requests) if path.endswith("model.safetensors"))
    assert out.index("forbids commercial use") < out.index("Downloading")


def test_weights_are_described_without_downloading_them(hub, get):
    out = get(TAG, action="show")
    for expected in ("test_vit", "[0.25, 0.25, 0.25]", "apache-2.0", NEW, "MB", "authenticated by the full SHA-256"):
        assert expected in out
    assert f"no; run: mem weights get {TAG} --revision {NEW}" in out
    assert not any(path.startswith(SECOND_HOST) for path in hub.paths("GET"))


def test_official_weights_are_described(hub, get):
    out = get("mae_pretrain_vit_base", action="show")
    assert "not authenticated: checked by a 24-bit prefix of MD5 only, which detects only damage" in out
    assert "forbids commercial use" in out
    assert "no; run: mem weights get mae_pretrain_vit_base" in out
    assert out.endswith("initial:\n  weights: mae_pretrain_vit_base\n")


def test_the_licence_and_the_commit_of_a_gated_repository_are_shown_without_access(hub, get):
    hub.repositories[REPOSITORY].gated = True
    out = get(NAME, action="show")
    assert "gated: accept the conditions on its page" in out
    assert "apache-2.0" in out
    assert f"revision: {NEW}" in out


def test_a_download_resumes_where_the_connection_was_lost(hub, get, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 10_000)
    hub.behaviour.close_after = 100_000
    get(NAME)
    assert stored_weights(NAME, NEW).path.read_bytes() == weights(1)  # type: ignore[union-attr]
    ranges = [requested for method, path, requested in hub.requests if path.startswith(SECOND_HOST) and method == "GET"]
    assert ranges == [None, "bytes=100000-"]


def test_a_token_is_sent_to_the_hub_only(hub, get, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.repositories[REPOSITORY].gated = True
    assert "gated" in get(NAME)
    assert hub.tokens_on_second_host
    assert set(hub.tokens_on_second_host) == {None}


def test_without_a_published_sha256_the_first_download_sets_it(hub, get, tmp_path):
    hub.repositories[REPOSITORY].stored_in_git = True
    digest = hashlib.sha256(weights(1)).hexdigest()
    out = get(NAME)
    assert "is not authenticated: the hub publishes no SHA-256 of this file, only git's id (SHA-1)" in out
    assert f"recorded on this first use, and later downloads must equal it: {digest}" in out
    initial = Initial(weights=NAME, revision=NEW)
    path = weights_file(initial)
    assert not verify_weights(initial, path).authenticated
    path.resolve().unlink()
    hub.repositories[REPOSITORY].commits[NEW] = files(0)
    assert "the file on the hub is not that of the first download" in get(NAME, fails=True)
    assert f"{NAME}\n    revision: {NEW}\n    not authenticated: the hub publishes no SHA-256" in get(action="list")


def test_a_process_without_pytorch_stays_without_it():
    code = (
        "import sys\n"
        "from mem.models.weights.hub_weights import location_of\n"
        f"assert location_of({TAG!r}) == ({REPOSITORY!r}, None)\n"
        "assert not {'torch', 'timm'} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr


def test_timm_tags_are_listed_by_a_part_of_their_name(hub, get):
    out = get("test_vit", action="list")
    assert f"{TAG}\n    {hub.address}/{REPOSITORY}" in out
    assert "mae_pretrain_vit_base" not in out


def test_without_timm_the_other_weights_are_listed(hub, get, monkeypatch):
    get(NAME)
    monkeypatch.setitem(sys.modules, "timm", None)
    out = get("vit", action="list")
    assert "mae_pretrain_vit_base\n" in out
    assert f"{NAME}\n" in out
    assert out.endswith("timm is not installed in this environment, so its tags are not listed.\n")


def test_the_environment_variables_of_the_library_apply(hub: HubServer, tmp_path: Path):
    environment = os.environ | {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": TOKEN}
    hub.repositories[REPOSITORY].private = True
    command = [sys.executable, "-m", "mem.cli", "weights", "get", NAME]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert f"{tmp_path / 'home'}" in done.stdout
