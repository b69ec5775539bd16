"""The runs of a study: which stage runs there are, on what each depends, and the key that names each.

A run's key is a digest of its stage, the stage's version, its settings, its seed and the keys of its inputs.
So two studies that agree on a stage share its run, a changed setting makes a new run beside the old one, and
nothing can continue from a checkpoint that was made of other inputs.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from mem.config import (
    Ce,
    CustomModule,
    Dataset,
    FeatureFiles,
    Head,
    LogitAdjustment,
    Lws,
    Mem,
    Section,
    Study,
    Tau,
    Unkeyed,
)

STAGES = ("convert", "pretrain", "finetune", "features", "train_head", "evaluate", "report")

VERSIONS: dict[str, int] = {**dict.fromkeys(STAGES, 1), "evaluate": 2}
"""Raised by one when a change to a stage's code changes what it computes; its runs are then made anew."""


@dataclass(frozen=True)
class Run:
    """One run of one stage."""

    stage: str
    dataset: str
    backbone: str
    """Folder under the data set: the backbone's name, or `data` for what does not depend on one."""
    settings: Mapping[str, Section | int | str]
    """What the stage is told, by name."""
    inputs: Mapping[str, Run]
    """The runs it builds on, by the name of the option that takes them."""
    labels: Mapping[str, str | int]
    """What the run is in words: seed, order, method, variant. No part of the key."""
    seed: int | None = None

    @cached_property
    def key(self) -> str:
        """Twelve hexadecimal digits."""
        content = {
            "stage": self.stage,
            "version": VERSIONS[self.stage],
            "seed": self.seed,
            "settings": {name: keyed(value) for name, value in self.settings.items()},
            "inputs": {name: run.key for name, run in self.inputs.items()},
        }
        return digest(content)

    @property
    def folder(self) -> Path:
        """Where the run lives, relative to the working folder."""
        return Path("runs", self.dataset, self.backbone, f"{self.stage}-{self.key}")

    def lineage(self) -> Iterator[Run]:
        """This run's inputs, theirs, and so on; each once, nearest first."""
        seen: set[str] = set()
        queue = list(self.inputs.values())
        while queue:
            run = queue.pop(0)
            if run.key not in seen:
                seen.add(run.key)
                yield run
                queue += run.inputs.values()

    def document(self) -> dict[str, Any]:
        """The content of the run's `config.yaml`."""
        return {
            "stage": self.stage,
            "version": VERSIONS[self.stage],
            "key": self.key,
            "dataset": self.dataset,
            "backbone": self.backbone,
            "labels": dict(self.labels),
            "seed": self.seed,
            "settings": {name: keyed(value) for name, value in self.settings.items()},
            "defaults": defaults(self.settings),
            "inputs": {name: str(run.folder) for name, run in self.inputs.items()},
        }

    def site(self, study: Study) -> dict[str, Any]:
        """The content of the run's `site.yaml`: the unkeyed settings, which cannot change a result."""
        settings = {
            name: rest
            for name, value in self.settings.items()
            if isinstance(value, Section) and (rest := unkeyed(value))
        }
        return {"compute": getattr(study.compute, self.stage).model_dump(mode="json"), "settings": settings}


def study_runs(study: Study) -> list[Run]:
    """Every run of a study, each after its inputs, the report last."""
    runs: list[Run] = []
    for order in study.orders:
        images = _data(study, order)
        runs.append(images)
        for seed in study.seeds:
            runs += _branch(study, images, order, seed)
    evaluations = {
        f"{run.labels['variant']}-o{run.labels['order']}-s{run.labels['seed']}": run
        for run in runs
        if run.stage == "evaluate"
    }
    runs.append(
        Run(
            "report",
            study.dataset.name,
            study.backbone.name,
            {"study": study},
            evaluations,
            {"study": study.study},
        )
    )
    return runs


def data_run(runs: Sequence[Run]) -> Run:
    """The first run of a plan: a conversion, or features that were given. Its results say classes, counts, groups."""
    return runs[0]


def _data(study: Study, order: int) -> Run:
    if isinstance(study.dataset, FeatureFiles):
        settings = {"dataset": study.dataset, **index_digests(study.dataset)}
        return Run("features", study.dataset.name, study.backbone.name, settings, {}, {"order": order})
    return Run(
        "convert",
        study.dataset.name,
        "data",
        {"dataset": study.dataset, "order": order, **index_digests(study.dataset)},
        {},
        {"order": order},
    )


def index_digests(dataset: Dataset) -> dict[str, str]:
    """What a data set's lists and tables hold, so that an edited list is another data set.

    A file that is not there yet has no digest: a study can be planned before its data are downloaded.
    """
    digests: dict[str, str] = {}
    for name, path in dataset.index_files().items():
        if found := file_digest(Path(path)):
            digests[f"{name} list"] = found
    return digests


def _initial(study: Study) -> dict[str, Section | int | str]:
    """The weights that the first training starts from: by their official name, or by what their file holds."""
    if study.initial is None:
        return {}
    settings: dict[str, Section | int | str] = {"initial": study.initial}
    if study.initial.weights is None and study.initial.file is not None:
        if found := file_digest(Path(study.initial.file)):
            settings[INITIAL_DIGEST] = found
    return settings


INITIAL_DIGEST = "initial digest"
"""Setting of a run: the content of the file that it starts from, where that has no official name."""


def file_digest(path: Path) -> str | None:
    """Twelve hexadecimal digits of a file's SHA-256; None where there is no such file yet."""
    with contextlib.suppress(OSError), open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]
    return None


