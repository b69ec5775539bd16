"""Downloads of official checkpoints from a server that closes the connection, from a file, and without a network."""

from __future__ import annotations

import errno
import hashlib
import http.server
import json
import threading
from collections.abc import Iterator

import pytest

from mem.cli.main import main
from mem.config import OFFICIAL, Initial, OfficialWeights
from mem.config.initial import OFFICIAL as TABLE
from mem.errors import UserError
from mem.models.weights.licences import Licence, licence_warning
from mem.models.weights.official import fetch_official, weights_folder
from mem.models.weights.sources import verify_weights, weights_file

pytestmark = pytest.mark.stage  # starts a server
CONTENT = bytes(range(256)) * 12000
NAME = "mae_pretrain_vit_base"


class Server(http.server.ThreadingHTTPServer):
    """Serves `content` with or without range requests, and closes the connection after `limit` bytes."""

    content = CONTENT
    version = '"1"'
    limit: int | None = None
    ranges = True
    requests: list[str | None]


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        requested = self.headers.get("Range")
        self.server.requests.append(requested)
        if self.path != "/weights.pth":
            self.send_error(404)
            return
        start = 0
        if requested and self.server.ranges and self.headers.get("If-Range") == self.server.version:
            start = int(requested.removeprefix("bytes=").rstrip("-"))
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(self.server.content) - start))
        self.send_header("ETag", self.server.version)
        self.end_headers()
        end = len(self.server.content) if self.server.limit is None else start + self.server.limit
        self.wfile.write(self.server.content[start:end])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as running:
        running.requests = []
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def offer(monkeypatch, tmp_path, server):
    """Return a function that registers weights at the server's address. Downloads are stored in the test's folder."""
    monkeypatch.setenv("MEM_WEIGHTS", str(tmp_path / "weights"))

    def register(checksum: str | None, address: str | None = None) -> None:
        address = address or f"http://127.0.0.1:{server.server_port}/weights.pth"
        monkeypatch.setitem(TABLE, NAME, OfficialWeights("test", address, checksum, "the test", {}, "cc-by-nc-4.0"))  # type: ignore[arg-type]

    return register


@pytest.fixture
def messages() -> list[str]:
    return []


CORRECT = "md5:" + hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()[:6]


def test_a_checkpoint_is_fetched_once_and_verified(offer, server, messages):
    offer(CORRECT)
    path = fetch_official(NAME, None, messages.append)
    assert path == weights_folder() / "weights.pth"
    assert path.read_bytes() == CONTENT
    assert fetch_official(NAME, None, messages.append) == path
    assert len(server.requests) == 1
    digest = hashlib.sha256(CONTENT).hexdigest()
    not_authenticated = (
        f"{NAME} is not authenticated: checked by a 24-bit prefix of MD5 only, which detects only damage."
    )
    licence = [f"{NAME}: licence: cc-by-nc-4.0", licence_warning(NAME, Licence("cc-by-nc-4.0"))]
    assert messages == [
        *licence,
        f"{NAME} is stored: {path}",
        f"{not_authenticated} Its SHA-256 is recorded on this first use, and later downloads must equal it: {digest}",
        *licence,
        f"{NAME} is already stored: {path}",
        f"{not_authenticated} Its SHA-256 equals the one that was recorded on first use: {digest}",
    ]
    verification = verify_weights(Initial(weights=NAME), path)
    assert (verification.sha256, verification.authenticated) == (digest, False)
    assert {p.name for p in path.parent.iterdir()} == {"weights.pth", "weights.pth.json", ".weights.pth.lock"}


def test_a_full_sha256_authenticates_a_checkpoint(offer, messages):
    digest = hashlib.sha256(CONTENT).hexdigest()
    offer(f"sha256:{digest}")
    path = fetch_official(NAME, None, messages.append)
    assert messages[-1] == f"{NAME} is authenticated by the full SHA-256 that is published: {digest}"
    assert verify_weights(Initial(weights=NAME), path).authenticated


def test_a_file_that_changed_since_it_was_downloaded_is_rejected_by_stages(offer, messages):
    offer(None)
    path = fetch_official(NAME, None, messages.append)
    path.write_bytes(b"other")
    with pytest.raises(UserError, match="changed since it was downloaded"):
        verify_weights(Initial(weights=NAME), path)


def test_an_interrupted_download_resumes(offer, server, messages):
    offer(CORRECT)
    server.limit = 1_000_000
    with pytest.raises(
        UserError, match=r"1 MB were received; the same command resumes the download\. Alternatively, download http"
    ):
        fetch_official(NAME, None, messages.append)
    assert not (weights_folder() / "weights.pth").exists()
    server.limit = None
    path = fetch_official(NAME, None, messages.append)
    assert path.read_bytes() == CONTENT
    assert server.requests == [None, "bytes=1000000-"]
    assert "Resuming the download after 1 MB." in messages


@pytest.mark.parametrize("change", ["version", "ranges"])
def test_a_download_restarts_if_the_file_changed_or_the_server_does_not_support_ranges(offer, server, messages, change):
    server.content = b"x" * len(CONTENT)
    offer(CORRECT)
    server.limit = 1_000_000
    with pytest.raises(UserError, match="cannot be downloaded"):
        fetch_official(NAME, None, messages.append)
    server.limit, server.content = None, CONTENT
    if change == "version":
        server.version = '"2"'
    else:
        server.ranges = False
    assert fetch_official(NAME, None, messages.append).read_bytes() == CONTENT


