"""Readers for all datasets, applied to miniatures, with details of published lists and iNaturalist."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mem.data.datasets.imagenet_lt import canonical_name as imagenet_name
from mem.data.datasets.places_lt import canonical_name as places_name
from mem.data.datasets.reference_counts import IMAGENET_LT, INATURALIST_2018, PLACES_LT
from mem.errors import UserError
from tests.data import miniatures
from tests.data.miniatures import MINIATURES
from tests.data.reading import assert_same, counts_of, pixels, read


@pytest.mark.parametrize("name", MINIATURES)
def test_every_miniature_is_read_with_its_files(name, tmp_path):
    images = read(MINIATURES[name](tmp_path))
    classes = len(images.classes)
    assert min(counts_of(images.train, classes)) >= 1
    assert min(counts_of(images.test, classes)) >= 1
    for split in images.splits.values():
        assert split.files is not None
        assert len(split.labels) == len(split.names) == len(split.files)
        for file in split.files:
            assert Path(file).is_file()
        if len(split):
            assert isinstance(split.read(0), bytes)
            assert split.read(len(split) - 1) == Path(split.files[-1]).read_bytes()


@pytest.mark.parametrize("name", MINIATURES)
def test_labels_match_the_images(name, tmp_path):
    """Colours depend on the class, so images of a class are closer to each other than to images of other classes."""
    images = read(MINIATURES[name](tmp_path))
    means = np.stack([pixels(images.train, i).mean(axis=(0, 1)) for i in range(len(images.train))])
    centres = np.stack([means[images.train.labels == k].mean(axis=0) for k in range(len(images.classes))])
    spread = np.linalg.norm(means - centres[images.train.labels], axis=1).mean()
    assert spread < 0.5 * np.linalg.norm(means - centres.mean(axis=0), axis=1).mean()


# --- the paper's datasets ---------------------------------------------------------------------------------


def test_imagenets_val_images_may_be_in_synset_folders_or_not(tmp_path):
    with_folders = read(miniatures.imagenet_lt(tmp_path / "a"))
    without = read(miniatures.imagenet_lt(tmp_path / "b", synset_folders=False))
    assert_same(with_folders, without)
    assert without.classes == miniatures.SYNSETS
    assert with_folders.reference is IMAGENET_LT
    assert "/val/n0" in with_folders.test.files[0]
    assert "/val/ILSVRC" in without.test.files[0]


def test_both_layouts_of_places_give_the_same_images_in_the_same_sequence(tmp_path):
    easy = read(miniatures.places_lt(tmp_path / "easy"))
    other = read(miniatures.places_lt(tmp_path / "other", easy=False))
    assert_same(easy, other)
    assert easy.classes == ("airfield", "apartment_building-outdoor", "arch", "zen_garden")
    assert easy.reference is PLACES_LT
    assert "data_256/a/apartment_building/outdoor/" in " ".join(other.train.files)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("train/airfield/00004851.jpg", ("train/airfield/00004851.jpg", "airfield")),
        ("data_256/a/airfield/00004851.jpg", ("train/airfield/00004851.jpg", "airfield")),
        ("places365_standard/train/airfield/1.jpg", ("train/airfield/1.jpg", "airfield")),
        ("data_256/b/bow_window/indoor/1.jpg", ("train/bow_window-indoor/1.jpg", "bow_window-indoor")),
        ("train/bow_window-indoor/1.jpg", ("train/bow_window-indoor/1.jpg", "bow_window-indoor")),
        ("val/airfield/Places365_val_1.jpg", ("val/Places365_val_1.jpg", "airfield")),
        ("val_256/Places365_val_1.jpg", ("val/Places365_val_1.jpg", "")),
        ("airfield/1.jpg", None),
    ],
)
def test_a_places_image_has_the_same_name_in_all_layouts(path, expected):
    assert places_name(path) == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("train/n01440764/n01440764_190.JPEG", ("train/n01440764/n01440764_190.JPEG", "n01440764")),
        ("ILSVRC/Data/CLS-LOC/train/n01440764/x.JPEG", ("train/n01440764/x.JPEG", "n01440764")),
        ("val/n01440764/ILSVRC2012_val_1.JPEG", ("val/ILSVRC2012_val_1.JPEG", "n01440764")),
        ("val/ILSVRC2012_val_1.JPEG", ("val/ILSVRC2012_val_1.JPEG", "")),
        ("train/airfield/1.jpg", None),
    ],
)
def test_an_imagenet_image_has_the_same_name_in_all_layouts(path, expected):
    assert imagenet_name(path) == expected


def test_lists_with_differently_numbered_labels_are_refused(tmp_path):
    values = miniatures.imagenet_lt(tmp_path)
    rows = [line.split() for line in Path(values["test_list"]).read_text().splitlines()]
    miniatures.write_list(Path(values["test_list"]), [(path, (int(label) + 1) % 12) for path, label in rows])
    with pytest.raises(UserError) as error:
        read(values)
    assert "images whose folder and label contradict an earlier line (48)" in str(error.value)
    assert "test, line 1: val/n01440764/" in str(error.value)
    assert "their labels are numbered differently" in str(error.value)


def test_lists_of_another_data_set_are_refused(tmp_path):
    values = miniatures.places_lt(tmp_path) | {"source": "imagenet_lt"}
    with pytest.raises(
        UserError, match=r"paths that do not belong to this dataset \(\d+\): line 1: train/airfield/"
    ) as error:
        read(values)
    assert "Expected train/n01440764/NAME.JPEG" in str(error.value)


def test_inaturalist_lists_and_json_give_the_same_images_and_labels(tmp_path):
    from_json = read(miniatures.inaturalist_2018(tmp_path))
    from_lists = read(miniatures.inaturalist_2018(tmp_path, json_form=False))
    assert from_json.train.names == from_lists.train.names
    assert from_json.test.names == from_lists.test.names
    np.testing.assert_array_equal(from_json.train.labels, from_lists.train.labels)
    np.testing.assert_array_equal(from_json.test.labels, from_lists.test.labels)
    assert from_json.classes[11] == "Species numberl11"
    assert from_lists.classes[11] == "11"
    assert (len(from_json.val), from_json.reference) == (0, INATURALIST_2018)


@pytest.mark.parametrize("json_form", [True, False])
def test_inaturalist_labels_are_category_ids_and_not_positions_among_sorted_strings(tmp_path, json_form):
    images = read(miniatures.inaturalist_2018(tmp_path, json_form))
    folders = [int(name.split("/")[1]) for name in images.train.names]
    assert images.train.labels.tolist() == folders
    sorted_as_strings = sorted(map(str, range(12)))
    assert images.train.labels.tolist() != [sorted_as_strings.index(str(k)) for k in folders]


def test_an_inaturalist_list_created_with_image_folder_is_refused(tmp_path):
    values = miniatures.inaturalist_2018(tmp_path, json_form=False)
    position = {name: k for k, name in enumerate(sorted(map(str, range(12))))}
    for key in ("train_list", "test_list"):
        rows = [line.split() for line in Path(values[key]).read_text().splitlines()]
        miniatures.write_list(Path(values[key]), [(path, position[label]) for path, label in rows])
    with pytest.raises(UserError, match="labels that are not the category id of their folder") as error:
        read(values)
    assert "as ImageFolder does" in str(error.value)
