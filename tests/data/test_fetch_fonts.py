"""`mem data fonts`: a package from a server, from a file and from apt-get, and interrupted or damaged downloads."""

from __future__ import annotations

import hashlib
import http.server
import io
import os
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mem.cli.main import main
from mem.data.datasets.glyphs import fetch
from mem.data.datasets.glyphs.debian_package import unpack_fonts
from mem.data.datasets.glyphs.fonts import read_fonts
from mem.errors import UserError
from tests.data.font_files import write_families

pytestmark = pytest.mark.stage  # starts a server and processes
FONTS = "usr/share/texlive/texmf-dist/fonts"


def member(name: str, content: bytes) -> bytes:
    """Return a member of an `ar` archive in the format that dpkg-deb writes."""
    header = f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode()
    assert len(header) == 60
    return header + content + b"\n" * (len(content) % 2)


def package(files: dict[str, bytes], compression: str = "xz") -> bytes:
    """Return a Debian package with the given files."""

    def archive(files: dict[str, bytes], mode: str) -> bytes:
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode=mode) as tar:
            for name, content in files.items():
                info = tarfile.TarInfo(f"./{name}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
            link = tarfile.TarInfo("./usr/share/fonts/link.otf")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(link)
        return stream.getvalue()

    suffix = f".{compression}" if compression else ""
    return (
        b"!<arch>\n"
        + member("debian-binary", b"2.0\n")
        + member("control.tar.xz", archive({"control": b"Package: miniature\n"}, "w:xz"))
        + member(f"data.tar{suffix}", archive(files, f"w:{compression}"))
    )


@pytest.fixture(scope="module")
def contents(tmp_path_factory) -> dict[str, bytes]:
    """Return the files of a package: the fonts of `write_families`, and others that are not unpacked."""
    root = write_families(tmp_path_factory.mktemp("fonts"))
    fonts = {f"{FONTS}/{path.relative_to(root)}": path.read_bytes() for path in sorted(root.rglob("*.?tf"))}
    return fonts | {f"{FONTS}/tfm/x.tfm": b"metrics", "usr/share/doc/copyright": b"text", "../../evil.otf": b"evil"}


class Server(http.server.ThreadingHTTPServer):
    """Serves `content`, and closes the connection after `limit` bytes."""

    content = b""
    limit: int | None = None
    ranges: list[str | None]


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        requested = self.headers.get("Range")
        self.server.ranges.append(requested)
        start = int(requested.removeprefix("bytes=").rstrip("-")) if requested else 0
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(self.server.content) - start))
        self.send_header("ETag", '"1"')
        self.end_headers()
        end = None if self.server.limit is None else start + self.server.limit
        self.wfile.write(self.server.content[start:end])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(contents) -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as running:
        running.ranges = []
        running.content = package(contents)
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield running
        finally:
            running.shutdown()
            thread.join()


@pytest.fixture
def address(server, monkeypatch) -> str:
    """Return the address of the package, whose checksum is the expected one, on a machine without apt-get."""
    address = f"http://127.0.0.1:{server.server_address[1]}/fonts.deb"
    monkeypatch.setattr(fetch, "SHA256", hashlib.sha256(server.content).hexdigest())
    monkeypatch.setenv("PATH", "/nowhere")
    return address


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def expected_names(contents: dict[str, bytes]) -> list[str]:
    return sorted(name.removeprefix(f"{FONTS}/") for name in contents if name.startswith(FONTS) and "tfm" not in name)


def test_the_fonts_of_a_package_are_downloaded_and_unpacked(server, address, contents, tmp_path, capsys):
    folder = tmp_path / "data" / "fonts"
    assert main(["data", "fonts", "--to", str(folder), "--from", address]) == 0
    assert names(folder) == expected_names(contents)
    assert (folder / names(folder)[0]).read_bytes() == contents[f"{FONTS}/{names(folder)[0]}"]
    assert os.listdir(folder.parent) == ["fonts"]  # neither the package nor partial files remain
    output = capsys.readouterr().out
    assert f"{folder} contains 36 fonts. Use them with dataset.root: {folder}" in output
    assert "is not texlive-fonts-extra" not in output
    assert len(read_fonts(str(folder)).faces) == 36
    assert main(["data", "fonts", "--to", str(folder), "--from", address]) == 0
    assert "already contains 36 fonts" in capsys.readouterr().out
    assert len(server.ranges) == 1


def test_an_interrupted_download_is_resumed_and_never_looks_complete(server, address, contents, tmp_path, capsys):
    folder = tmp_path / "fonts"
    server.limit = len(server.content) // 2
    assert main(["data", "fonts", "--to", str(folder), "--from", address]) == 2
    message = capsys.readouterr().err
    assert f"{address}: cannot be downloaded" in message
    assert "the same command resumes the download" in message
    assert "run: mem data fonts --from FILE" in message
    assert not folder.exists()
    server.limit = None
    assert main(["data", "fonts", "--to", str(folder), "--from", address]) == 0
    assert server.ranges == [None, f"bytes={len(server.content) // 2}-"]
    assert names(folder) == expected_names(contents)


