"""Getting official checkpoints: from a server that breaks off, from a file, without a network."""

from __future__ import annotations

import hashlib
import http.server
import json
import threading
from collections.abc import Iterator

import pytest

from mem.cli.main import main
from mem.config import OFFICIAL, Initial, Official
from mem.config.initial import OFFICIAL as TABLE
from mem.errors import UserError
from mem.models.weights.official import get, local_file, weights_folder

CONTENT = bytes(range(256)) * 12000
NAME = "mae_pretrain_vit_base"


class Server(http.server.ThreadingHTTPServer):
    """Serves `content`, breaking off after `limit` bytes, with or without ranges."""

    content = CONTENT
    version = '"1"'
    limit: int | None = None
    ranges = True
    requests: list[str | None]


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.requests.append(wanted)
        if self.path != "/weights.pth":
            self.send_error(404)
            return
        start = 0
        if wanted and self.server.ranges and self.headers.get("If-Range") == self.server.version:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
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
    """Put an entry into the table that leads to the server; weights go to a folder of the test."""
    monkeypatch.setenv("MEM_WEIGHTS", str(tmp_path / "weights"))

    def offered(checksum: str | None, address: str | None = None) -> None:
        address = address or f"http://127.0.0.1:{server.server_port}/weights.pth"
        monkeypatch.setitem(TABLE, NAME, Official("test", address, checksum, "the test"))  # type: ignore[arg-type]

    return offered


@pytest.fixture
def said() -> list[str]:
    return []


RIGHT = "md5:" + hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()[:6]


def test_a_checkpoint_is_fetched_checked_and_not_fetched_twice(offer, server, said):
    offer(RIGHT)
    path = get(NAME, None, said.append)
    assert path == weights_folder() / "weights.pth"
    assert path.read_bytes() == CONTENT
    assert get(NAME, None, said.append) == path
    assert len(server.requests) == 1
    assert said == [f"{NAME} is now at {path}", f"{NAME} is here already: {path}"]
    assert {p.name for p in path.parent.iterdir()} == {"weights.pth", "weights.pth.json", ".weights.pth.lock"}


def test_what_was_interrupted_goes_on_where_it_stopped(offer, server, said):
    offer(RIGHT)
    server.limit = 1_000_000
    with pytest.raises(UserError, match=r"1 MB are here; the same command goes on from there\. By hand: fetch http"):
        get(NAME, None, said.append)
    assert not (weights_folder() / "weights.pth").exists()
    server.limit = None
    path = get(NAME, None, said.append)
    assert path.read_bytes() == CONTENT
    assert server.requests == [None, "bytes=1000000-"]
    assert "Going on after 1 MB." in said


@pytest.mark.parametrize("change", ["version", "ranges"])
def test_it_starts_anew_where_the_file_changed_or_the_server_knows_no_ranges(offer, server, said, change):
    server.content = b"x" * len(CONTENT)
    offer(RIGHT)
    server.limit = 1_000_000
    with pytest.raises(UserError, match="cannot be fetched"):
        get(NAME, None, said.append)
    server.limit, server.content = None, CONTENT
    if change == "version":
        server.version = '"2"'
    else:
        server.ranges = False
    assert get(NAME, None, said.append).read_bytes() == CONTENT


def test_another_file_than_the_published_one_is_refused_and_not_kept(offer, said):
    offer("sha256:00000000")
    with pytest.raises(UserError, match=r"is not mae_pretrain_vit_base: its sha256 begins with \w{8}, published"):
        get(NAME, None, said.append)
    assert {p.name for p in weights_folder().iterdir()} == {".weights.pth.lock"}


def test_without_a_published_checksum_the_first_one_is_recorded_and_held(offer, server, said):
    offer(None)
    path = get(NAME, None, said.append)
    digest = hashlib.sha256(CONTENT).hexdigest()
    assert said[-1] == f"No checksum is published for it. Recorded for later: SHA-256 {digest}"
    assert json.loads(path.with_name("weights.pth.json").read_text())["sha256"] == digest
    path.unlink()
    server.content = CONTENT[:-1]
    with pytest.raises(UserError, match="Somebody changed it"):
        get(NAME, None, said.append)
    assert not path.exists()


def test_a_file_that_changed_since_is_named(offer, said):
    offer(None)
    path = get(NAME, None, said.append)
    path.write_bytes(b"other")
    with pytest.raises(UserError, match="has changed since it was fetched"):
        get(NAME, None, said.append)


def test_without_a_network_the_message_gives_the_manual_way_and_that_way_works(offer, tmp_path, capsys):
    offer(RIGHT, "http://127.0.0.1:9/weights.pth")
    assert main(["weights", "get", NAME]) == 2
    message = capsys.readouterr().err
    assert "cannot be fetched: " in message
    assert "By hand: fetch http://127.0.0.1:9/weights.pth with a browser or elsewhere" in message
    assert "Traceback" not in message
    copy = tmp_path / "copy.pth"
    copy.write_bytes(CONTENT)
    assert main(["weights", "get", NAME, "--from", str(copy)]) == 0
    assert (weights_folder() / "weights.pth").read_bytes() == CONTENT
    assert main(["weights", "get", NAME, "--from", str(tmp_path / "none")]) == 0  # here already


def test_a_server_that_has_it_not_is_quoted(offer, server, said):
    offer(RIGHT, f"http://127.0.0.1:{server.server_port}/other.pth")
    with pytest.raises(UserError, match="the server answers 404"):
        get(NAME, None, said.append)


def test_weights_that_are_not_here_say_how_to_get_them(offer):
    offer(RIGHT)
    with pytest.raises(UserError, match=f"mem weights get {NAME}"):
        local_file(Initial(weights=NAME))


def test_a_file_that_stands_for_an_official_one_is_checked(offer, tmp_path):
    offer(RIGHT)
    path = tmp_path / "mine.pth"
    path.write_bytes(CONTENT)
    assert local_file(Initial(weights=NAME, file=str(path))) == path
    path.write_bytes(b"other")
    with pytest.raises(UserError, match="is not mae_pretrain_vit_base"):
        local_file(Initial(weights=NAME, file=str(path)))
    with pytest.raises(UserError, match="no such weights file"):
        local_file(Initial(file=str(tmp_path / "none")))


def test_the_list_names_every_checkpoint_with_its_address(capsys):
    assert main(["weights", "list"]) == 0
    printed = capsys.readouterr().out
    for name, entry in OFFICIAL.items():
        assert f"{name}\n" in printed
        assert entry.address in printed


def test_an_unknown_name_is_refused_with_those_there_are(capsys):
    assert main(["weights", "get", "mae_pretrain_vit_bse"]) == 2
    assert "There are: mae_pretrain_vit_base" in capsys.readouterr().err


def test_every_entry_has_a_file_of_its_own_and_a_backbone():
    assert len({entry.file for entry in OFFICIAL.values()}) == len(OFFICIAL)
    for entry in OFFICIAL.values():
        assert entry.file.endswith(".pth")
        assert entry.backbone["kind"] in ("vit", "convmae", "timm")
        assert entry.checksum is None or entry.checksum.partition(":")[0] in hashlib.algorithms_guaranteed
