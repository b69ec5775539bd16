"""The files for GitHub name commands, tiers and files that exist, and actions by their commit."""

from __future__ import annotations

import re
import tomllib
from typing import Any

import pytest
import yaml

from tests.conftest import REPOSITORY

GITHUB = REPOSITORY / ".github"
WORKFLOWS = sorted(GITHUB.glob("workflows/*.yml"))
FORMS = [path for path in sorted(GITHUB.glob("ISSUE_TEMPLATE/*.yml")) if path.name != "config.yml"]
TYPES = {"markdown", "textarea", "input", "checkboxes", "dropdown"}
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())


def steps(path) -> list[dict[str, Any]]:
    """Return the steps of all jobs of a workflow, or of an action."""
    content = yaml.safe_load(path.read_text())
    parts = [content["runs"]] if "runs" in content else content["jobs"].values()
    return [step for part in parts for step in part["steps"]]


@pytest.mark.parametrize("path", [*WORKFLOWS, GITHUB / "actions" / "setup" / "action.yml"], ids=lambda path: path.stem)
def test_every_step_uses_a_target_of_make_or_an_action_at_a_commit(path):
    targets = set(re.findall(r"^([\w-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    for step in steps(path):
        if action := step.get("uses"):
            local = action.startswith("./") and (REPOSITORY / action / "action.yml").is_file()
            assert local or re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", action), action
            assert local or re.search(rf"{re.escape(action)}  # v\d", path.read_text()), f"{action} needs its version"
        else:
            assert set(re.findall(r"\bmake ([\w-]+)", step["run"])) <= targets, step


def test_the_tiers_are_those_of_the_tests():
    (workflow,) = WORKFLOWS
    jobs = yaml.safe_load(workflow.read_text())["jobs"]
    tiers = {entry["tier"]: entry["tests"] for entry in jobs["tier"]["strategy"]["matrix"]["include"]}
    markers = {marker.partition(":")[0] for marker in PROJECT["tool"]["pytest"]["ini_options"]["markers"]}
    assert set(tiers) | {"gpu"} == markers
    for tier, expression in tiers.items():
        assert set(re.findall(r"\w+", expression)) - {"and", "not"} <= markers
        assert re.search(rf"(?<!not )\b{tier}\b", expression)


def test_the_supported_versions_of_python_are_tested_and_named_in_the_metadata():
    (workflow,) = WORKFLOWS
    tested = yaml.safe_load(workflow.read_text())["jobs"]["check"]["strategy"]["matrix"]["python"]
    named = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["project"]["classifiers"]))
    low, high = re.findall(r"3\.(\d+)", PROJECT["project"]["requires-python"])
    assert tested == named == [f"3.{minor}" for minor in range(int(low), int(high))]


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_issue_forms_are_complete(path):
    form = yaml.safe_load(path.read_text())
    assert form["name"]
    assert form["description"]
    fields = [element for element in form["body"] if element["type"] != "markdown"]
    assert {element["type"] for element in form["body"]} <= TYPES
    identifiers = [field["id"] for field in fields]
    assert len(identifiers) == len(set(identifiers))
    assert all(field["attributes"]["label"] for field in fields)
    assert any(field.get("validations", {}).get("required") for field in fields)


def test_the_citation_names_the_version_of_the_package():
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["project"]["version"]
    assert PROJECT["project"]["license"] == citation["license"]
