"""The commands of the tutorial on own images, run as they are on the page, with fewer images and a smaller input."""

from __future__ import annotations

import csv
import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.workflow.conftest import ENVIRONMENT

pytestmark = pytest.mark.workflow
PAGE = (REPOSITORY / "docs" / "tutorial" / "own-images.md").read_text()
FEWER = "--val-per-class 5 --test-per-class 5"
SMALLER = (
    ("docs/tutorial/fashion_folder.py data/my_pictures", f"{{script}} data/my_pictures {FEWER}"),
    ("snakemake --cores 2", "snakemake --snakefile {snakefile} --cores 2"),
)
"""Replacements in the commands: the tests run them outside of the repository, on fewer images."""
OMITTED = ("mem config", "mem plan", "mem data show", "mem results")
"""Commands that other tests run and that take seconds."""


def blocks(language: str) -> list[str]:
    """Return the code blocks of the page in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder in which all commands of the page have run. Their output is in `output.txt`."""
    folder = tmp_path_factory.mktemp("tutorial")
    (study,) = (block for block in blocks("yaml") if block.startswith("study:"))
    for old, new in (("image_size: 64", "image_size: 32"), ("views: 2", "views: 0"), ("epochs: 20", "epochs: 5")):
        assert old in study, old
        study = study.replace(old, new)
    (folder / "my_pictures.yaml").write_text(study)
    commands = "".join(blocks("sh")).splitlines()
    script = "\n".join(command for command in commands if not command.startswith(OMITTED))
    for old, new in SMALLER:
        assert old in script, old
        paths = {"script": REPOSITORY / "docs/tutorial/fashion_folder.py", "snakefile": REPOSITORY / "Snakefile"}
        script = script.replace(old, new.format(**paths))
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
    (folder / "output.txt").write_text(done.stdout)
    return folder


def test_every_command_succeeds_and_the_report_contains_every_head(folder: Path):
    assert (folder / "results" / "my_pictures" / "report" / "index.html").is_file()
    with open(folder / "results" / "my_pictures" / "report" / "results.csv", encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "test"]
    scores = {row["variant"]: float(row["all"]) for row in rows}
    assert set(scores) == {"ce", "logit_adjusted_loss", "crt", "ncm"}
    assert max(scores.values()) > 30, scores  # the accuracy of random guessing is 10 %


def test_the_weights_are_mapped_completely(folder: Path):
    (run,) = (folder / "runs" / "my_pictures" / "lite0").glob("features-*/run.json")
    initial = json.loads(run.read_text())["results"]["initial"]
    assert not initial["missing"]


def test_the_check_prints_what_the_page_shows(folder: Path):
    # The sizes of val and test differ from those on the page.
    shown = re.search(r"^my_pictures: .*\n.*$", PAGE, re.MULTILINE)
    assert shown
    for part in re.findall(r"[\d,]+ train|in 10 classes|\d+ to \d+ training images per class.*", shown[0]):
        assert part in (folder / "output.txt").read_text()


def test_pictures_are_classified_with_the_registered_head(folder: Path):
    with open(folder / "predictions.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 5
    assert all(not row.get("error") for row in rows)