def test_an_interrupted_unpacking_never_looks_complete(server, address, contents, tmp_path, monkeypatch):
    folder = tmp_path / "fonts"

    def interrupt(package: Path, target: Path) -> int:
        target.mkdir()
        (target / "first.otf").write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fetch, "unpack_fonts", interrupt)
        assert main(["data", "fonts", "--to", str(folder), "--from", address]) == 130
    assert not folder.exists()
    assert main(["data", "fonts", "--to", str(folder), "--from", address]) == 0
    assert names(folder) == expected_names(contents)
    assert len(server.ranges) == 1  # the complete package is not downloaded again


def test_a_package_with_another_checksum_is_named(server, address, tmp_path, capsys):
    server.content += b"\n"
    assert main(["data", "fonts", "--to", str(tmp_path / "fonts"), "--from", address]) == 0
    assert "The package is not texlive-fonts-extra_" in capsys.readouterr().out


def test_a_machine_without_apt_get_needs_a_source(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", "/nowhere")
    assert main(["data", "fonts", "--to", str(tmp_path / "fonts")]) == 2
    message = capsys.readouterr().err
    assert f"this machine has no apt-get. Use --from with the package {fetch.FILE}" in message
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("compression", ["xz", "gz", "bz2", ""])
def test_a_package_from_a_file_is_unpacked_without_dpkg(contents, tmp_path, compression, monkeypatch, capsys):
    monkeypatch.setenv("PATH", "/nowhere")
    path = tmp_path / "other.deb"
    path.write_bytes(package(contents, compression))
    assert main(["data", "fonts", "--to", str(tmp_path / "fonts"), "--from", str(path)]) == 0
    assert names(tmp_path / "fonts") == expected_names(contents)
    assert path.exists()
    assert "The package is not texlive-fonts-extra_" in capsys.readouterr().out


@pytest.mark.parametrize("end", [0, 4, 40, 100, 400, -1000])
def test_a_truncated_package_is_refused(contents, tmp_path, end):
    path = tmp_path / "half.deb"
    path.write_bytes(package(contents)[:end])
    with pytest.raises(UserError, match=r"half.deb: .*Debian package.*Download it again"):
        unpack_fonts(path, tmp_path / "fonts")


def test_a_package_without_fonts_is_refused(tmp_path):
    path = tmp_path / "x.deb"
    path.write_bytes(package({"usr/bin/x": b"program"}))
    with pytest.raises(UserError, match=r"contains no \.otf and \.ttf files"):
        unpack_fonts(path, tmp_path / "fonts")


def test_a_compression_that_python_lacks_needs_dpkg(contents, tmp_path, monkeypatch):
    path = tmp_path / "x.deb"
    path.write_bytes(package(contents).replace(b"data.tar.xz     ", b"data.tar.zst    "))
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match=r"its member data.tar.zst requires dpkg-deb, which was not found"):
        unpack_fonts(path, tmp_path / "fonts")


@pytest.mark.parametrize("works", [True, False])
def test_apt_get_is_used_if_it_has_the_expected_version(
    works, server, address, contents, tmp_path, monkeypatch, capsys
):
    (tmp_path / "mirror.deb").write_bytes(server.content if works else b"another version")
    program = tmp_path / "bin" / "apt-get"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\n/bin/echo "$@" > {tmp_path}/arguments\n/bin/cp {tmp_path}/mirror.deb {fetch.FILE}\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent))
    assert main(["data", "fonts", "--to", str(tmp_path / "data" / "fonts")]) == (0 if works else 2)
    assert (tmp_path / "arguments").read_text() == f"download -qq texlive-fonts-extra={fetch.VERSION}\n"
    assert server.ranges == []
    if works:
        assert names(tmp_path / "data" / "fonts") == expected_names(contents)
        assert os.listdir(tmp_path / "data") == ["fonts"]
    else:
        assert f"apt-get cannot download {fetch.FILE}: it wrote no file" in capsys.readouterr().err
        assert os.listdir(tmp_path / "data") == []


def test_sources_and_folders_that_cannot_be_used_are_refused(tmp_path, capsys):
    assert main(["data", "fonts", "--to", str(tmp_path / "fonts"), "--from", "/nowhere.deb"]) == 2
    assert "/nowhere.deb: not found. --from expects" in capsys.readouterr().err
    (tmp_path / "other").mkdir()
    assert main(["data", "fonts", "--to", str(tmp_path / "other")]) == 2
    assert "exists, but contains no fonts. Delete the folder" in capsys.readouterr().err
    (tmp_path / "file").write_text("text")
    for folder in (tmp_path / "file", tmp_path / "file" / "fonts", tmp_path / "file" / "data" / "fonts"):
        assert main(["data", "fonts", "--to", str(folder)]) == 2
        assert f"{folder}: a part of this path is a file. Choose another folder with --to." in capsys.readouterr().err
    (tmp_path / "half.deb").write_bytes(b"!<arch>\n")
    assert main(["data", "fonts", "--to", str(tmp_path / "fonts"), "--from", str(tmp_path / "half.deb")]) == 2
    assert sorted(os.listdir(tmp_path)) == ["file", "half.deb", "other"]
