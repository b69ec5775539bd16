"""The runs of a study: which stage runs there are, on what each depends, and the key that names each.

A run's key is a digest of its stage, the stage's version, its settings, its seed and the keys of its inputs.
So two studies that agree on a stage share its run, a changed setting makes a new run beside the old one, and
nothing can continue from a checkpoint that was made of other inputs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from mem.config import Crt, Mem, Section, Study, Unkeyed

STAGES = ("convert", "pretrain", "finetune", "features", "train_head", "evaluate", "report")

VERSIONS: dict[str, int] = dict.fromkeys(STAGES, 1)
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


def plan(study: Study) -> list[Run]:
    """Every run of a study, each after its inputs, the report last."""
    runs: list[Run] = []
    for order in study.orders:
        images = _convert(study, order)
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


def _convert(study: Study, order: int) -> Run:
    return Run(
        "convert",
        study.dataset.name,
        "data",
        {"dataset": study.dataset, "order": order},
        {},
        {"order": order},
    )


def _branch(study: Study, images: Run, order: int, seed: int) -> list[Run]:
    """Everything that one seed makes of one order of the classes."""

    def run(stage: str, settings: Mapping[str, Section | int | str], inputs: Mapping[str, Run], **labels: str) -> Run:
        words = {"order": order, "seed": seed, **labels}
        return Run(stage, study.dataset.name, study.backbone.name, settings, inputs, words, seed)

    runs: list[Run] = []
    start: dict[str, Run] = {}
    if study.pretrain is not None:
        pretrained = run("pretrain", {"backbone": study.backbone, "pretrain": study.pretrain}, {"images": images})
        start = {"encoder": pretrained}
        runs.append(pretrained)
    finetuned = run("finetune", {"backbone": study.backbone, "finetune": study.finetune}, {"images": images, **start})
    features = run("features", {"features": study.features}, {"images": images, "classifier": finetuned})
    runs += [finetuned, features]

    trained: dict[str, Run] = {}
    for name, head in sorted(study.heads.items(), key=lambda item: isinstance(item[1], Mem)):
        labels = {"method": head.method, "variant": name}
        settings: dict[str, Section | int | str] = {"head": head}
        inputs = {"features": features}
        if isinstance(head, Mem):
            settings["shots"] = study.shots
            if isinstance(study.heads[head.classifier_from], Crt):
                inputs["head"] = trained[head.classifier_from]
        trained[name] = run("train_head", settings, inputs, **labels)
        evaluated = run("evaluate", {"shots": study.shots}, {"head": trained[name], "features": features}, **labels)
        runs += [trained[name], evaluated]
    return runs


def keyed(value: Any) -> Any:
    """The part of a setting that can change a result, as JSON data."""
    if isinstance(value, BaseModel):
        return {
            name: keyed(getattr(value, name))
            for name, info in type(value).model_fields.items()
            if not any(isinstance(mark, Unkeyed) for mark in info.metadata)
        }
    if isinstance(value, Mapping):
        return {key: keyed(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [keyed(inner) for inner in value]
    return value


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
