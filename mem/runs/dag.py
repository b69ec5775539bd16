"""The runs of a study: their stages, inputs, keys and folders.

The key of a run is a digest of the stage, the version of the stage, the settings, the seed, and the keys of the inputs.
Studies for which all of these are equal therefore share the run. A changed setting creates a new run next to the old
one, and a run cannot resume from a checkpoint that was computed with different settings or inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mem.config import (
    Ce,
    CustomModule,
    FeatureFiles,
    Head,
    NoBackbone,
    Section,
    Study,
    classifier_from,
    ordered_heads,
    start_of,
    starts_optionally,
    uses_shots,
)
from mem.runs.keys import (
    CENTER_CROP,
    INITIAL_DIGEST,
    MODULE_DIGEST,
    NORMALISATION,
    SHOT_COUNTS,
    START,
    defaults,
    digest,
    file_digest,
    index_digests,
    keyed,
    unkeyed,
)
from mem.runs.versions import version_of

STAGES = ("convert", "pretrain", "finetune", "features", "train_head", "evaluate", "report")

Settings = Mapping[str, Section | Mapping[str, Any] | float | int | str]
"""Settings of a run by name."""


@dataclass(frozen=True)
class Run:
    """One run of one stage."""

    stage: str
    dataset: str
    backbone: str
    """Subfolder of the dataset's folder: the name of the backbone, or `data` for runs that do not depend on one."""
    settings: Settings
    inputs: Mapping[str, Run]
    """Runs that this run reads, by name."""
    labels: Mapping[str, str | int]
    """Description of the run (order, seed, method, variant). Not part of the key."""
    seed: int | None = None

    @cached_property
    def key(self) -> str:
        """Key of the run: twelve hexadecimal digits."""
        settings = self.keyed_settings
        content = {
            "stage": self.stage,
            "version": version_of(self.stage, settings),
            "seed": self.seed,
            "settings": settings,
            "inputs": {name: run.key for name, run in self.inputs.items()},
        }
        return digest(content)

    @property
    def keyed_settings(self) -> dict[str, Any]:
        """Settings as they are in the key."""
        return {name: keyed(value, self.stage) for name, value in self.settings.items()}

    @cached_property
    def folder(self) -> Path:
        """Path of the run folder, relative to the working folder."""
        return Path("runs", self.dataset, self.backbone, f"{self.stage}-{self.key}")

    def lineage(self) -> Iterator[Run]:
        """Yield every direct and indirect input once, in breadth-first order."""
        seen: set[str] = set()
        queue = list(self.inputs.values())
        while queue:
            run = queue.pop(0)
            if run.key not in seen:
                seen.add(run.key)
                yield run
                queue += run.inputs.values()

    def document(self) -> dict[str, Any]:
        """Return the content of the run's `config.yaml`."""
        settings = self.keyed_settings
        return {
            "stage": self.stage,
            "version": version_of(self.stage, settings),
            "key": self.key,
            "dataset": self.dataset,
            "backbone": self.backbone,
            "labels": dict(self.labels),
            "seed": self.seed,
            "settings": settings,
            "defaults": defaults(self.settings, self.stage),
            "inputs": {name: str(run.folder) for name, run in self.inputs.items()},
        }

    def site(self, study: Study) -> dict[str, Any]:
        """Return the content of the run's `site.yaml`: the unkeyed settings, which cannot change its result."""
        settings = {
            name: rest
            for name, value in self.settings.items()
            if isinstance(value, Section) and (rest := unkeyed(value, self.stage))
        }
        return {"compute": getattr(study.compute, self.stage).model_dump(mode="json"), "settings": settings}


def study_runs(study: Study) -> list[Run]:
    """Return all runs of a study in topological order, with the report last."""
    runs: list[Run] = []
    for order in study.orders:
        images = _data_run(study, order)
        runs.append(images)
        for seed in study.seeds:
            runs += _seed_runs(study, images, order, seed)
    evaluations = {
        f"{run.labels['variant']}-o{run.labels['order']}-s{run.labels['seed']}": run
        for run in runs
        if run.stage == "evaluate"
    }
    labels = {"study": study.study}
    runs.append(Run("report", study.dataset.name, study.backbone.name, {"study": study}, evaluations, labels))
    return runs


def data_run(runs: Sequence[Run]) -> Run:
    """Return the first run of a study, whose results contain the classes, class counts and shot groups.

    This run converts images or checks precomputed features.
    """
    return runs[0]


def _data_run(study: Study, order: int) -> Run:
    digests = index_digests(study.dataset)
    labels = {"order": order}
    if isinstance(study.dataset, FeatureFiles):
        settings = {"dataset": study.dataset, **digests}
        return Run("features", study.dataset.name, study.backbone.name, settings, {}, labels)
    return Run("convert", study.dataset.name, "data", {"dataset": study.dataset, "order": order, **digests}, {}, labels)


