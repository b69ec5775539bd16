"""`mem data check` reports all problems in a dataset at once, with counts and examples."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from mem.cli.main import main
from mem.data.check.check import check
from mem.data.check.findings import Severity
from mem.data.datasets import read_unchecked
from tests.conftest import REPOSITORY
from tests.data import miniatures
from tests.data.twelve_classes import JPEG, all_entries, image_set, printed, reference


def test_a_complete_data_set_passes(root):
    findings = check(image_set(root))
    assert findings.status == 0
    assert findings.found == []
    text = "\n".join(findings.lines())
    assert "all 84 files in 36 folders exist and are not empty" in text
    assert "84 sampled files have image signatures" in text
    assert "each of 12 folders has one label, the same in every split" in text


def write_study(folder: Path, dataset: dict, **sections) -> Path:
    """Write the mini study with another dataset."""
    values = {"extends": str(REPOSITORY / "tests" / "mini.yaml"), "dataset": dataset, **sections}
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


# --- dataset miniatures ----------------------------------------------------------------------------

PUBLISHED = {
    "imagenet_lt": miniatures.imagenet_lt,
    "imagenet_lt, flat val": lambda folder: miniatures.imagenet_lt(folder, synset_folders=False),
    "places_lt": miniatures.places_lt,
    "places_lt, data_256": lambda folder: miniatures.places_lt(folder, easy=False),
    "inaturalist_2018": miniatures.inaturalist_2018,
    "inaturalist_2018, lists": lambda folder: miniatures.inaturalist_2018(folder, json_form=False),
}
CUSTOM = {
    "folders": miniatures.folder_tree,
    "one tree": lambda folder: miniatures.folder_tree(folder, split_folders=False),
    "lists": lambda folder: miniatures.long_tailed_png(folder, classes=20),
    "table": miniatures.table,
}


@pytest.mark.parametrize("build", CUSTOM.values(), ids=CUSTOM)
def test_user_provided_images_in_every_format_pass(tmp_path, build):
    findings = check(read_unchecked(miniatures.settings(build(tmp_path)), 0))
    assert findings.status == 0
    assert any("exist and are not empty" in line for line in findings.passed)


@pytest.mark.parametrize("build", PUBLISHED.values(), ids=PUBLISHED)
def test_a_miniature_of_a_published_data_set_has_its_files_but_other_counts(tmp_path, build):
    findings = check(read_unchecked(miniatures.settings(build(tmp_path)), 0))
    assert not findings.of(Severity.ERROR)
    assert "The counts differ from" in printed(findings, Severity.WARNING)
    assert "images of train:" in printed(findings, Severity.WARNING)


def test_lists_for_the_other_layout_of_places_are_recognised(tmp_path):
    values = miniatures.places_lt(tmp_path / "easy")
    other = miniatures.places_lt(tmp_path / "other", easy=False)
    text = printed(check(read_unchecked(miniatures.settings(values | {"root": other["root"]}), 0)))
    assert "The lists refer to train/, val/, but data_256/, val_256/ is on disk: a different Places archive" in text
    text = printed(check(read_unchecked(miniatures.settings(other | {"root": values["root"]}), 0)))
    assert "The lists refer to data_256/, val_256/, but train/, val/ is on disk: a different Places archive" in text


# --- the complete check -----------------------------------------------------------------------------------------


def test_all_problems_are_reported_at_once_most_serious_first(root):
    shutil.rmtree(root / "train/c11")
    (root / "val/c03/000.jpg").write_bytes(b"")
    (root / "train/c00/000.jpg").write_bytes(b"<html>")
    (root / "train/c00/more.jpg").write_bytes(JPEG)
    lists = all_entries()
    lists["test"] += lists["train"][:1]
    findings = check(image_set(root, lists, reference=reference(), notes=("Two lines were empty.",)))
    text = "\n".join(findings.lines())
    for part in (
        "listed in both train and test",
        "c11",
        "empty (0 bytes)",
        "is not an image",
        "The counts differ",
        "not in any list",
    ):
        assert part in text
    assert text.index("ERRORS") < text.index("WARNINGS") < text.index("NOTES") < text.index("PASSED")
    assert "Two lines were empty." in text


def test_the_command_checks_a_study_and_suggests_the_next_step(capsys, tmp_path):
    mini = str(REPOSITORY / "tests" / "mini.yaml")
    assert main(["data", "check", mini, "--labels", str(tmp_path / "labels.csv")]) == 0
    out = capsys.readouterr().out
    assert out.startswith("mini_digits: 489 train, 100 val, 200 test images in 10 classes\n  110 to 5 training images")
    assert out.splitlines()[-1].startswith("Next: run `mem data show ")
    assert (tmp_path / "labels.csv").is_file()


def test_the_suggested_commands_are_complete(capsys, tmp_path, monkeypatch):
    mini, over = REPOSITORY / "tests" / "mini.yaml", tmp_path / "my changes.yaml"
    over.write_text("seeds: [1]\n")
    monkeypatch.chdir(REPOSITORY)
    assert main(["data", "check", str(mini), str(over), "--order", "2"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == (
        f"Next: run `mem data show {mini} '{over}' --order 2`, or start the study: "
        f"`snakemake --cores 2 --config study={mini} --configfile '{over}'`"
    )
    monkeypatch.chdir(tmp_path)
    main(["data", "check", str(mini)])
    assert f"`mem run {mini}`" in capsys.readouterr().out
    path = write_study(tmp_path, miniatures.folder_tree(tmp_path, classes=3))
    next((tmp_path / "tree" / "train").rglob("*.*")).write_bytes(b"")
    assert main(["data", "check", str(path), "--deep"]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == (
        f"Next: fix the errors, then run `mem data check {path} --deep` again"
    )


def test_the_check_describes_a_holdout_with_the_thresholds_of_the_study(capsys, tmp_path):
    values = miniatures.folder_tree(tmp_path, classes=4, largest=20, split_folders=False)
    values |= {"holdout": {"share": 0.2, "seed": 0}}
    path = write_study(tmp_path, values, shots={"many_above": 16, "few_below": 2})
    assert main(["data", "check", str(path)]) == 0
    output = capsys.readouterr().out
    assert "`holdout` moved " in output.partition("NOTES")[2]
    assert "before the holdout (many>16 few<2)" in output.partition("NOTES")[2]
    # Without the images of the holdout, the largest class would be a medium-shot class.
    assert "15 to 2 training images per class" in output
    assert "training images per class; 1 many / 3 medium / 0 few" in output


def test_a_data_set_that_cannot_be_read_gives_status_2(capsys, tmp_path):
    over = tmp_path / "over.yaml"
    over.write_text("dataset: {cut: {counts: [1000, 5, 5, 5, 5, 5, 5, 5, 5, 5]}}\n")
    assert main(["data", "check", str(REPOSITORY / "tests" / "mini.yaml"), str(over)]) == 2
    assert "class 0 has" in capsys.readouterr().err


# --- with --deep ----------------------------------------------------------------------------------------------


def test_deep_reports_every_image_that_cannot_be_decoded(tmp_path):
    values = miniatures.places_lt(tmp_path)
    root = Path(values["root"])
    cut, text, empty = sorted((root / "train").rglob("*.jpg"))[:3]
    cut.write_bytes(cut.read_bytes()[:300])
    text.write_bytes(b"<html>not found</html>")
    empty.write_bytes(b"")
    images = read_unchecked(miniatures.settings(values), 0)
    decoded: list[int] = []
    findings = check(images, deep=True, done=decoded.append)
    total = sum(map(len, images.splits.values()))
    assert sum(decoded) == total
    assert f"2 of {total - 1} existing images cannot be decoded" in printed(findings)
    assert f"train/airfield/{cut.name} (" in printed(findings)
    assert f"train/airfield/{text.name} (is not in a supported image format" in printed(findings)
    assert "1 listed file is empty (0 bytes)" in printed(findings)


def test_deep_finds_the_same_image_in_train_and_test(tmp_path):
    values = miniatures.imagenet_lt(tmp_path)
    train = sorted((Path(values["root"]) / "train").rglob("*.JPEG"))
    test = sorted((Path(values["root"]) / "val").rglob("*.JPEG"))
    images = read_unchecked(miniatures.settings(values), 0)
    first, second, third = (Path(images.train.files[i]) for i in (0, 1, 2))  # type: ignore[index]
    assert {first, second, third} <= set(train)
    shutil.copy(first, test[5])
    shutil.copy(second, third)
    findings = check(images, deep=True)
    text = printed(findings, Severity.WARNING)
    assert (
        f"1 image of test has the same content as an image of train: val/{test[5].name} = {images.train.names[0]}"
        in text
    )
    assert "1 image of train has the same content as an earlier image" in printed(findings, Severity.NOTE)


def test_a_changed_image_changes_the_digest_of_contents_only(tmp_path):
    values = miniatures.folder_tree(tmp_path, classes=3)

    def digests() -> dict[str, str]:
        findings = check(read_unchecked(miniatures.settings(values), 0), deep=True)
        return dict(line.split(": ") for line in findings.passed if line.startswith("digest"))

    before = digests()
    assert digests() == before
    miniatures.write_image(Path(values["root"]) / "train/class1/train0.png", 1, 1)
    after = digests()
    assert after["digest of names and labels"] == before["digest of names and labels"]
    assert after["digest of contents"] != before["digest of contents"]
