"""The check of counts and labels, and the manifest that it leaves."""

from __future__ import annotations

from mem.data.check.check import check
from mem.data.check.findings import Severity
from mem.data.datasets.manifest import count_differences, describe, write_label_map
from tests.data.twelve_classes import CLASSES, PER_CLASS, entries, image_set, known, told


def test_published_counts_are_confirmed(root):
    findings = check(image_set(root, reference=known()))
    assert findings.status == 0
    assert any("counts are those of Twelve (2026)" in line for line in findings.fine)


def test_other_counts_than_the_published_are_all_told(root):
    images = image_set(root, reference=known(images={"train": 50, "test": 24}, groups=(1, 0, 11), per_class={"test": 3}))
    assert count_differences(images) == [
        "images of train: 48 here, 50 published",
        "classes of test without the published 3 images: 12",
        "many-shot classes (many>100 few<20): 0 here, 1 published",
        "few-shot classes (many>100 few<20): 12 here, 11 published",
    ]
    findings = check(images)
    assert findings.status == 1
    assert "images of train: 48 here, 50 published" in told(findings, Severity.DOUBTFUL)


def test_a_holdout_counts_as_train(root):
    facts = known(images={"train": 60, "val": 0, "test": 24}, largest=5, smallest=5)
    assert count_differences(image_set(root, reference=facts, held_out=True)) == []
    assert count_differences(image_set(root, reference=facts)) != []


def test_a_class_without_a_training_image_is_named(root):
    lists = {split: entries(split) for split in PER_CLASS}
    lists["train"] = [row for row in lists["train"] if row[1] != 7]
    assert "1 class has no training image: class 7" in told(check(image_set(root, lists)))


def test_images_in_two_splits_and_twice_in_one_are_told_together(root):
    lists = {split: entries(split) for split in PER_CLASS}
    lists["test"] += lists["train"][:2]
    lists["train"] += lists["train"][:1]
    text = told(check(image_set(root, lists)))
    assert "1 image stands twice in train: train/c00/000.jpg" in text
    assert "2 images stand in train and in test: train/c00/000.jpg, train/c00/001.jpg" in text


def test_labels_that_are_numbered_otherwise_in_another_split_are_told(root):
    lists = {split: entries(split) for split in PER_CLASS}
    lists["test"] = [(path, 1 if path.startswith("test/c02") else label) for path, label in lists["test"]]
    text = told(check(image_set(root, lists)), Severity.DOUBTFUL)
    assert "1 folder holds images of several labels: c02 (labels 1, 2)" in text


def test_folders_that_are_no_classes_raise_no_doubt(tmp_path):
    lists = {split: [(path.replace("/c", "/all"), label) for path, label in entries(split)] for split in PER_CLASS}
    lists = {
        split: [(f"{split}/all/{label}-{i}.jpg", label) for i, (_, label) in enumerate(rows)]
        for split, rows in lists.items()
    }
    assert not told(check(image_set(tmp_path, lists)), Severity.DOUBTFUL)


def test_a_flat_split_beside_class_folders_raises_no_doubt(tmp_path):
    lists = {split: entries(split) for split in PER_CLASS}
    lists["test"] = [(f"val_256/{i}.jpg", label) for i, (_, label) in enumerate(lists["test"])]
    findings = check(image_set(tmp_path, lists))
    assert not findings.of(Severity.DOUBTFUL)
    assert any("each of 12 folders holds one label" in line for line in findings.fine)


def test_numbered_folders_sorted_as_text_are_noted(root):
    order = sorted(map(str, range(CLASSES)))
    lists = {
        split: [(f"{split}/{order[k]}/{i}.jpg", k) for i, (_, k) in enumerate(entries(split))] for split in PER_CLASS
    }
    text = told(check(image_set(root, lists)), Severity.NOTE)
    assert "Labels follow the numbers of the folders sorted as text: label 2 is folder 10" in text


def test_the_manifest_has_label_map_groups_and_verdict(root):
    manifest = describe(image_set(root, reference=known()))
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
