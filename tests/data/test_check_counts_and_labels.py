"""Checks for counts and labels, and the dataset manifest."""

from __future__ import annotations

from mem.data.check.check import check
from mem.data.check.findings import Severity
from mem.data.datasets.manifest import count_differences, describe, write_label_map
from tests.data.twelve_classes import CLASSES, PER_CLASS, all_entries, entries, image_set, printed, reference


def test_published_counts_pass(root):
    findings = check(image_set(root, reference=reference()))
    assert findings.status == 0
    assert any("counts per split, class and shot group match Twelve (2026)" in line for line in findings.passed)


def test_all_differences_from_the_published_counts_are_reported(root):
    images = image_set(
        root, reference=reference(images={"train": 50, "test": 24}, groups=(1, 0, 11), per_class={"test": 3})
    )
    assert count_differences(images) == [
        "images of train: 48 here, 50 published",
        "classes of test without the published 3 images: 12",
        "many-shot classes (many>100 few<20): 0 here, 1 published",
        "few-shot classes (many>100 few<20): 12 here, 11 published",
    ]
    findings = check(images)
    assert findings.status == 1
    assert "images of train: 48 here, 50 published" in printed(findings, Severity.WARNING)


def test_held_out_images_count_as_train(root):
    counts = reference(images={"train": 60, "val": 0, "test": 24}, largest=5, smallest=5)
    assert count_differences(image_set(root, reference=counts, held_out=True)) == []
    assert count_differences(image_set(root, reference=counts)) != []


def test_a_class_without_training_images_is_an_error(root):
    lists = all_entries()
    lists["train"] = [row for row in lists["train"] if row[1] != 7]
    assert "1 class has no training images: class 7" in printed(check(image_set(root, lists)))


def test_duplicates_in_one_split_and_in_two_are_reported_together(root):
    lists = all_entries()
    lists["test"] += lists["train"][:2]
    lists["train"] += lists["train"][:1]
    text = printed(check(image_set(root, lists)))
    assert "1 image is listed twice in train: train/c00/000.jpg" in text
    assert "2 images are listed in both train and test: train/c00/000.jpg, train/c00/001.jpg" in text


def test_a_folder_with_another_label_in_another_split_is_a_warning(root):
    lists = all_entries()
    lists["test"] = [(path, 1 if path.startswith("test/c02") else label) for path, label in lists["test"]]
    text = printed(check(image_set(root, lists)), Severity.WARNING)
    assert "1 folder has images with several labels: c02 (labels 1, 2)" in text


def test_folders_that_are_not_classes_give_no_warning(tmp_path):
    lists = {
        split: [(f"{split}/all/{label}-{i}.jpg", label) for i, (_, label) in enumerate(rows)]
        for split, rows in all_entries().items()
    }
    assert not printed(check(image_set(tmp_path, lists)), Severity.WARNING)


def test_a_flat_split_next_to_class_folders_gives_no_warning(tmp_path):
    lists = all_entries()
    lists["test"] = [(f"val_256/{i}.jpg", label) for i, (_, label) in enumerate(lists["test"])]
    findings = check(image_set(tmp_path, lists))
    assert not findings.of(Severity.WARNING)
    assert any("each of 12 folders has one label" in line for line in findings.passed)


def test_numbered_folders_sorted_as_text_give_a_note(root):
    folders = sorted(map(str, range(CLASSES)))
    lists = {
        split: [(f"{split}/{folders[k]}/{i}.jpg", k) for i, (_, k) in enumerate(entries(split))] for split in PER_CLASS
    }
    text = printed(check(image_set(root, lists)), Severity.NOTE)
    assert "Labels follow the numbered folders sorted as text: label 2 is folder 10" in text


def test_the_manifest_has_label_map_shot_groups_and_comparison(root):
    manifest = describe(image_set(root, reference=reference()))
    assert manifest["folders"][3] == "train/c03"
    assert manifest["shots"] == "many>100 few<20"
    assert manifest["groups"] == {"many": 0, "medium": 0, "few": 12}
    assert manifest["published"] == {"data_set": "Twelve (2026)", "agrees": True, "differences": []}


def test_the_label_map_is_written(root, tmp_path):
    write_label_map(image_set(root), tmp_path / "labels.csv")
    lines = (tmp_path / "labels.csv").read_text().splitlines()
    assert lines[0] == "label,name,folder,train,val,test"
    assert lines[4] == "3,class 3,train/c03,4,1,2"
    assert len(lines) == 13
