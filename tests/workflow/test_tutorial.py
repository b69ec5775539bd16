"""The commands of the tutorial on own pictures, as they are on the page, with fewer pictures and a smaller study."""

from __future__ import annotations

import csv
import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from mem.config.load import load_study
from tests.conftest import REPOSITORY
from tests.workflow.conftest import ENVIRONMENT

pytestmark = pytest.mark.workflow
PAGE = (REPOSITORY / "docs" / "tutorial" / "own-images.md").read_text()
SCRIPT = "docs/tutorial/fashion_folder.py pictures"
ENTER = "cd clothes\n"
HEADS = ("ce", "balanced_softmax", "ncm")
OMITTED = ("mem data", "mem results")
"""Commands that other tests run and that take seconds."""


def commands() -> tuple[str, str]:
    """Return the commands of the page before and after the project folder is entered, for fewer pictures."""
    blocks = re.findall(r"^```sh\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    lines = "".join(blocks).splitlines(keepends=True)
    script = "".join(line for line in lines if not line.startswith(OMITTED))
    fewer = f"'{REPOSITORY / 'docs/tutorial/fashion_folder.py'}' pictures --val-per-class 5 --test-per-class 5"
    for old, new in ((SCRIPT, fewer), ("mem run clothes", "mem run clothes --cores 2")):
        assert script.count(old) == 1, old
        script = script.replace(old, new)
    create, use = script.split(ENTER)
    return create, use


def run(script: str, folder: Path) -> str:
    """Run commands in a folder, and return their output."""
    done = subprocess.run(
        ["bash", "-e", "-c", script],
        cwd=folder,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def make_smaller(file: Path) -> None:
    """Reduce the study to a few seconds, and to settings that do not depend on the speed of this machine."""
    study = yaml.safe_load(file.read_text())
    study["seeds"] = [0]
    study["backbone"]["image_size"] = 32
    study["features"]["views"] = 0
    study["heads"] = {name: study["heads"][name] for name in HEADS}
    for head in study["heads"].values():
        if head and "training" in head:
            head["training"] = {**head["training"], "epochs": 4}
    file.write_text(yaml.safe_dump(study, sort_keys=False))


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """The project folder, in which all commands of the page have run."""
    folder = tmp_path_factory.mktemp("tutorial")
    create, use = commands()
    (folder / "created.txt").write_text(run(create, folder))
    study = folder / "clothes" / "config" / "clothes.yaml"
    written = study.read_text()
    make_smaller(study)
    run(use, folder / "clothes")
    study.with_suffix(".written").write_text(written)
    return folder / "clothes"


def test_every_command_succeeds_and_the_report_contains_every_head(project: Path):
    assert (project / "results" / "clothes" / "report" / "index.html").is_file()
    with open(project / "results" / "clothes" / "report" / "results.csv", encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "test"]
    scores = {row["variant"]: float(row["all"]) for row in rows}
    assert set(scores) == set(HEADS)
    assert max(scores.values()) > 30, scores  # the accuracy of random guessing is 10 %


def test_the_weights_are_mapped_completely(project: Path):
    (features,) = (project / "runs" / "clothes" / "lite0").glob("features-*/run.json")
    initial = json.loads(features.read_text())["results"]["initial"]
    assert not initial["missing"]


def test_the_project_is_created_as_the_page_shows(project: Path):
    # The sizes of val and test, the image size and the number of seeds differ from those on the page.
    created = (project.parent / "created.txt").read_text()
    shown = re.search(r"^Pictures: .*\n.*$", PAGE, re.MULTILINE)
    assert shown
    pattern = (
        r"Pictures: [\d,]+ train|in 10 classes|with \d+ to \d+ training pictures per class|\d heads|many>.*few<\d+"
    )
    parts = re.findall(pattern, shown[0])
    assert len(parts) == 5
    for part in parts:
        assert part in created


def test_the_page_describes_the_study_that_is_written(project: Path, tmp_path: Path):
    file = tmp_path / "clothes.yaml"
    file.write_text((project / "config" / "clothes.written").read_text())
    study = load_study([file])
    assert study.finetune is None
    assert set(HEADS) < set(study.heads)
    for name in ("dataset", "seeds", "shots", "backbone", "initial", "features", "heads"):
        assert re.search(rf"^{name}:", file.read_text(), re.MULTILINE), name
        assert f"`{name}`" in PAGE


def test_pictures_are_classified_with_the_registered_head(project: Path):
    with open(project / "predictions.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 5
    assert all(not row.get("error") for row in rows)
