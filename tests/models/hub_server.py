"""A local server in the form of the Hugging Face hub: information about models, and files, large ones elsewhere."""

from __future__ import annotations

import hashlib
import http.server
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

LARGE = (".safetensors", ".bin")
"""Ends of the names of files that are stored with Git LFS."""
TOKEN = "hf_valid"


def commit(number: int) -> str:
    """Return a commit, 40 hexadecimal digits."""
    return hashlib.sha1(str(number).encode()).hexdigest()


def git_id(content: bytes) -> str:
    """Return git's id of a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class ServedRepository:
    """A repository: the files of each commit, and who may read it."""

    commits: dict[str, dict[str, bytes]]
    gated: bool = False
    private: bool = False
    stored_in_git: bool = False
    """Whether no file is stored with Git LFS, so that the hub publishes no SHA-256."""

    @property
    def main(self) -> str:
        return list(self.commits)[-1]

    def is_large(self, name: str) -> bool:
        return name.endswith(LARGE) and not self.stored_in_git


@dataclass
class Behaviour:
    """Faults of the server."""

    close_after: int | None = None
    """Number of bytes after which the next response with a large file ends, although more bytes were announced."""
    shorter_by: int = 0
    """Number of bytes that responses with large files lack; fewer bytes are announced accordingly."""
    other_content: bytes | None = None
    """Content that is sent in place of large files."""
    web_page: bool = False
    """Whether every response is a web page, as that of a login page of a network."""


class HubServer(http.server.ThreadingHTTPServer):
    """The server. `requests` contains the method, the path and the range of each request."""

    daemon_threads = True
    repositories: dict[str, ServedRepository]
    requests: list[tuple[str, str, str | None]]
    tokens_on_second_host: list[str | None]
    behaviour: Behaviour

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def paths(self, method: str) -> list[str]:
        return [path for each, path, _ in self.requests if each == method]


@dataclass
class _Answer:
    status: int
    content: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


class _Handler(http.server.BaseHTTPRequestHandler):
    server: HubServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._respond(with_content=True)

    def do_HEAD(self) -> None:
        self._respond(with_content=False)

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _respond(self, with_content: bool) -> None:
        self.server.requests.append((self.command, self.path, self.headers.get("Range")))
        path = self.path.partition("?")[0]
        if self.server.behaviour.web_page:
            answer = _Answer(200, b"<html>Sign in</html>", {"Content-Type": "text/html"})
        elif path.startswith("/second-host/"):
            answer = self._large_file(path)
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            answer = self._denied(found[1], information=True) or self._information(found[1], found[2])
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            answer = self._denied(found[1], information=False) or self._file(found[1], found[2], found[3])
        else:
            answer = _Answer(404)
        close_after = self.server.behaviour.close_after if path.startswith("/second-host/") and with_content else None
        self.send_response(answer.status)
        for name, value in {"Content-Length": str(len(answer.content)), **answer.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if with_content:
            self.wfile.write(answer.content[:close_after])
        if close_after is not None:
            self.server.behaviour.close_after = None
            self.close_connection = True

    def _denied(self, name: str, *, information: bool) -> _Answer | None:
        """Return the hub's answer to a request without access, or None."""
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token and not token.startswith("hf_valid"):
            return _Answer(401, headers={"X-Error-Message": "Invalid credentials in Authorization header"})
        repository = self.server.repositories.get(name)
        if repository is None or (repository.private and token != TOKEN):
            return _Answer(404 if token else 401, headers={"X-Error-Code": "RepoNotFound"})
        if repository.gated and token != TOKEN and not information:
            return _Answer(403 if token else 401, headers={"X-Error-Code": "GatedRepo"})
        return None

    def _information(self, name: str, revision: str | None) -> _Answer:
        repository = self.server.repositories[name]
        at = repository.main if revision in (None, "main") else revision
        if at not in repository.commits:
            return _Answer(404, headers={"X-Error-Code": "RevisionNotFound"})
        siblings = [
            {"rfilename": file, "size": len(content), "blobId": git_id(content)}
            | (
                {"lfs": {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}}
                if repository.is_large(file)
                else {}
            )
            for file, content in repository.commits[at].items()
        ]
        licence = re.search(r"^license: (.+)$", repository.commits[at].get("README.md", b"").decode(), re.MULTILINE)
        information = {
            "id": name,
            "sha": at,
            "gated": "auto" if repository.gated else False,
            "cardData": {"license": licence[1]} if licence else {},
            "siblings": siblings,
        }
        return _Answer(200, json.dumps(information).encode(), {"Content-Type": "application/json"})

    def _file(self, name: str, revision: str, file: str) -> _Answer:
        repository = self.server.repositories[name]
        at = repository.main if revision == "main" else revision
        if at not in repository.commits:
            return _Answer(404, headers={"X-Error-Code": "RevisionNotFound"})
        content = repository.commits[at].get(file)
        if content is None:
            return _Answer(404, headers={"X-Error-Code": "EntryNotFound", "X-Repo-Commit": at})
        if not repository.is_large(file):
            return _Answer(200, content, {"X-Repo-Commit": at, "ETag": f'"{git_id(content)}"'})
        digest = hashlib.sha256(content).hexdigest()
        headers = {
            "X-Repo-Commit": at,
            "X-Linked-Etag": f'"{digest}"',
            "X-Linked-Size": str(len(content)),
            "Location": f"http://localhost:{self.server.server_port}/second-host/{name}/{at}/{file}",
        }
        return _Answer(302, headers=headers)

    def _large_file(self, path: str) -> _Answer:
        self.server.tokens_on_second_host.append(self.headers.get("Authorization"))
        owner, repository, at, file = path.removeprefix("/second-host/").split("/", 3)
        content = self.server.repositories[f"{owner}/{repository}"].commits[at][file]
        behaviour = self.server.behaviour
        content = content if behaviour.other_content is None else behaviour.other_content
        content = content[: len(content) - behaviour.shorter_by]
        found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if found is None:
            return _Answer(200, content)
        start = int(found[1])
        shown = f"bytes {start}-{len(content) - 1}/{len(content)}"
        return _Answer(206, content[start:], {"Content-Range": shown})


@contextmanager
def running_hub() -> Iterator[HubServer]:
    """Run a server without repositories."""
    with HubServer(("127.0.0.1", 0), _Handler) as server:
        server.repositories, server.requests, server.tokens_on_second_host = {}, [], []
        server.behaviour = Behaviour()
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
