"""Studies that have views in MLflow: a tag of the experiment contains the addresses of the views of each study."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mem.errors import UserError

_VIEWS = "mem.views."
"""Prefix of the experiment's tags that contain the titles and addresses of views. The name of the study follows it."""


@dataclass(frozen=True)
class PublishedView:
    """A view of a study."""

    title: str
    address: str
    """Address relative to that of the UI."""


@dataclass(frozen=True)
class PublishedStudy:
    """A study and its views. The view that shows its heads is the first one."""

    name: str
    views: tuple[PublishedView, ...]


def publish_addresses(mlflow_client: Any, experiment: str, study: str, views: Sequence[PublishedView]) -> None:
    """Store the addresses of a study's views in its experiment."""
    value = json.dumps({view.title: view.address for view in views})
    mlflow_client.set_experiment_tag(experiment, _VIEWS + study, value)


def published_studies(mlflow_client: Any) -> list[PublishedStudy]:
    """Return the studies with views of all experiments, sorted by name.

    Raises:
        UserError: A tag has another content than `publish_addresses` writes.
    """
    studies: dict[str, PublishedStudy] = {}
    token: str | None = None
    while True:
        page = mlflow_client.search_experiments(page_token=token)
        for experiment in page:
            for tag, value in experiment.tags.items():
                if tag.startswith(_VIEWS):
                    study = tag.removeprefix(_VIEWS)
                    studies[study] = PublishedStudy(study, _views(experiment.name, tag, value))
        token = page.token
        if not token:
            return [studies[name] for name in sorted(studies)]


def _views(experiment: str, tag: str, value: str) -> tuple[PublishedView, ...]:
    try:
        content = json.loads(value)
    except ValueError:
        content = None
    if not isinstance(content, dict) or {type(address) for address in content.values()} != {str}:
        raise UserError(
            f"The tag {tag} of the MLflow experiment {experiment} is damaged. The next report of the study "
            "writes it again."
        )
    return tuple(PublishedView(title, address) for title, address in content.items())
