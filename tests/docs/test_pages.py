"""The links and examples in the documentation work."""

from __future__ import annotations

import re
import subprocess
import textwrap
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import timm
import torch
import yaml
from pydantic import TypeAdapter
from safetensors.torch import save_file

from mem.config import Dataset, Finetune
from mem.config.load import load_study
from mem.config.objectives import Objective
from tests.conftest import REPOSITORY


def files_of_the_repository(*patterns: str) -> list[Path]:
    """Return the files that git tracks or would add."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *patterns]
    listed = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    paths = [REPOSITORY / name for name in sorted(set(listed.splitlines()))]
    return [path for path in paths if path.is_file()]


@pytest.mark.parametrize("page", files_of_the_repository("*.md"), ids=lambda p: str(p.relative_to(REPOSITORY)))
def test_every_relative_link_of_a_page_exists(page: Path):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


@pytest.mark.stage
def test_no_file_names_a_path_or_package_index_of_one_machine():
    for path in files_of_the_repository():
        if path.suffix in (".png", ".svg"):
            continue
        content = path.read_text(errors="ignore")
        for forbidden in ("/" + "root/", "/" + "work/", "python" + "hosted.org", "--index-" + "url http"):
            assert forbidden not in content, (path, forbidden)


DATA = (REPOSITORY / "docs" / "how-to" / "data.md").read_text()
GLYPHS = (REPOSITORY / "docs" / "reference" / "glyphs.md").read_text()
BLOCKS = re.findall(r"```yaml\n(.*?)```", DATA + GLYPHS, re.DOTALL)
EXAMPLES = [block for block in BLOCKS if block.startswith("dataset:") and "source:" in block]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda block: yaml.safe_load(block)["dataset"]["source"])
def test_the_data_set_examples_are_valid(example: str):
    settings = TypeAdapter(Dataset).validate_python(yaml.safe_load(example)["dataset"])
    assert settings.has_val() is not False


def test_the_refit_example_replaces_the_holdout_by_a_selection(tmp_path: Path):
    (refit,) = (block for block in re.findall(r"```yaml\n(.*?)```", DATA, re.DOTALL) if block.startswith("# refit"))
    (tmp_path / "refit.yaml").write_text(refit)
    study = load_study([REPOSITORY / "config" / "cifar100_lt.yaml", tmp_path / "refit.yaml"])
    assert (study.study, study.dataset.has_val()) == ("cifar100_lt_refit", False)
    assert study.selection is not None
    assert len(study.heads["tau"].taus) > 1


PYTHON = re.findall(r"```python\n(.*?)```", (REPOSITORY / "docs" / "how-to" / "own-backbone.md").read_text(), re.DOTALL)


def test_the_five_line_example_for_a_custom_backbone_runs(tmp_path: Path, monkeypatch, capsys):
    (example,) = PYTHON
    assert len([line for line in example.splitlines() if line]) == 5
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    save_file(timm.create_model("resnet18", num_classes=10).state_dict(), "resnet18.safetensors")
    labels = np.repeat(np.arange(6), [101, 101, 30, 25, 10, 8])
    images = torch.randn(len(labels), 3, 32, 32)
    exec(example, {"train_images": images, "train_labels": labels, "test_images": images[:7]})
    assert capsys.readouterr().out.count("tensor(") == 3


def test_the_example_of_variants_of_finetuning_is_valid(tmp_path: Path):
    page = (REPOSITORY / "docs" / "how-to" / "compare-losses.md").read_text()
    blocks = re.findall(r"^ *```yaml\n(.*?)```", page, re.DOTALL | re.MULTILINE)
    (example,) = (textwrap.dedent(block) for block in blocks if "extends:" in block)
    file = tmp_path / "digits_losses.yaml"
    file.write_text(example.replace("extends: config/", f"extends: {REPOSITORY}/config/"))
    study = load_study([file])
    methods = [study.method_of(head) for head in study.heads.values() if head.finetuning is not None]
    assert methods == ["finetuned_balanced_softmax", "finetuned_logit_adjustment", "ce"]


def test_the_page_of_losses_names_every_objective_and_sampler():
    page = (REPOSITORY / "docs" / "explanation" / "long-tailed-losses.md").read_text()
    objectives = [section.model_fields["name"].annotation.__args__[0] for section in get_args(get_args(Objective)[0])]
    for name in objectives:
        assert name == "cross_entropy" or f"`objective: {name}`" in page, name
    for sampler in get_args(Finetune.model_fields["sampler"].annotation):
        assert sampler == "instance" or f"`finetune.sampler: {sampler}`" in page, sampler
