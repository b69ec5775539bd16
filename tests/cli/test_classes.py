"""The commands `mem classes list` and `mem classes embed`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

from mem.models.class_embeddings.files import read_embeddings
from mem.models.class_embeddings.vectors import weight_vectors
from mem.models.weights.tensors import load_metadata
from tests.data.test_class_names import WORDS
from tests.stages.running import MINI_VALUES, call_mem
from tests.stages.text_model import NAME, PROMPTS, expected_rows, write_text_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("classes")
    write_text_model(folder)
    (folder / "names.txt").write_text("\n".join(WORDS))
    (folder / "study.yaml").write_text(yaml.safe_dump(MINI_VALUES))
    (folder / "names.yaml").write_text(yaml.safe_dump({"dataset": {"class_names": str(folder / "names.txt")}}))
    return folder


def test_the_names_are_listed(folder):
    assert call_mem(folder, "classes", "list", "study.yaml", "names.yaml").out.splitlines()[3].split() == [
        "3",
        "three",
        "three",
    ]
    printed = call_mem(folder, "classes", "list", "study.yaml").out
    assert "numbers as names" in printed.splitlines()[-1]


def test_text_features_are_written_with_names_and_projection(folder, tmp_path):
    out = tmp_path / "a.safetensors"
    prompts = [argument for prompt in PROMPTS for argument in ("--prompt", prompt)]
    weights = ("--model", NAME, "--weights", str(folder / "clip.pt"))
    printed = call_mem(folder, "classes", "embed", "study.yaml", "names.yaml", "--out", str(out), *weights, *prompts)
    assert "10 x 8 text features of mem-tiny" in printed.out
    about = load_metadata(out)
    assert (about["model"], about["prompts"].split("\n"), json.loads(about["classes"])) == (NAME, PROMPTS, list(WORDS))
    rows = weight_vectors(read_embeddings(out, WORDS[::-1]), 16)
    torch.testing.assert_close(rows, expected_rows(folder / "clip.pt", WORDS[::-1]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "Study mini has no text model (source: text). Specify one"),
        (("--pretrained", "openai"), "--pretrained requires --model"),
        (("--weights", "clip.pt"), "--weights requires --model"),
        (("--prompt", "a {}"), "--prompt requires --model"),
        (
            ("--model", NAME, "--weights", "clip.pt", "--prompt", "a"),
            "Invalid text model: `prompts`: expected exactly one {}",
        ),
        (("--model", "hf-hub:a/b", "--revision", "main"), "Invalid text model: `revision`: expected a commit (40"),
        (("--model", "hf-hub:a"), "Invalid text model: `model`: hf-hub:a: expected hf-hub:OWNER/REPOSITORY"),
        (("--model", NAME), "Invalid text model: set exactly one of `pretrained`"),
        (("--model", NAME, "--weights", "clip.pt"), "have numbers as names"),
    ],
)
def test_a_text_model_and_names_are_required(folder, tmp_path, arguments, message):
    out = str(tmp_path / "a.safetensors")
    assert message in call_mem(folder, "classes", "embed", "study.yaml", "--out", out, *arguments, status=2).err


def test_the_file_has_the_suffix_of_its_format(folder):
    errors = call_mem(folder, "classes", "embed", "study.yaml", "--out", "a.npy", status=2).err
    assert "a.npy: expected a file name that ends in .safetensors" in errors
