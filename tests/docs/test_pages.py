"""The documentation says what the code and the DAG say."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import yaml
from pydantic import TypeAdapter
from safetensors.torch import save_file

from mem.config import Dataset
from mem.study import load_study
from tests.conftest import REPOSITORY
from tests.docs.sources import PAGES


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(REPOSITORY)))
def test_links_lead_somewhere(page: Path):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def test_nothing_of_this_machine_stands_in_the_repository():
    listed = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    for name in listed.splitlines():
        path = REPOSITORY / name
        if path.suffix in (".png", ".svg") or not path.is_file():
            continue
        content = path.read_text(errors="ignore")
        for forbidden in ("/" + "root/", "/" + "work/", "python" + "hosted.org", "--index-" + "url http"):
            assert forbidden not in content, (name, forbidden)


DATA = (REPOSITORY / "docs" / "how-to" / "data.md").read_text()
EXAMPLES = [block for block in re.findall(r"```yaml\n(.*?)```", DATA, re.DOTALL) if block.startswith("dataset:")]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda block: yaml.safe_load(block)["dataset"]["source"])
def test_the_examples_of_data_sets_are_valid(example: str):
    settings = TypeAdapter(Dataset).validate_python(yaml.safe_load(example)["dataset"])
    assert settings.has_val() is not False


def test_the_example_of_a_refit_takes_the_holdout_away(tmp_path: Path):
    (refit,) = (block for block in re.findall(r"```yaml\n(.*?)```", DATA, re.DOTALL) if block.startswith("# refit"))
    (tmp_path / "refit.yaml").write_text(refit)
    study = load_study([REPOSITORY / "config" / "cifar100_lt.yaml", tmp_path / "refit.yaml"])
    assert (study.study, study.dataset.has_val(), study.heads["tau"].taus) == ("cifar100_lt_refit", False, (0.8,))


PYTHON = re.findall(r"```python\n(.*?)```", (REPOSITORY / "docs" / "how-to" / "own-backbone.md").read_text(), re.DOTALL)


def test_the_five_lines_on_ones_own_backbone_run(tmp_path: Path, monkeypatch, capsys):
    (example,) = PYTHON
    assert len([line for line in example.splitlines() if line]) == 5
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    save_file(timm.create_model("resnet18", num_classes=10).state_dict(), "resnet18.safetensors")
    labels = np.repeat(np.arange(6), [101, 101, 30, 25, 10, 8])
    images = torch.randn(len(labels), 3, 32, 32)
    exec(example, {"train_images": images, "train_labels": labels, "test_images": images[:7]})
    assert capsys.readouterr().out.count("tensor(") == 3
