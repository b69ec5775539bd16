"""`mem init`: a project folder with a study of pictures, and the messages about pictures that cannot be used."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mem.cli.main import main
from mem.config import Folder, Lists, Study
from mem.config.load import load_study
from mem.data.datasets import read_dataset
from mem.longtail import shot_groups
from mem.projects import design
from mem.projects.design import Speed, choose_shots, design_study
from mem.projects.pictures import Pictures, pictures_of_folder
from mem.runs.dag import study_runs
from tests.conftest import REPOSITORY

COUNTS = {"ant": 12, "bee": 6, "cat": 3}


@pytest.fixture(autouse=True)
def speed(monkeypatch) -> None:
    """The speed of the machine, which is not measured, so that the outcome does not depend on it."""
    monkeypatch.setattr(design, "measure_speed", lambda: Speed(1e-6, 2))


@pytest.fixture
def pictures(tmp_path, monkeypatch) -> Path:
    """A folder with three classes of pictures of 40 x 30 pixels, in the current folder."""
    monkeypatch.chdir(tmp_path)
    write_pictures(tmp_path / "pictures", COUNTS)
    return tmp_path / "pictures"


def write_pictures(folder: Path, counts: dict[str, int]) -> None:
    generator = np.random.default_rng(0)
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for i in range(count):
            cv2.imwrite(str(folder / name / f"{i}.png"), generator.integers(0, 256, (30, 40, 3), dtype=np.uint8))


def init(*arguments: str) -> int:
    return main(["init", *arguments])


def project_study(folder: Path) -> Study:
    (file,) = (folder / "config").glob("*.yaml")
    return load_study([file])


def test_without_pictures_the_project_contains_the_demo(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert init("demo") == 0
    written = {path.relative_to("demo").as_posix() for path in Path("demo").rglob("*") if path.is_file()}
    profiles = {"slurm/config.yaml", "local/config.yaml", "profiles/default/config.yaml"}
    assert written == {"config/digits_lt.yaml", *profiles}
    for name in written:
        assert Path("demo", name).read_bytes() == (REPOSITORY / name).read_bytes()
    out = capsys.readouterr().out
    assert "  cd demo\n  mem run digits_lt\n" in out


def test_a_folder_of_pictures_becomes_a_study(pictures, monkeypatch, capsys):
    assert init("birds", "--folder", "pictures") == 0
    out = capsys.readouterr().out
    assert "in 3 classes, with 10 to 2 training pictures per class. All of them can be read." in out
    assert "Estimated time on this machine, with 2 CPU cores: about " in out
    assert "  cd birds\n  mem run birds\n" in out
    study = project_study(Path("birds"))
    assert study.study == "birds"
    assert {"ce", "balanced_softmax", "logit_adjustment", "crt", "mem"} <= study.heads.keys()
    assert len(study_runs(study)) == 1 + len(study.seeds) * (1 + 2 * len(study.heads)) + 1
    assert (Path("birds") / str(study.initial.file if study.initial else "")).is_file()
    monkeypatch.chdir("birds")
    images = read_dataset(study.dataset, 0)
    assert all(len(split) for split in images.splits.values())
    counts = images.counts_before_holdout
    assert set(shot_groups(counts, study.shots).tolist()) == {0, 1, 2}, "MEM needs three groups"


def test_folders_of_splits_are_recognised(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for split, names in (
        ("Train", COUNTS),
        ("validation", dict.fromkeys(COUNTS, 1)),
        ("test", dict.fromkeys(COUNTS, 2)),
    ):
        write_pictures(tmp_path / "pictures" / split, names)
    assert init("birds", "--folder", "pictures") == 0
    dataset = project_study(Path("birds")).dataset
    assert isinstance(dataset, Folder)
    assert (dataset.train_folder, dataset.val_folder, dataset.test_folder) == ("Train", "validation", "test")
    assert dataset.test is None
    assert dataset.holdout is None


def test_a_class_can_have_the_name_of_a_split(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_pictures(tmp_path / "vehicles", {"bus": 9, "car": 12, "train": 5})
    assert init("roads", "--folder", "vehicles") == 0
    dataset = project_study(Path("roads")).dataset
    assert list(read_dataset(dataset, 0).classes) == ["bus", "car", "train"]


def test_a_picture_beside_the_class_folders_of_a_split_makes_it_no_class(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for split in ("train", "test"):
        write_pictures(tmp_path / "pictures" / split, COUNTS)
    write_pictures(tmp_path / "pictures", {"samples": 3})
    (tmp_path / "pictures" / "samples" / "0.png").rename(tmp_path / "pictures" / "train" / "montage.png")
    assert init("birds", "--folder", "pictures") == 0
    dataset = project_study(Path("birds")).dataset
    assert isinstance(dataset, Folder)
    assert (dataset.train_folder, dataset.test_folder) == ("train", "test")


def test_splits_without_class_folders_are_not_taken_for_classes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_pictures(tmp_path / "pictures", {"train": 9, "test": 5, "labels": 0})
    assert init("birds", "--folder", "pictures") == 2
    assert ".png, are not in folders of classes" in capsys.readouterr().err


def test_a_project_within_the_folder_of_pictures_is_refused(pictures, capsys):
    assert init(str(pictures / "birds"), "--folder", str(pictures)) == 2
    assert "this is within the folder of pictures" in capsys.readouterr().err
    assert not (pictures / "birds").exists()


@pytest.mark.parametrize(("separator", "label"), [(" ", "{class_number}"), ("\t", "{name}"), (",", "a {name}")])
def test_lists_of_pictures_become_a_study(pictures, separator, label):
    lines: dict[str, list[str]] = {"train.txt": [], "test.txt": []}
    for number, (name, count) in enumerate(COUNTS.items()):
        text = label.format(class_number=number, name=name)
        for i in range(count):
            lines["test.txt" if i == 0 else "train.txt"].append(f"{name}/{i}.png{separator}{text}\n")
    for file, content in lines.items():
        Path(file).write_text("".join(content))
    assert init("birds", "--lists", "train.txt", "test.txt", "--root", "pictures") == 0
    dataset = project_study(Path("birds")).dataset
    assert isinstance(dataset, Lists)
    images = read_dataset(dataset, 0)
    assert len(images.classes) == 3
    assert len(images.test) == 3


@pytest.mark.parametrize("name", ["2024", "null", "my birds!", "données"])
def test_every_folder_name_gives_a_valid_study_name(pictures, name):
    assert init(name, "--folder", "pictures") == 0
    assert project_study(Path(name)).study in ("2024", "null", "my_birds", "donn_es")


def test_a_path_with_special_characters_is_quoted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = 'it\'s: a "test" {é} #1'
    write_pictures(tmp_path / name, COUNTS)
    assert init("birds", "--folder", name) == 0
    dataset = project_study(Path("birds")).dataset
    assert isinstance(dataset, Folder)
    assert dataset.root == str(tmp_path / name)


def remove_all(folder: Path) -> None:
    for path in folder.glob("*/*"):
        path.unlink()


def leave_one_class(folder: Path) -> None:
    for path in [*folder.glob("bee/*"), *folder.glob("cat/*")]:
        path.unlink()


def flatten(folder: Path) -> None:
    for path in folder.glob("*/*"):
        path.rename(folder / f"{path.parent.name}-{path.name}")
    for name in COUNTS:
        (folder / name).rmdir()


def damage(folder: Path) -> None:
    path = folder / "bee" / "2.png"
    path.write_bytes(path.read_bytes()[:300])


def empty_class(folder: Path) -> None:
    (folder / "dog").mkdir()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (remove_all, "the folder contains no pictures. Expected one folder of pictures per class"),
        (leave_one_class, "there is only one class with pictures, ant. Expected one folder of pictures per class"),
        (flatten, "are not in folders of classes. Expected one folder of pictures per class"),
        (damage, "1 of 21 checked pictures cannot be read: bee/2.png is damaged or truncated"),
        (empty_class, "classes without pictures: dog"),
    ],
)
def test_unusable_pictures_are_one_message_and_nothing_is_written(pictures, capsys, change, expected):
    change(pictures)
    assert init("birds", "--folder", "pictures") == 2
    out, err = capsys.readouterr()
    assert expected in err
    assert err.count("mem: ") == 1
    assert not out
    assert not Path("birds").exists()


def test_a_list_with_one_class_is_one_message(pictures, capsys):
    Path("train.txt").write_text("ant/0.png 0\nant/1.png 0\nant/2.png 0\n")
    Path("test.txt").write_text("ant/3.png 0\n")
    assert init("birds", "--lists", "train.txt", "test.txt", "--root", "pictures") == 2
    assert "there is only one class" in capsys.readouterr().err
    assert not Path("birds").exists()


@pytest.mark.parametrize("given", [["--folder", "missing"], ["--lists", "missing.txt", "missing.txt"]])
def test_missing_pictures_are_one_message(pictures, capsys, given):
    assert init("birds", *given) == 2
    assert "no such " in capsys.readouterr().err
    assert not Path("birds").exists()


def test_existing_files_are_not_changed(pictures, capsys):
    assert init("pictures", "--folder", "pictures") == 2
    assert "the folder is not empty (it contains ant, bee, cat)" in capsys.readouterr().err
    assert init("pictures/ant/0.png") == 2
    assert "this is a file" in capsys.readouterr().err
    assert sum(path.is_file() for path in pictures.rglob("*")) == sum(COUNTS.values())
    Path("empty").mkdir()
    assert init("empty") == 0, "an empty folder can be used"


@pytest.mark.parametrize("given", [["--minutes", "5"], ["--root", "."]])
def test_options_of_pictures_need_pictures(pictures, capsys, given):
    with pytest.raises(SystemExit):
        init("demo", *given)
    assert "requires" in capsys.readouterr().err


def scaled(pictures: Pictures, short_side: int) -> Pictures:
    return Pictures(pictures.settings, pictures.images, short_side, pictures.decode_seconds, pictures.checked)


def test_the_study_fits_the_time(pictures):
    found = scaled(pictures_of_folder(pictures), 500)
    fast, slow = Speed(1e-9, 2), Speed(2e-4, 2)
    assert (design_study(found, fast, 12, 8).size, len(design_study(found, fast, 12, 8).seeds)) == (224, 3)
    designs = [design_study(found, slow, minutes, 8) for minutes in (0.01, 2, 5, 12, 60, 600)]
    assert all(each.minutes <= minutes for each, minutes in zip(designs[2:], (5, 12, 60, 600), strict=True))
    assert designs[0].minutes > 0.01, "the fastest settings are returned if the time is too short"
    assert [each.size for each in designs] == sorted(each.size for each in designs)
    assert designs[0].size < designs[-1].size


def test_small_pictures_are_not_enlarged_much_and_stay_uncompressed(pictures):
    found = pictures_of_folder(pictures)
    assert found.short_side == 30
    chosen = design_study(found, Speed(1e-9, 2), 12, 8)
    assert (chosen.size, chosen.short_side) == (64, None)
    large = design_study(scaled(found, 256), Speed(1e-9, 2), 12, 8)
    assert (large.size, large.short_side) == (224, 256)


@given(st.lists(st.integers(1, 300), min_size=2, max_size=30))
def test_no_shot_group_is_empty(counts):
    shots = choose_shots(np.array(counts))
    if len(set(counts)) >= 3:
        assert shots is not None
        assert set(shot_groups(np.array(counts), shots).tolist()) == {0, 1, 2}
    else:
        assert shots is None or set(shot_groups(np.array(counts), shots).tolist()) == {0, 1, 2}


def test_classes_of_equal_size_have_no_shot_groups_and_no_mem_head(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_pictures(tmp_path / "pictures", dict.fromkeys(COUNTS, 6))
    assert init("birds", "--folder", "pictures") == 0
    assert "mem" not in project_study(Path("birds")).heads
    assert "lacks the head `mem`" in capsys.readouterr().out
