"""Class embeddings from files and text models, names in words, and projections."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mem.config import TextEmbeddings
from mem.errors import UserError
from mem.models.class_embeddings.files import read_embeddings, write_embeddings
from mem.models.class_embeddings.names import names_in_words
from mem.models.class_embeddings.text import text_vectors
from mem.models.class_embeddings.vectors import ClassVectors, projection_in, weight_vectors
from tests.stages.text_model import NAME, PROMPTS, expected_rows, load_text_model, write_text_model

CLASSES = ("ant", "bee", "cat")
ROWS = torch.from_numpy(np.random.default_rng(0).normal(size=(3, 4))).float()


def refusal(path: Path, classes: tuple[str, ...] = CLASSES) -> str:
    with pytest.raises(UserError) as error:
        read_embeddings(path, classes)
    assert str(path) in str(error.value)
    return str(error.value)


def named_file(path: Path, names: object, rows: torch.Tensor = ROWS) -> Path:
    save_file({"embeddings": rows}, path, {"classes": json.dumps(names)})
    return path


def test_rows_of_a_file_are_matched_by_name_and_others_are_left_out(tmp_path):
    found = read_embeddings(named_file(tmp_path / "a.safetensors", ["cat", "ant", "bee"]), ("bee", "cat"))
    assert torch.equal(found.embeddings, ROWS[[2, 0]])


def test_names_of_a_file_may_be_the_words_of_wordnet_ids(tmp_path):
    path = named_file(tmp_path / "a.safetensors", ["goldfish", "tench", "x"])
    assert torch.equal(read_embeddings(path, ("n01440764", "n01443537")).embeddings, ROWS[[1, 0]])


def test_a_written_file_is_read_with_its_projection(tmp_path):
    vectors = ClassVectors(ROWS, "text", torch.ones(4, 6))
    write_embeddings(tmp_path / "a.safetensors", vectors, CLASSES, ("an ant", "a bee", "a cat"), {"model": "m"})
    found = read_embeddings(tmp_path / "a.safetensors", ("cat", "ant", "bee"))
    assert torch.equal(found.embeddings, ROWS[[2, 0, 1]])
    assert found.projection is not None and torch.equal(found.projection, torch.ones(4, 6))
    assert torch.equal(read_embeddings(tmp_path / "a.safetensors", ("a cat", "an ant")).embeddings, ROWS[[2, 0]])


def test_an_array_has_one_row_per_class(tmp_path):
    np.save(tmp_path / "a.npy", ROWS.numpy())
    assert torch.equal(read_embeddings(tmp_path / "a.npy", CLASSES).embeddings, ROWS)
    assert "has 3 class embeddings, but the dataset has 2 classes" in refusal(tmp_path / "a.npy", ("ant", "bee"))
    for dtype in (">f4", ">f8", np.longdouble):  # PyTorch has no such types
        np.save(tmp_path / "a.npy", ROWS.numpy().astype(dtype))
        assert torch.equal(read_embeddings(tmp_path / "a.npy", CLASSES).embeddings, ROWS)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            np.zeros((3, 4), np.float32),
            "3 of 3 class embeddings are 0 or contain NaN or infinite values (rows 0, 1, 2)",
        ),
        (np.full((3, 4), np.nan, np.float32), "contain NaN"),
        (np.ones(3, np.float32), "expected class embeddings as floating-point numbers of the shape (classes, width)"),
        (np.full((3, 4), 1e300), "contain NaN or infinite values"),
        (np.ones((3, 4), np.int64), "expected one array of floating-point numbers, found int64. Save it as float32"),
        (np.ones((3, 4), np.clongdouble), "expected one array of floating-point numbers, found complex"),
        (np.array(["a"]), "expected one array of floating-point numbers, found <U1"),
    ],
)
def test_arrays_that_are_no_embeddings_are_refused(tmp_path, values, message):
    np.save(tmp_path / "a.npy", values)
    assert message in refusal(tmp_path / "a.npy")


def test_files_without_embeddings_of_the_classes_are_refused(tmp_path):
    assert "file not found" in refusal(tmp_path / "a.npy")
    (tmp_path / "text.npy").write_text("no array")
    assert "cannot be read as an array" in refusal(tmp_path / "text.npy")
    (tmp_path / "text.safetensors").write_text("no array")
    assert "cannot be read as safetensors" in refusal(tmp_path / "text.safetensors")
    save_file({"rows": ROWS}, tmp_path / "a.safetensors")
    assert "has no tensor `embeddings`; it contains rows" in refusal(tmp_path / "a.safetensors")
    save_file({"embeddings": ROWS.long()}, tmp_path / "integers.safetensors")
    assert "found int64 of the shape (3, 4)" in refusal(tmp_path / "integers.safetensors")
    np.savez(tmp_path / "several.npz", rows=ROWS.numpy())
    (tmp_path / "several.npz").rename(tmp_path / "several.npy")
    assert "cannot be read as an array (.npy): it is an archive of arrays" in refusal(tmp_path / "several.npy")
    (tmp_path / "damaged.npy").write_bytes(b"PK\x03\x04" + bytes(100))
    assert "cannot be read as an array (.npy): it is an archive of arrays" in refusal(tmp_path / "damaged.npy")
    message = refusal(named_file(tmp_path / "b.safetensors", ["ant", "Bee", "dog"]))
    assert (
        "has no class embedding for 2 of 3 classes: 'bee', 'cat'. The file has the names 'ant', 'Bee', 'dog'" in message
    )
    assert "has 3 class embeddings, but 2 class names" in refusal(
        named_file(tmp_path / "c.safetensors", ["ant", "bee"])
    )
    assert "several class embeddings with the name 'ant'" in refusal(
        named_file(tmp_path / "d.safetensors", ["ant", "ant", "bee"]), ("ant", "bee")
    )
    assert "expected JSON lists of class names" in refusal(named_file(tmp_path / "e.safetensors", {"ant": 0}))


@pytest.mark.parametrize("suffix", [".npy", ".safetensors", ".pt"])
def test_a_pointer_of_git_lfs_is_recognised(tmp_path, suffix):
    path = tmp_path / f"file{suffix}"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(UserError, match=rf"file\{suffix}: this is a pointer of Git LFS.* Run `git lfs pull`"):
        if suffix == ".pt":
            text_vectors(settings(model="ViT-B-16", file=str(path)), CLASSES)
        else:
            read_embeddings(path, CLASSES)


def test_a_projection_of_another_width_in_a_file_is_refused(tmp_path):
    save_file({"embeddings": ROWS, "projection": torch.ones(5, 6)}, tmp_path / "a.safetensors")
    assert "`projection` has the shape (5, 6); expected (4, width of the features)" in refusal(
        tmp_path / "a.safetensors"
    )


def test_weight_vectors_have_norm_1_and_need_no_projection_of_the_same_width():
    rows = weight_vectors(ClassVectors(ROWS, "file"), 4)
    torch.testing.assert_close(rows, ROWS / ROWS.norm(dim=1, keepdim=True))
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(3))


def test_a_square_projection_is_applied():
    """Features and class embeddings can have the same width without being in the same space."""
    projection = torch.from_numpy(np.random.default_rng(1).normal(size=(4, 4))).float()
    rows = weight_vectors(ClassVectors(ROWS, "file"), 4, projection)
    expected = weight_vectors(ClassVectors(ROWS, "text", projection), 4, projection)
    torch.testing.assert_close(rows, expected)
    assert not torch.allclose(rows, weight_vectors(ClassVectors(ROWS, "file"), 4), atol=0.1)


@pytest.mark.parametrize("of_backbone", [None, torch.ones(5, 6)])
def test_embeddings_of_another_width_are_refused(of_backbone):
    with pytest.raises(UserError) as error:
        weight_vectors(ClassVectors(ROWS, "file"), 6, of_backbone)
    assert "file: the class embeddings have width 4, but the features of the backbone have width 6" in str(error.value)


def test_a_projection_for_another_backbone_is_refused():
    with pytest.raises(UserError, match="the projection is for features of width 7"):
        weight_vectors(ClassVectors(ROWS, "text", torch.ones(4, 7)), 6)


def test_a_text_model_that_was_not_trained_with_the_backbone_is_refused():
    projection = torch.from_numpy(np.random.default_rng(1).normal(size=(4, 6))).float()
    vectors = ClassVectors(ROWS, "text", projection)
    rounded = projection.half().float()
    torch.testing.assert_close(weight_vectors(vectors, 6, rounded), weight_vectors(vectors, 6), rtol=1e-2, atol=1e-3)
    with pytest.raises(UserError, match="trained with another text model"):
        weight_vectors(vectors, 6, projection.flip(0))


@pytest.mark.parametrize("prefix", ["", "module.", "backbone."])
def test_the_projection_in_weights_is_found(prefix):
    projection = torch.ones(4, 6)
    other = {f"{prefix}blocks.0.attn.proj.weight": torch.ones(6, 6), f"{prefix}norm.weight": torch.ones(6)}
    timm = projection_in({**other, f"{prefix}head.weight": projection}, 6)
    clip = projection_in({**other, f"{prefix}visual.proj": projection.T}, 6)
    assert timm is not None and clip is not None
    assert torch.equal(timm, projection) and torch.equal(clip, projection)
    # An ordinary classifier has a bias.
    assert projection_in({f"{prefix}head.weight": projection, f"{prefix}head.bias": torch.ones(4)}, 6) is None
    assert projection_in({f"{prefix}head.weight": projection}, 7) is None


def test_names_in_words():
    assert names_in_words(("apartment_building-outdoor", "tench")) == ("apartment building-outdoor", "tench")
    ids = ("n01440764", "n02012849", "n03126707", "n03710637", "n03710721")
    names = names_in_words(ids)
    assert names[0] == "tench"
    assert names[1].startswith("crane: large") and names[2].startswith("crane: lifts")
    assert names[3:] == ("maillot", "maillot, tank suit")
    with pytest.raises(UserError, match=r"numbers as names \(0, 1\).*Set dataset\.class_names"):
        names_in_words(("0", "1"))
    with pytest.raises(UserError, match="1 of 2 classes look like WordNet ids"):
        names_in_words(("n01440764", "n99999999"))


@pytest.fixture(scope="module")
def text_model(tmp_path_factory) -> Path:
    return write_text_model(tmp_path_factory.mktemp("text-model"))


def settings(**values: object) -> TextEmbeddings:
    return TextEmbeddings.model_validate({"source": "text", "model": NAME, "prompts": PROMPTS, **values})


def test_text_features_equal_those_of_open_clip(text_model):
    state, root = torch.random.get_rng_state(), logging.getLogger()
    log = root.level, list(root.handlers)
    vectors = text_vectors(settings(file=str(text_model)), CLASSES)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert (root.level, list(root.handlers)) == log
    expected = expected_rows(text_model, CLASSES)
    torch.testing.assert_close(weight_vectors(vectors, 16), expected, rtol=1e-4, atol=1e-5)


def test_a_repository_is_read_from_the_cache_and_nothing_is_downloaded(text_model, tmp_path, monkeypatch):
    commit = "0123456789" * 4
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    hub = settings(model="hf-hub:owner/clip", revision=commit)
    with pytest.raises(UserError, match=r"is not on this machine .* jobs download nothing.*mem classes embed"):
        text_vectors(hub, CLASSES)
    folder = tmp_path / "models--owner--clip" / "snapshots" / commit
    folder.mkdir(parents=True)
    config = json.loads((text_model.parent / f"{NAME}.json").read_text())
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    save_file(load_text_model(text_model).state_dict(), folder / "open_clip_model.safetensors")
    found, expected = text_vectors(hub, CLASSES), text_vectors(settings(file=str(text_model)), CLASSES)
    torch.testing.assert_close(found.embeddings, expected.embeddings)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model": "mem-tny", "pretrained": "openai"}, "open_clip has no model mem-tny. Similar names: mem-tiny"),
        ({"pretrained": "openai"}, "open_clip has no weights openai for mem-tiny. Available: none"),
        ({"model": "ViT-B-16", "pretrained": "openai"}, "trained with the activation QuickGELU"),
        ({"file": "absent.pt"}, "absent.pt: weights file of the text model not found"),
        ({"file": __file__}, "open_clip cannot load the text model mem-tiny"),
    ],
)
def test_unusable_text_models_are_refused(text_model, values, message):
    with pytest.raises(UserError) as error:
        text_vectors(settings(**values), CLASSES)
    assert message in str(error.value)


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(UserError, match=r"pip install 'mem-longtail\[text\]'"):
        text_vectors(settings(file="a.pt"), CLASSES)
