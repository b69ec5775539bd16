"""`mem runs gc`: which runs it removes, and when it refuses because it is unknown what a study needs."""

from __future__ import annotations

import pytest

from mem.cli.main import main
from mem.errors import UserError
from mem.runs.garbage import collect_garbage
from tests.conftest import REPOSITORY
from tests.runs.mini_runs import CHANGED, MINI, runs_of, stored, yes


def test_gc_removes_what_no_study_needs(root, capsys):
    needed = {run.key for run in runs_of()}
    unneeded = {run.key for run in runs_of(CHANGED)} - needed
    assert stored(root) == needed | unneeded
    assert collect_garbage([], root, yes) == 0
    assert stored(root) == needed
    out = capsys.readouterr().out
    assert all(key in out for key in unneeded)
    assert "3 runs of 20" in out and "study mini" in out
    collect_garbage([], root, yes)
    assert "There is nothing to remove" in capsys.readouterr().out


def test_gc_keeps_the_runs_of_named_studies_and_with_only_no_others(root):
    (root / "more.yaml").write_text("extends: config/mini.yaml\nheads: {mem: {xi: 35.0}}\n")
    before = stored(root)
    assert main(["runs", "gc", "more.yaml", "--yes"]) == 0
    assert stored(root) == before
    assert main(["runs", "gc", "more.yaml", "--only", "--yes"]) == 0
    assert stored(root) == {run.key for run in runs_of(CHANGED)}


def test_gc_refuses_if_it_is_unknown_what_a_study_needs(root, capsys):
    before = stored(root)
    (root / "config/broken.yaml").write_text("study: broken\ndataset: {source: digits, name: mini_digits}\n")
    assert main(["runs", "gc", "--yes"]) == 2
    err = capsys.readouterr().err
    assert "`dataset.cut` is missing" in err and "It is therefore unknown which runs config/broken.yaml needs" in err
    (root / "config/broken.yaml").unlink()
    (root / "config/mini.yaml").unlink()
    assert main(["runs", "gc", "--yes"]) == 2
    assert "No study uses the data sets in runs/, so all runs would be removed" in capsys.readouterr().err
    assert main(["runs", "gc", "--only", "--yes"]) == 2
    assert main(["runs", "gc", "missing", "--yes"]) == 2
    assert stored(root) == before


def test_gc_refuses_if_a_file_is_missing_whose_digest_is_in_keys(root, capsys):
    text = "extends: mini.yaml\nstudy: lists\ndataset: {source: lists, name: mini_digits, root: ., train_list: no.txt,"
    (root / "config/lists.yaml").write_text(
        f"{text} test: {{share: 0.2, seed: 0}}, pixel_mean: [0, 0, 0], pixel_std: [1, 1, 1], storage: raw}}\n"
        "heads: {tau: {taus: [0.5]}}\n"
    )
    assert main(["runs", "gc", "--yes"]) == 2
    assert "no.txt not found, but the digest of this file is part of run keys" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "missing"),
    [
        (
            f"extends: {REPOSITORY}/config/glyphs_lt.yaml\nstudy: f\ndataset: {{name: mini_digits, root: nowhere}}\n",
            "fonts in nowhere",
        ),
        (
            f"extends: {MINI}\nstudy: w\npretrain: null\ninitial: {{weights: 'local-dir:no'}}\n"
            "backbone: {name: t, kind: timm, model: vit_tiny_patch16_224, image_size: 224, norm_batch: null, "
            "center_crop: 0.9}\n",
            "weights in no",
        ),
    ],
    ids=["fonts", "weights"],
)
def test_gc_refuses_if_fonts_or_a_folder_of_weights_are_missing(root, capsys, settings, missing):
    (root / "config/other.yaml").write_text(settings)
    assert main(["runs", "gc", "--yes"]) == 2
    assert f"{missing} not found" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("more.yml", "extends: mini.yaml\nheads: {mem: {xi: 35.0}}\n"),
        ("linked/more.yaml", "extends: ../mini.yaml\nheads: {mem: {xi: 35.0}}\n"),
        ("flow.yaml", "{extends: mini.yaml, heads: {mem: {xi: 35.0}}}\n"),
        ("indented.yaml", "  extends: mini.yaml\n  heads: {mem: {xi: 35.0}}\n"),
    ],
)
def test_gc_finds_all_studies_in_config(root, tmp_path, file, text):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/again").symlink_to(tmp_path / "elsewhere")
    (root / "config/linked").symlink_to(tmp_path / "elsewhere")
    (root / "config" / file).write_text(text)
    before = stored(root)
    assert collect_garbage([], root, yes) == 0
    assert stored(root) == before


@pytest.mark.parametrize(
    ("study", "message"),
    [("mini", "no.txt not found, but the digest of this file"), ("unused", "No study uses the data sets in runs/")],
)
def test_gc_refuses_if_a_delivered_study_was_started_here_and_its_files_are_missing(
    root, tmp_path, monkeypatch, study, message
):
    (root / "config/mini.yaml").unlink()
    (tmp_path / "delivered").mkdir()
    (tmp_path / "delivered/lists.yaml").write_text(
        f"extends: {MINI}\nstudy: {study}\n"
        "dataset: {source: lists, name: mini_digits, root: ., train_list: no.txt, test: {share: 0.2, seed: 0}, "
        "pixel_mean: [0, 0, 0], pixel_std: [1, 1, 1], storage: raw}\nheads: {tau: {taus: [0.5]}}\n"
    )
    monkeypatch.setattr("mem.runs.garbage.study_folders", lambda: (tmp_path / "delivered",))
    with pytest.raises(UserError, match=message):
        collect_garbage([], root, yes)


def test_files_without_runs_are_named(root, capsys):
    (root / "config/changes.yaml").write_text("seeds: [5]\n")
    (root / "config/hub.yaml").write_text(
        "extends: mini.yaml\nstudy: hub\npretrain: null\ninitial: {weights: 'hf-hub:a/b'}\n"
        "backbone: {name: t, kind: timm, model: vit_tiny_patch16_224, image_size: 224, norm_batch: null, "
        "center_crop: 0.9}\n"
    )
    assert collect_garbage([], root, yes) == 0
    out = capsys.readouterr().out
    assert "config/changes.yaml is not a study of its own" in out
    assert "config/hub.yaml cannot be started, because initial.revision is missing" in out
