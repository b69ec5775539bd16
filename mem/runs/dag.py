"""The runs of a study: their stages, inputs, keys and folders.

The key of a run is a digest of the stage, the version of the stage, the settings, the seed, and the keys of the inputs.
Studies for which all of these are equal therefore share the run. A changed setting creates a new run next to the old
one, and a run cannot resume from a checkpoint that was computed with different settings or inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from mem.config import (
    Ce,
    ClassMeans,
    FeatureFiles,
    Finetuned,
    Head,
    Holdout,
    NoBackbone,
    SadeAggregation,
    Section,
    Study,
    classifier_from,
    ordered_heads,
    start_of,
    starts_optionally,
    uses_shots,
)
from mem.runs.backbone_settings import embeddings_settings, initial_settings, module_settings, normalisation_settings
from mem.runs.keys import (
    CENTER_CROP,
    CROPS,
    HOLDOUT,
    SHOT_COUNTS,
    SPLIT,
    START,
    defaults,
    digest,
    index_digests,
    keyed,
    unkeyed,
)
from mem.runs.versions import selects_on_val, version_of

SELECT, REFIT = "select", "refit"
"""Branches of a study with `selection`: runs without the held-out images, and runs on all training images."""
STAGES = ("convert", "pretrain", "finetune", "features", "adapt", "train_head", "evaluate", "report")
TRANSDUCTIVE: Mapping[str, str] = {"transductive": "yes"}
"""Label of a run whose results depend on the test images."""

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
    """Description of the run (order, seed, finetuning, branch, method, variant, transductive, crops). Not part of
    the key."""
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
        data_runs = _data_runs(study, order)
        runs += data_runs
        for seed in study.seeds:
            runs += _seed_runs(study, data_runs, order, seed)
    evaluations = {_evaluation_name(run): run for run in runs if run.stage == "evaluate"}
    labels = {"study": study.study}
    runs.append(Run("report", study.dataset.name, study.backbone.name, {"study": study}, evaluations, labels))
    return runs


def data_run(runs: Sequence[Run]) -> Run:
    """Return the first run of a study, whose results contain the classes, class counts and shot groups.

    This run converts images or checks precomputed features.
    """
    return runs[0]


def _evaluation_name(run: Run) -> str:
    """Return the name of an evaluate run among the inputs of the report."""
    branch = f"-{SELECT}" if run.labels.get("branch") == SELECT else ""
    return f"{run.labels['variant']}-o{run.labels['order']}-s{run.labels['seed']}{branch}"


def _data_runs(study: Study, order: int) -> list[Run]:
    """Return the runs of a class order that do not depend on the seed: the data run, and its part for a branch."""
    digests = index_digests(study.dataset)
    labels = {"order": order}
    if not isinstance(study.dataset, FeatureFiles):
        settings = {"dataset": study.dataset, "order": order, **digests}
        return [Run("convert", study.dataset.name, "data", settings, {}, labels)]
    settings = {"dataset": study.dataset, **digests}
    features = Run("features", study.dataset.name, study.backbone.name, settings, {}, labels)
    return [features] if study.selection is None else [features, _part_of_features(study, features)]


def _part_of_features(study: Study, features: Run) -> Run:
    """Return the run that copies the features of the branch `select` from the features of all training images."""
    assert study.selection is not None
    # The section `features` determines which files the run writes.
    settings: Settings = {HOLDOUT: study.selection.holdout, **({"features": study.features} if study.features else {})}
    labels = {**features.labels, "branch": SELECT}
    return Run("features", study.dataset.name, study.backbone.name, settings, {"features": features}, labels)


_RunFactory = Callable[..., Run]
"""Function that creates a run of one seed and class order from a stage, settings, inputs and labels."""


def _seed_runs(study: Study, data_runs: Sequence[Run], order: int, seed: int) -> list[Run]:
    """Return all runs of one seed and class order, except the data runs."""

    def create_run(stage: str, settings: Settings, inputs: Mapping[str, Run], **labels: str) -> Run:
        all_labels = {"order": order, "seed": seed, **labels}
        return Run(stage, study.dataset.name, study.backbone.name, settings, inputs, all_labels, seed)

    if isinstance(study.dataset, FeatureFiles):
        runs, features = list[Run](), {None: _by_branch(*data_runs)}
    else:
        runs, features = _backbone_runs(study, data_runs[0], create_run)
    for finetuning, features_by_branch in features.items():
        selected: dict[str, Run] = {}
        for branch, features_run in features_by_branch.items():
            heads = _head_runs(study, finetuning, features_run, selected, _in_branch(create_run, branch))
            if branch == SELECT:
                selected = {str(run.labels["variant"]): run for run in heads if run.stage == "train_head"}
            runs += heads
    return runs


def _by_branch(features: Run, part: Run | None = None) -> dict[str | None, Run]:
    """Return the features run of each branch, given the features of all training images and the part for `select`."""
    return {None: features} if part is None else {SELECT: part, REFIT: features}


def _in_branch(create_run: _RunFactory, branch: str | None) -> _RunFactory:
    """Return a function that creates runs of a branch. Without branches, runs have no such label."""
    return create_run if branch is None else partial(create_run, branch=branch)


def _backbone_runs(
    study: Study, images: Run, create_run: _RunFactory
) -> tuple[list[Run], dict[str | None, dict[str | None, Run]]]:
    """Return the runs of the backbone, and the features runs by finetuning (None is `finetune`) and by branch."""
    runs: list[Run] = []
    inputs, initial = {"images": images}, initial_settings(study)
    if study.pretrain is not None:
        settings = {"backbone": study.backbone, "pretrain": study.pretrain, **normalisation_settings(study), **initial}
        pretrained = create_run("pretrain", settings, inputs)
        inputs, initial = {**inputs, "encoder": pretrained}, {}
        runs.append(pretrained)
    assert study.features is not None
    if study.selection is not None and study.finetune is None and not study.features.online:
        # The frozen backbone is the same in both branches, so it computes all features only once.
        (features,) = _branch_runs(study, None, inputs, initial, create_run)
        part = _part_of_features(study, features)
        return [*runs, features, part], {None: _by_branch(features, part)}
    by_finetuning: dict[str | None, dict[str | None, Run]] = {}
    for name in dict.fromkeys(head.finetuning for head in study.heads.values()):
        # The label of a run of `finetune` stays as it was before there were variants.
        create = create_run if name is None else partial(create_run, finetuning=name)
        by_finetuning[name] = {}
        for branch in (None,) if study.selection is None else (SELECT, REFIT):
            holdout = study.selection.holdout if study.selection is not None and branch == SELECT else None
            branch_runs = _branch_runs(study, name, inputs, initial, _in_branch(create, branch), holdout)
            runs += branch_runs
            by_finetuning[name][branch] = branch_runs[-1]
    return runs, by_finetuning


def _branch_runs(
    study: Study,
    finetuning: str | None,
    inputs: Mapping[str, Run],
    initial: Settings,
    create_run: _RunFactory,
    holdout: Holdout | None = None,
) -> list[Run]:
    """Return the runs that compute features from images: finetune, if the backbone is finetuned, and features."""
    assert study.features is not None
    normalisation = normalisation_settings(study)
    part: Settings = {} if holdout is None else {HOLDOUT: holdout}
    finetune = study.finetunings.get(finetuning)
    if finetune is None:
        settings = {"backbone": study.backbone, "features": study.features, **normalisation}
        return [create_run("features", {**settings, **initial, **module_settings(study), **part}, inputs)]
    embeddings = embeddings_settings(finetune.initial_classifier)
    settings = {"backbone": study.backbone, "finetune": finetune, **normalisation, **initial, **part, **embeddings}
    assert not isinstance(study.backbone, NoBackbone)
    crop: Settings = {CENTER_CROP: study.backbone.center_crop}
    if isinstance(finetune.initial_classifier, ClassMeans):  # the means are those of center crops
        settings |= crop
    finetuned = create_run("finetune", settings, inputs)
    settings = {"features": study.features, **crop, **normalisation, **part}
    return [finetuned, create_run("features", settings, {"images": inputs["images"], "classifier": finetuned})]


def _head_runs(
    study: Study, finetuning: str | None, features: Run, selected: Mapping[str, Run], create_run: _RunFactory
) -> list[Run]:
    """Return the adapt, train_head and evaluate runs. The run of a head follows that of the head it starts from.

    A branch without test images has no heads that use the stage `adapt`.

    Args:
        study: The study.
        finetuning: Name of the variant of finetuning whose heads are returned; None for the heads of `finetune`.
        features: The features run of the finetuning and branch.
        selected: The train_head runs of the branch `select`, by head name, from which heads take the values that were
            selected on held-out images.
        create_run: Function that creates a run of the branch.
    """
    runs: list[Run] = []
    # If features are not stored, heads compute them from the inputs of the features run.
    online = study.features is not None and study.features.online
    source = {"features": features, **(features.inputs if online else {})}
    holdout = features.settings.get(HOLDOUT)
    shot_counts = _shot_counts(study, held_out=holdout is not None)
    evaluated: Settings = {"shots": study.shots, **shot_counts, **({} if holdout is None else {SPLIT: "val"})}
    heads: dict[str, Run] = {}
    crops = _crops_run(study, finetuning, features, create_run)
    crops_input = {} if crops is None else {CROPS: crops}
    runs += crops_input.values()
    probe = study.probe if study.finetune is None else None
    for name in ordered_heads(study.heads, probe):
        head = study.heads[name]
        if head.finetuning != finetuning or (head.transductive and holdout is not None):
            continue
        labels = {"method": study.method_of(head), "variant": name, **(TRANSDUCTIVE if head.transductive else {})}
        labels |= {} if finetuning is None else {"finetuning": finetuning}
        embeddings = embeddings_settings(getattr(head, "embeddings", None))
        settings: dict[str, Section | int | str] = {"head": head, **embeddings}
        inputs = dict(source)
        if uses_shots(head):
            settings["shots"] = study.shots
        if uses_shots(head) or getattr(head, "partition", None) == "cardinality_even":
            settings |= shot_counts
        if starts_optionally(head) and classifier_from(head) is not None:
            settings[START] = "classifier"
        if (start := start_of(head, probe)) is not None and not _is_finetuned_classifier(study.heads[start]):
            inputs["head"] = heads[start]
        if isinstance(head, SadeAggregation):
            inputs["adapt"] = _adapt_run(study, finetuning, features, create_run)
            runs.append(inputs["adapt"])
        if selects_on_val(keyed(head, "train_head")):
            # The value is selected with the predictions that are evaluated, so with the mean logits of the crops.
            inputs |= {"selection": selected[name]} if name in selected else crops_input
        heads[name] = create_run("train_head", settings, inputs, **labels)
        evaluation = create_run("evaluate", evaluated, {"head": heads[name], **source, **crops_input}, **labels)
        runs += [heads[name], evaluation]
    return runs


def _adapt_run(study: Study, finetuning: str | None, features: Run, create_run: _RunFactory) -> Run:
    """Return the run that learns the weights of the experts of a finetuning on the test images."""
    assert study.adapt is not None
    labels = {**TRANSDUCTIVE, **({} if finetuning is None else {"finetuning": finetuning})}
    # The features of the augmented test images are not stored, so that the run computes them.
    return create_run("adapt", {"adapt": study.adapt}, {"features": features, **features.inputs}, **labels)


def _crops_run(study: Study, finetuning: str | None, features: Run, create_run: _RunFactory) -> Run | None:
    """Return the run that computes the crops of val and test; None if the evaluation uses one central crop.

    Its inputs are those of the run that computes the other features, so that studies that differ only in crops share
    this run and all trained heads.
    """
    if study.evaluate is None:
        return None
    holdout = features.settings.get(HOLDOUT)
    computed = features if "images" in features.inputs else features.inputs["features"]
    # The section `features` determines which files the run writes.
    settings: dict[str, Any] = {CROPS: study.evaluate.crops, "features": study.features}
    settings |= {} if holdout is None else {HOLDOUT: holdout}
    labels = {CROPS: str(study.evaluate.crops), **({} if finetuning is None else {"finetuning": finetuning})}
    return create_run("features", settings, {"features": computed, **computed.inputs}, **labels)


def _shot_counts(study: Study, *, held_out: bool) -> dict[str, str]:
    """Return the setting of the runs whose groups of classes do not depend on a holdout.

    Args:
        study: The study, which may have a `dataset.holdout`.
        held_out: Whether the runs belong to a branch that holds out images.
    """
    if held_out or getattr(study.dataset, "holdout", None) is not None:
        return {SHOT_COUNTS: "before holdout"}
    return {}


def _is_finetuned_classifier(head: Head) -> bool:
    """Return whether a head is the finetuned classifier, which the features run stores."""
    return isinstance(head, Finetuned) or (isinstance(head, Ce) and head.training is None)
