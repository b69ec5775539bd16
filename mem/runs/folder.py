"""The folder of one stage run: every file name in it, its configuration, its lock."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from mem import files
from mem.config import Compute, Study
from mem.errors import UserError
from mem.runs.dag import VERSIONS, Run, digest

T = TypeVar("T")

_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}
"""What a file system says that was mounted without locks, as Lustre may be."""
LOCK_WAIT_SECONDS = 90
"""How long a stage waits for the one that holds its folder: time enough for a dying trainer to save."""


@dataclass(frozen=True)
class RunFolder:
    """Names of the files of a run."""

    path: Path

    @property
    def config(self) -> Path:
        """What the run computes: made with the DAG, never changed; its digest is the run's key."""
        return self.path / "config.yaml"

    @property
    def site(self) -> Path:
        """Where and how it runs: unkeyed settings, rewritten when they change."""
        return self.path / "site.yaml"

    @property
    def log(self) -> Path:
        """The curves and events, as JSON lines."""
        return self.path / "log.jsonl"

    def rank_log(self, rank: int, log_id: str) -> Path:
        """What a rank other than the first sees of its node and GPU, while the log with that id is written."""
        return self.path / f"rank-{rank}-{log_id[:8]}.jsonl"

    @property
    def record(self) -> Path:
        """Provenance, written last: where it exists, the run is whole."""
        return self.path / "run.json"

    @property
    def checkpoints(self) -> Path:
        """Never declared as an output: Snakemake removes those before and after a failed job."""
        return self.path / "checkpoints"

    @property
    def lock(self) -> Path:
        """Held by the stage that works in the folder."""
        return self.path / "run.lock"

    def finished(self) -> bool:
        """Whether the run is whole."""
        return self.record.is_file()

    @contextmanager
    def locked(self, wait_seconds: float = LOCK_WAIT_SECONDS, say: Callable[[str], None] = print) -> Iterator[None]:
        """Keep every other stage out of the folder.

        The lock is the kernel's, so that it goes with its process, however that ends.

        Raises:
            UserError: Another process holds it, and still does after `wait_seconds`; says which.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with open(self.lock, "a+", encoding="utf-8") as file:
            deadline = time.monotonic() + wait_seconds
            told = False
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    file.seek(0)
                    holder = file.read().strip() or "another process"
                    if time.monotonic() > deadline:
                        raise UserError(
                            f"{self.path} is in use by {holder}: one stage works in a run folder at a time. "
                            "Wait for it, or stop it and start again; it goes on where the other saved."
                        ) from None
                    if not told:
                        say(f"Waiting for {holder}, which works in {self.path}.")
                        told = True
                    time.sleep(0.2)
                except OSError as error:
                    if error.errno not in _NO_LOCKS:
                        raise
                    say(f"{self.path}: this file system keeps no locks; start no second stage in this folder.")
                    break
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}, since {time.strftime('%Y-%m-%d %H:%M:%S')}")
            file.flush()
            yield


@dataclass(frozen=True)
class RunConfig:
    """What a stage is told: its `config.yaml`, with the `site.yaml` beside it."""

    stage: str
    key: str
    dataset: str
    backbone: str
    labels: Mapping[str, Any]
    seed: int | None
    settings: Mapping[str, Any]
    inputs: Mapping[str, str]
    """Folder of each input."""
    compute: Compute
    path: Path

    def section(self, name: str, kind: type[T]) -> T:
        """One of the settings, checked.

        Raises:
            UserError: It is missing or does not fit the schema, as after a change of versions.
        """
        return self.union(name, kind)

    def union(self, name: str, kind: Any) -> Any:
        """One of the settings that has several kinds, checked.

        Raises:
            UserError: As in `section`.
        """
        try:
            return TypeAdapter(kind).validate_python(self.settings[name])
        except (KeyError, ValidationError) as error:
            raise UserError(f"{self.path}: setting `{name}` does not fit this version of mem: {error}") from None

    @property
    def title(self) -> str:
        """The run in words."""
        names = [str(self.labels[name]) for name in ("variant", "study") if name in self.labels]
        where = [self.dataset] if self.backbone == "data" else [self.dataset, self.backbone]
        numbers = [f"{name} {self.labels[name]}" for name in ("order", "seed") if name in self.labels]
        return " ".join([self.stage, *names, *where, *numbers])


def write_configs(runs: list[Run], study: Study, root: Path = Path()) -> None:
    """Write `config.yaml` and `site.yaml` of each run, where they are not there or differ.

    A configuration stays as it is where it differs only in `defaults`, because it was written before a setting was
    added, or in `labels`, because another study calls the same run otherwise: a newer file would make Snakemake run it
    again.
    """
    for run in runs:
        folder = RunFolder(root / run.folder)
        header = f"# Written by mem for {run.stage} of study {study.study}. Change the study, not this file.\n"
        _write_if_new(folder.config, header, run.document())
        _write_if_new(folder.site, "# Settings that cannot change a result.\n", run.site(study))


def _write_if_new(path: Path, header: str, content: dict[str, Any]) -> None:
    try:
        with open(path, encoding="utf-8") as file:
            found = yaml.safe_load(file)
        unkeyed = {"defaults": None, "labels": None}
        if {**found, **unkeyed} == {**content, **unkeyed}:
            return
    except (OSError, yaml.YAMLError, TypeError):
        pass
    files.write_text(path, header + yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def read_config(path: Path, stage: str) -> RunConfig:
    """Read the `config.yaml` of a run of a stage.

    Raises:
        UserError: It is missing, of another stage or version, or was changed by hand.
    """
    if path.is_dir():
        path = path / "config.yaml"
    content = _read_yaml(path)
    try:
        found, version, key = content["stage"], content["version"], content["key"]
        inputs: dict[str, str] = content["inputs"]
        expected = digest(
            {
                "stage": found,
                "version": version,
                "seed": content["seed"],
                "settings": content["settings"],
                "inputs": {name: folder.rsplit("-", 1)[1] for name, folder in inputs.items()},
            }
        )
        dataset, backbone, labels = content["dataset"], content["backbone"], content["labels"]
    except (KeyError, TypeError, IndexError, AttributeError):
        raise UserError(
            f"{path}: no run configuration. `mem runs STUDY --write` writes those of a study into its run folders."
        ) from None
    if found != stage:
        raise UserError(f"{path}: is the configuration of a {found} run, not of {stage}")
    if version != VERSIONS[stage]:
        raise UserError(
            f"{path}: was written for version {version} of {stage}, this is version {VERSIONS[stage]}. "
            "Run the study again: it makes new runs beside the old ones."
        )
    if key != expected:
        raise UserError(
            f"{path}: was changed by hand (its digest is {expected}, it says {key}). Change the study instead."
        )
    site = _read_yaml(path.with_name("site.yaml")) if path.with_name("site.yaml").exists() else {}
    return RunConfig(
        stage=stage,
        key=key,
        dataset=dataset,
        backbone=backbone,
        labels=labels,
        seed=content["seed"],
        settings=_merged(_merged(content["settings"], content.get("defaults", {})), site.get("settings", {})),
        inputs=inputs,
        compute=Compute.model_validate(site.get("compute", {})),
        path=path,
    )


def _merged(base: Any, over: Any) -> Any:
    if isinstance(base, dict) and isinstance(over, dict):
        return {key: _merged(base.get(key), over[key]) if key in over else base[key] for key in {**base, **over}}
    return over


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            content = yaml.safe_load(file)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file. Snakemake writes it, and so does `mem runs STUDY --write`.") from None
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    return content if isinstance(content, dict) else {}


def read_record(folder: Path) -> dict[str, Any]:
    """The `run.json` of a finished run.

    Raises:
        UserError: The run is not finished.
    """
    path = RunFolder(folder).record
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{folder}: this run is not finished (it has no run.json); run it first") from None
    except ValueError as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