def _branch(study: Study, images: Run, order: int, seed: int) -> list[Run]:
    """Everything that one seed makes of one order of the classes."""

    def run(stage: str, settings: Mapping[str, Section | int | str], inputs: Mapping[str, Run], **labels: str) -> Run:
        words = {"order": order, "seed": seed, **labels}
        return Run(stage, study.dataset.name, study.backbone.name, settings, inputs, words, seed)

    if isinstance(study.dataset, FeatureFiles):
        return _heads(study, images, run)
    assert study.features is not None
    runs: list[Run] = []
    start: dict[str, Run] = {}
    initial = _initial(study)
    if study.pretrain is not None:
        settings = {"backbone": study.backbone, "pretrain": study.pretrain, **initial}
        pretrained = run("pretrain", settings, {"images": images})
        start, initial = {"encoder": pretrained}, {}
        runs.append(pretrained)
    if study.finetune is None:
        settings = {"backbone": study.backbone, "features": study.features, **initial, **_module_digest(study)}
        features = run("features", settings, {"images": images, **start})
        runs.append(features)
    else:
        settings = {"backbone": study.backbone, "finetune": study.finetune, **initial}
        finetuned = run("finetune", settings, {"images": images, **start})
        features = run("features", {"features": study.features}, {"images": images, "classifier": finetuned})
        runs += [finetuned, features]
    return runs + _heads(study, features, run)


def _module_digest(study: Study) -> dict[str, str]:
    """One's own module counts by what its file holds and which function makes it."""
    if not isinstance(study.backbone, CustomModule):
        return {}
    found = {"module function": study.backbone.function}
    return found | ({MODULE_DIGEST: digest} if (digest := file_digest(study.backbone.file)) else {})


MODULE_DIGEST = "module digest"
"""Setting of a run: the content of the file that makes its backbone."""


_Maker = Callable[..., Run]
"""Makes a run of a seed and an order, from stage, settings, inputs and labels."""


def _heads(study: Study, features: Run, run: _Maker) -> list[Run]:
    """The heads on features, and their evaluations; each after the head that it starts from."""
    runs: list[Run] = []
    # Of a study that stores no features, what makes them.
    online = study.features is not None and study.features.online
    source = {"features": features, **(features.inputs if online else {})}
    trained: dict[str, Run] = {}
    for name, head in sorted(study.heads.items(), key=lambda item: _turn(study, item[1])):
        labels = {"method": head.method, "variant": name}
        about: dict[str, Section | int | str] = {"head": head}
        inputs = dict(source)
        if isinstance(head, Mem):
            about["shots"] = study.shots
        if (start := _start_of(study, head)) is not None:
            inputs["head"] = trained[start]
        trained[name] = run("train_head", about, inputs, **labels)
        evaluated = run("evaluate", {"shots": study.shots}, {"head": trained[name], **source}, **labels)
        runs += [trained[name], evaluated]
    return runs


ON_CE = (Tau, Lws, LogitAdjustment)
"""Heads on the classifier that was finetuned or, where none was, on the linear probe."""


def _start_of(study: Study, head: Head) -> str | None:
    """The head whose classifier a head starts from; None where it is the finetuned one, or a fresh one."""
    if isinstance(head, Mem):
        base = study.heads[head.classifier_from]
        return None if isinstance(base, Ce) and base.training is None else head.classifier_from
    if study.finetune is None and isinstance(head, ON_CE):
        return study.probe
    return None


def _turn(study: Study, head: Head) -> int:
    if isinstance(head, Mem):
        return 2
    return int(study.finetune is None and isinstance(head, ON_CE))


def keyed(value: Any) -> Any:
    """The part of a setting that names a run, as JSON data: what can change a result and is not left at its default.

    So a setting that is added with a default moves no key. A default that is changed must raise the version of the
    stages that it concerns.
    """
    if isinstance(value, BaseModel):
        return {name: keyed(getattr(value, name)) for name in _naming(value) if not _at_default(value, name)}
    if isinstance(value, Mapping):
        return {key: keyed(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [keyed(inner) for inner in value]
    return value


def defaults(value: Any) -> dict[str, Any]:
    """What `keyed` leaves out because it is at its default, at any depth; written beside it, to be read."""
    found: dict[str, Any] = {}
    if isinstance(value, BaseModel):
        for name in _naming(value):
            inner = getattr(value, name)
            if _at_default(value, name):
                found[name] = _complete(inner)
            elif rest := defaults(inner):
                found[name] = rest
    elif isinstance(value, Mapping):
        found = {key: rest for key, inner in value.items() if (rest := defaults(inner))}
    return found


def _naming(value: BaseModel) -> list[str]:
    fields = type(value).model_fields.items()
    return [name for name, info in fields if not any(isinstance(mark, Unkeyed) for mark in info.metadata)]


def _at_default(value: BaseModel, name: str) -> bool:
    return getattr(value, name) == type(value).model_fields[name].default


def _complete(value: Any) -> Any:
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else keyed(value)


def unkeyed(value: BaseModel) -> dict[str, Any]:
    """The other part: settings that were given and are marked `Unkeyed`, at any depth."""
    found: dict[str, Any] = {}
    for name, info in type(value).model_fields.items():
        inner = getattr(value, name)
        if any(isinstance(mark, Unkeyed) for mark in info.metadata):
            if inner is not None:
                found[name] = inner.model_dump(mode="json") if isinstance(inner, BaseModel) else inner
        elif isinstance(inner, BaseModel) and (rest := unkeyed(inner)):
            found[name] = rest
    return found


def digest(content: Any) -> str:
    """Twelve hexadecimal digits of a canonical JSON text's SHA-256."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
