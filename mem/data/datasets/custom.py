"""Readers for user-provided images that are listed in list files or a table. For class folders, see `folder.py`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mem.config.custom_sources import Labelled, Lists, Table
from mem.data.datasets.base import ImageSet, empty_split, split_of_files
from mem.data.datasets.class_names import given_classes
from mem.data.datasets.index_files import Rows, read_list
from mem.data.datasets.labels import count_classes, named_labels, natural_sort, numeric_labels, require_labels
from mem.data.datasets.spellings import distinct_names, several_spellings
from mem.data.datasets.table import read_table


def read_lists(settings: Lists) -> ImageSet:
    """Read one list file per split. Images stay in the order of the lists.

    Raises:
        UserError: A list is missing or invalid, or a class has no training images.
    """
    files = {name: path for name, path in settings.index_files().items() if name != "class_names"}
    rows = {split: read_list(path, settings.separator) for split, path in files.items()}
    return _image_set(settings, rows, ", ".join(map(str, files.values())))


def read_table_rows(settings: Table) -> ImageSet:
    """Read a table. Images stay in the order of the rows.

    Raises:
        UserError: The table is missing or invalid, or a class has no training images.
    """
    return _image_set(settings, read_table(settings), str(settings.index_files()["table"]))


def _image_set(settings: Labelled, rows: Mapping[str, Rows], origin: str) -> ImageSet:
    given = given_classes(settings)
    notes: tuple[str, ...] = ()
    if settings.labels == "names":
        for listed in rows.values():
            require_labels(listed, given)
        names = {name for listed in rows.values() for name in listed.labels}
        if spelled := several_spellings(names):
            notes = (f"{origin}: class names in two Unicode forms (NFC and NFD) are one class: {', '.join(spelled)}",)
        classes = given or tuple(natural_sort(distinct_names(names)))
        labels = {split: named_labels(listed, classes) for split, listed in rows.items()}
        count_classes(labels, len(classes), origin, classes)
    else:
        labels = {split: numeric_labels(listed) for split, listed in rows.items()}
        count = count_classes(labels, None if given is None else len(given), origin)
        classes = given or tuple(map(str, range(count)))
    root = str(Path(settings.root).expanduser())
    splits = {split: split_of_files(root, listed.paths, listed.paths, labels[split]) for split, listed in rows.items()}
    empty = empty_split()
    return ImageSet(classes, splits["train"], splits.get("val", empty), splits.get("test", empty), notes=notes)
