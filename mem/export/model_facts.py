"""What is known about an exported head from its runs: data, scores, training and provenance."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mem.config import Crops
from mem.export.lineage import Lineage, root_of
from mem.runs.folder import read_record
from mem.runs.keys import CROPS

UNKNOWN_LICENCE = "unknown"
"""The Hugging Face Hub's identifier for a licence that is not known."""
_DATA_TERMS: Mapping[str, str] = {
    "fashion_mnist": "MIT (LICENSE of zalandoresearch/fashion-mnist at 5e60fd2)",
    "inaturalist2018": "non-commercial research and educational purposes only, no distribution of the images "
    "(2018/README.md of visipedia/inat_comp at 1509ec0)",
}
"""Terms of published datasets by source, as the named files state them. Terms that were not read are not listed."""


@dataclass(frozen=True)
class ModelFacts:
    """Facts about an exported head."""

    about: Mapping[str, Any]
    """Content of export.json."""
    records: Mapping[str, Mapping[str, Any]]
    """The run.json of each run that the head is based on, by stage. `evaluate` is missing without an evaluation."""
    manifest: Mapping[str, Any]
    """Content of dataset.json."""
    metrics: Mapping[str, Any] | None
    """Content of metrics.json; None without an evaluation."""

    @property
    def name(self) -> str:
        """Name of the model: dataset, backbone and head."""
        labels = self.about["labels"]
        return f"{self.about['dataset']}-{self.about['backbone']['name']}-{labels.get('variant', labels.get('method'))}"

    @property
    def crops(self) -> Crops | None:
        """Crops of each image whose logits are averaged in the evaluation; None for one central crop."""
        found = (self.metrics or {}).get(CROPS)
        return Crops(**found) if found else None

    @property
    def source(self) -> str:
        """Source of the dataset, as in the study."""
        return self.records["convert"]["settings"]["dataset"].get("source", "")

    @property
    def data_licence(self) -> str:
        """Terms of the dataset."""
        return _DATA_TERMS.get(self.source, "not known to mem: state it here before you publish the model")

    @property
    def initial(self) -> Mapping[str, Any] | None:
        """The record of the initial weights; None if training started from random weights."""
        records = (self.records[stage] for stage in ("finetune", "pretrain", "features") if stage in self.records)
        return next((r["results"]["initial"] for r in records if "initial" in r["results"]), None)

    @property
    def licence(self) -> str:
        """Licence of the initial weights, which the trained weights are derived from."""
        return self._stated_licence.get("name") or UNKNOWN_LICENCE

    @property
    def licence_link(self) -> str | None:
        """Address of the text of the licence, if the publisher of the initial weights states one."""
        return self._stated_licence.get("link")

    @property
    def _stated_licence(self) -> Mapping[str, Any]:
        return (self.initial or {}).get("licence") or {}


def facts_of(runs: Lineage, about: Mapping[str, Any]) -> ModelFacts:
    """Read the records of a head's runs.

    Args:
        runs: The runs.
        about: Content of export.json.

    Raises:
        UserError: A record cannot be read.
    """
    records = {
        "train_head": read_record(runs.head),
        "features": read_record(runs.features),
        **({} if runs.frozen else {"finetune": read_record(runs.backbone)}),
        "convert": read_record(runs.images),
    }
    encoder = records["features" if runs.frozen else "finetune"]["inputs"].get("encoder")
    if encoder and (folder := root_of(runs.head) / encoder).joinpath("run.json").is_file():
        records["pretrain"] = read_record(folder)
    metrics = None
    if evaluations := _evaluations(runs.head):
        # The network classifies one crop, so that scores of one crop are preferred to those of several.
        evaluation = min(evaluations, key=lambda path: CROPS in evaluations[path])
        records["evaluate"], metrics = read_record(evaluation), evaluations[evaluation]
    manifest = json.loads((runs.images / "dataset.json").read_text(encoding="utf-8", errors="surrogateescape"))
    return ModelFacts(about, records, manifest, metrics)


def _evaluations(head: Path) -> dict[Path, dict[str, Any]]:
    """Return the run folders of the evaluations of a head, with the contents of metrics.json."""
    found: dict[Path, dict[str, Any]] = {}
    for path in sorted(head.resolve().parent.glob("evaluate-*/run.json")):
        evaluated = Path(read_record(path.parent)["inputs"].get("head", ""))
        metrics = path.parent / "metrics.json"
        if evaluated.name == head.resolve().name and metrics.is_file():
            found[path.parent] = json.loads(metrics.read_text())
    return found