def test_a_file_with_another_checksum_than_the_published_one_is_deleted(offer, messages):
    offer("sha256:00000000")
    with pytest.raises(UserError, match=r"is not mae_pretrain_vit_base: its sha256 starts with \w{8}, but"):
        fetch_official(NAME, None, messages.append)
    assert {p.name for p in weights_folder().iterdir()} == {".weights.pth.lock"}


def test_without_a_published_checksum_the_first_download_sets_it(offer, server, messages):
    offer(None)
    path = fetch_official(NAME, None, messages.append)
    digest = hashlib.sha256(CONTENT).hexdigest()
    assert messages[-1].startswith(f"{NAME} is not authenticated: no checksum is published. Its SHA-256 is recorded")
    assert messages[-1].endswith(digest)
    assert json.loads(path.with_name("weights.pth.json").read_text())["sha256"] == digest
    path.unlink()
    server.content = CONTENT[:-1]
    with pytest.raises(UserError, match="the file at the source changed since the last download"):
        fetch_official(NAME, None, messages.append)
    assert not path.exists()


def test_a_file_that_changed_after_it_was_fetched_is_named(offer, messages):
    offer(None)
    path = fetch_official(NAME, None, messages.append)
    path.write_bytes(b"other")
    with pytest.raises(UserError, match="changed since it was downloaded"):
        fetch_official(NAME, None, messages.append)


def test_without_a_network_the_message_describes_a_manual_way_that_works(offer, tmp_path, capsys):
    offer(CORRECT, "http://127.0.0.1:9/weights.pth")
    assert main(["weights", "get", NAME]) == 2
    message = capsys.readouterr().err
    assert "cannot be downloaded: " in message
    assert "Alternatively, download http://127.0.0.1:9/weights.pth with a browser or on another machine" in message
    assert f"run: mem weights get {NAME} --from FILE" in message
    assert "Traceback" not in message
    assert main(["weights", "get", NAME, "--from", str(tmp_path / "none")]) == 2
    assert "none: no such file (--from). Pass a weights file or its address." in capsys.readouterr().err
    copy = tmp_path / "copy.pth"
    copy.write_bytes(CONTENT)
    assert main(["weights", "get", NAME, "--from", str(copy)]) == 0
    assert (weights_folder() / "weights.pth").read_bytes() == CONTENT
    assert main(["weights", "get", NAME, "--from", str(tmp_path / "none")]) == 0  # already stored
    record = weights_folder() / "weights.pth.json"
    record.write_text("{")
    capsys.readouterr()
    assert main(["weights", "show", NAME]) == 2
    assert f"{record}: this record of the SHA-256 of a download is damaged" in capsys.readouterr().err


def test_an_error_status_of_the_server_is_reported(offer, server, messages):
    offer(CORRECT, f"http://127.0.0.1:{server.server_port}/other.pth")
    with pytest.raises(UserError, match="the server responded with status 404"):
        fetch_official(NAME, None, messages.append)


def test_the_message_about_missing_weights_contains_the_command_that_fetches_them(offer):
    offer(CORRECT)
    with pytest.raises(UserError, match=f"mem weights get {NAME}"):
        weights_file(Initial(weights=NAME))


def test_a_local_copy_of_official_weights_is_verified(offer, tmp_path):
    offer(CORRECT)
    path = tmp_path / "mine.pth"
    path.write_bytes(CONTENT)
    assert weights_file(Initial(weights=NAME, file=str(path))) == path
    path.write_bytes(b"other")
    with pytest.raises(UserError, match="is not mae_pretrain_vit_base"):
        weights_file(Initial(weights=NAME, file=str(path)))
    with pytest.raises(UserError, match="weights file not found"):
        weights_file(Initial(file=str(tmp_path / "none")))


def test_the_listing_contains_every_checkpoint_with_its_address(capsys):
    assert main(["weights", "list"]) == 0
    printed = capsys.readouterr().out
    for name, entry in OFFICIAL.items():
        assert f"{name}\n" in printed
        assert entry.address in printed


def test_for_an_unknown_name_the_available_ones_are_listed(capsys):
    assert main(["weights", "get", "mae_pretrain_vit_bse"]) == 2
    assert "Available: mae_pretrain_vit_base" in capsys.readouterr().err


def test_every_checkpoint_has_its_own_file_name_and_a_backbone():
    assert len({entry.file for entry in OFFICIAL.values()}) == len(OFFICIAL)
    for entry in OFFICIAL.values():
        assert entry.file.endswith(".pth")
        assert entry.backbone["kind"] in ("vit", "convmae", "timm")
        assert entry.checksum is None or entry.checksum.partition(":")[0] in hashlib.algorithms_guaranteed


def test_a_cache_on_a_file_system_without_locks_is_reported_but_not_an_error(offer, messages, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    offer(CORRECT)
    assert fetch_official(NAME, None, messages.append).is_file()
    assert any("does not support locks. Do not start a second download here." in message for message in messages)