_RunFactory = Callable[..., Run]
"""Function that creates a run of one seed and class order from a stage, settings, inputs and labels."""


def _seed_runs(study: Study, images: Run, order: int, seed: int) -> list[Run]:
    """Return all runs of one seed and class order, except the data run."""

    def create_run(stage: str, settings: Settings, inputs: Mapping[str, Run], **labels: str) -> Run:
        all_labels = {"order": order, "seed": seed, **labels}
        return Run(stage, study.dataset.name, study.backbone.name, settings, inputs, all_labels, seed)

    if isinstance(study.dataset, FeatureFiles):
        return _head_runs(study, images, create_run)
    assert study.features is not None
    runs: list[Run] = []
    encoder: dict[str, Run] = {}
    initial = _initial_settings(study)
    normalisation = _normalisation_settings(study)
    if study.pretrain is not None:
        settings = {"backbone": study.backbone, "pretrain": study.pretrain, **normalisation, **initial}
        pretrained = create_run("pretrain", settings, {"images": images})
        encoder, initial = {"encoder": pretrained}, {}
        runs.append(pretrained)
    if study.finetune is None:
        settings = {"backbone": study.backbone, "features": study.features, **normalisation}
        settings |= initial | _module_settings(study)
        features = create_run("features", settings, {"images": images, **encoder})
        runs.append(features)
    else:
        settings = {"backbone": study.backbone, "finetune": study.finetune, **normalisation, **initial}
        finetuned = create_run("finetune", settings, {"images": images, **encoder})
        assert not isinstance(study.backbone, NoBackbone)
        settings = {"features": study.features, CENTER_CROP: study.backbone.center_crop, **normalisation}
        features = create_run("features", settings, {"images": images, "classifier": finetuned})
        runs += [finetuned, features]
    return runs + _head_runs(study, features, create_run)


def _normalisation_settings(study: Study) -> dict[str, Any]:
    """Return the setting with the normalisation of the images. The stages that use it need it in their keys."""
    assert not isinstance(study.dataset, FeatureFiles)
    return {NORMALISATION: {"mean": list(study.dataset.pixel_mean), "std": list(study.dataset.pixel_std)}}


def _initial_settings(study: Study) -> dict[str, Section | int | str]:
    """Return the settings that identify the initial weights: the official name, or the digest of a weights file."""
    if study.initial is None:
        return {}
    settings: dict[str, Section | int | str] = {"initial": study.initial}
    if study.initial.weights is None and study.initial.file is not None:
        if found := file_digest(Path(study.initial.file)):
            settings[INITIAL_DIGEST] = found
    return settings


def _module_settings(study: Study) -> dict[str, str]:
    """Return the settings that identify a custom backbone: the function name and the digest of the Python file."""
    if not isinstance(study.backbone, CustomModule):
        return {}
    settings = {"module function": study.backbone.function}
    return settings | ({MODULE_DIGEST: found} if (found := file_digest(study.backbone.file)) else {})


def _head_runs(study: Study, features: Run, create_run: _RunFactory) -> list[Run]:
    """Return the train_head and evaluate runs. The run of a head follows that of the head it starts from."""
    runs: list[Run] = []
    # If features are not stored, heads compute them from the inputs of the features run.
    online = study.features is not None and study.features.online
    source = {"features": features, **(features.inputs if online else {})}
    shot_counts = _shot_counts(study)
    heads: dict[str, Run] = {}
    probe = study.probe if study.finetune is None else None
    for name in ordered_heads(study.heads, probe):
        head = study.heads[name]
        labels = {"method": head.method, "variant": name}
        settings: dict[str, Section | int | str] = {"head": head}
        inputs = dict(source)
        if uses_shots(head):
            settings["shots"] = study.shots
        if uses_shots(head) or getattr(head, "partition", None) == "cardinality_even":
            settings |= shot_counts
        if starts_optionally(head) and classifier_from(head) is not None:
            settings[START] = "classifier"
        if (start := start_of(head, probe)) is not None and not _is_finetuned_classifier(study.heads[start]):
            inputs["head"] = heads[start]
        heads[name] = create_run("train_head", settings, inputs, **labels)
        evaluated = {"shots": study.shots, **shot_counts}
        evaluation = create_run("evaluate", evaluated, {"head": heads[name], **source}, **labels)
        runs += [heads[name], evaluation]
    return runs


def _shot_counts(study: Study) -> dict[str, str]:
    """Return the setting of the runs whose groups of classes do not depend on the study's holdout."""
    if isinstance(study.dataset, FeatureFiles) or study.dataset.holdout is None:
        return {}
    return {SHOT_COUNTS: "before holdout"}


def _is_finetuned_classifier(head: Head) -> bool:
    """Return whether a head is the finetuned classifier, which the features run stores."""
    return isinstance(head, Ce) and head.training is None
