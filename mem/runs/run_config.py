"""Run configurations: the files `config.yaml` and `site.yaml` in a run folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from mem import files
from mem.config import Compute, Study
from mem.config.merge import deep_merge
from mem.errors import UserError
from mem.runs.config_text import format_config, has_content, has_other_values, read_config_file
from mem.runs.dag import Run
from mem.runs.folder import RunFolder
from mem.runs.keys import digest
from mem.runs.labels import names_of
from mem.runs.versions import version_of

T = TypeVar("T")
_KEPT = frozenset({"defaults", "labels"})
"""Keys of a `config.yaml` that are not written again if they alone differ."""


@dataclass(frozen=True)
class RunConfig:
    """Content of the configuration files that a stage reads."""

    stage: str
    key: str
    dataset: str
    backbone: str
    labels: Mapping[str, Any]
    seed: int | None
    settings: Mapping[str, Any]
    inputs: Mapping[str, str]
    """Folder of each input run, by name."""
    compute: Compute
    path: Path

    def section(self, name: str, kind: type[T]) -> T:
        """Return a setting, validated as a model.

        Raises:
            UserError: The setting is missing or does not fit the schema, for example because another version of mem
                wrote it.
        """
        return self.union(name, kind)

    def union(self, name: str, kind: Any) -> Any:
        """Return a setting, validated as a union of models.

        Raises:
            UserError: As in `section`.
        """
        try:
            return TypeAdapter(kind).validate_python(self.settings[name])
        except (KeyError, ValidationError) as error:
            raise UserError(
                f"{self.path}: setting `{name}` is missing or invalid in this version of mem: {error}"
            ) from None

    @property
    def title(self) -> str:
        """Short description of the run."""
        names = [*names_of(self.labels), *([str(self.labels["study"])] if "study" in self.labels else [])]
        where = [self.dataset] if self.backbone == "data" else [self.dataset, self.backbone]
        numbers = [f"{name} {self.labels[name]}" for name in ("order", "seed") if name in self.labels]
        return " ".join([self.stage, *names, *where, *numbers])


def write_configs(runs: list[Run], study: Study, root: Path = Path()) -> None:
    """Write the `config.yaml` and `site.yaml` files of runs if they are missing or have changed.

    A file that differs only in `defaults` or `labels` is kept, because a newer file would make Snakemake execute the
    run again. `defaults` differs if the file was written before a setting was added; `labels` differs if another study
    uses a different name for the same run. If a default has another value in this version of mem, an unfinished run
    uses the new one. The same applies to a report, which reads all settings of the study.
    """
    texts: dict[str, str] = {}  # most runs have the same site.yaml, whose text is formatted only once
    for run in runs:
        folder = RunFolder(root / run.folder)
        header = f"# Written by mem for {run.stage} of study {study.study}. Change the study, not this file.\n"
        document = run.document()
        if not has_content(folder.config, document, ignored=_KEPT) or (
            (run.stage == "report" or not folder.finished())
            and has_other_values(folder.config, "defaults", document["defaults"])
        ):
            _write(folder.config, header + format_config(document))
        site = run.site(study)
        if not has_content(folder.site, site, ignored=_KEPT):
            if (shown := repr(site)) not in texts:
                texts[shown] = "# Settings that cannot change a result.\n" + format_config(site)
            _write(folder.site, texts[shown])


def _write(path: Path, text: str) -> None:
    # A study can have thousands of runs. After a power failure, the next start writes lost files again.
    files.write_text(path, text, durable=False)


def read_config(path: Path, stage: str) -> RunConfig:
    """Read the configuration of a run.

    Args:
        path: The `config.yaml`, or the run folder.
        stage: The expected stage.

    Raises:
        UserError: The file is missing, belongs to another stage or version, or was edited.
    """
    if path.is_dir():
        path = path / "config.yaml"
    content = _read_yaml(path)
    try:
        found_stage, version, key = content["stage"], content["version"], content["key"]
        inputs: dict[str, str] = content["inputs"]
        expected_key = digest(
            {
                "stage": found_stage,
                "version": version,
                "seed": content["seed"],
                "settings": content["settings"],
                "inputs": {name: folder.rsplit("-", 1)[1] for name, folder in inputs.items()},
            }
        )
        dataset, backbone, labels = content["dataset"], content["backbone"], content["labels"]
    except (KeyError, TypeError, IndexError, AttributeError):
        raise UserError(
            f"{path}: this file is not the configuration of a run. `mem runs STUDY --write` writes the configurations "
            "of a study into its run folders."
        ) from None
    if found_stage != stage:
        raise UserError(f"{path}: expected the configuration of a {stage} run, found that of a {found_stage} run")
    if version != (current := version_of(stage, content["settings"])):
        raise UserError(
            f"{path}: written for version {version} of {stage}, but this is version {current}. "
            "Run the study again. This creates new runs next to the old ones."
        )
    if key != expected_key:
        raise UserError(
            f"{path}: the file was edited (its digest is {expected_key}, but its key is {key}). "
            "Restore it, and change the study instead."
        )
    site = _read_yaml(path.with_name("site.yaml")) if path.with_name("site.yaml").exists() else {}
    settings = deep_merge(content["settings"], content.get("defaults", {}))
    return RunConfig(
        stage=stage,
        key=key,
        dataset=dataset,
        backbone=backbone,
        labels=labels,
        seed=content["seed"],
        settings=deep_merge(settings, site.get("settings", {})),
        inputs=inputs,
        compute=Compute.model_validate(site.get("compute", {})),
        path=path,
    )


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = read_config_file(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file. Snakemake and `mem runs STUDY --write` create it.") from None
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot read this file: {error}") from None
    return content if isinstance(content, dict) else {}
