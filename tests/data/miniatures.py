"""Dataset miniatures: few classes and small image files, in the same layout on disk as the real datasets.

Each builder writes files below a folder and returns the corresponding `dataset` section of a study.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import struct
import tarfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydantic import TypeAdapter

from mem.config import Dataset

PIXELS = {"pixel_mean": [0.5, 0.5, 0.5], "pixel_std": [0.25, 0.25, 0.25], "storage": "raw"}
SYNSETS = tuple(f"n{1440764 + 13 * k:08d}" for k in range(12))
PLACES = ("airfield", "apartment_building/outdoor", "arch", "zen_garden")
Row = tuple[str, int]


def settings(values: Mapping[str, Any]) -> Any:
    """Validate a `dataset` section and return its settings."""
    return TypeAdapter(Dataset).validate_python(dict(values))


def sample_image(label: int, number: int, classes: int = 12, side: int = 24) -> np.ndarray:
    """Create a uint8 image of shape (side, side + 6, 3) whose colours depend on its class."""
    rng = np.random.default_rng([label, number])
    y, x = np.mgrid[0:side, 0 : side + 6] / side
    waves = [np.sin(2 * np.pi * (x * (1 + label % 3) + y * (label % 4) + label / classes * (c + 1))) for c in range(3)]
    noise = rng.normal(0, 0.15, (side, side + 6, 3))
    return np.clip(127 + 90 * (np.stack(waves, axis=2) + noise), 0, 255).astype(np.uint8)


def write_image(path: Path, label: int, number: int, classes: int = 12) -> None:
    """Write an image file. Its suffix determines the format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sample_image(label, number, classes)).save(path, format="JPEG" if "." not in path.name else None)


def write_list(path: Path, rows: Iterable[tuple[str, int | str]], separator: str = " ") -> None:
    """Write a list file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{image}{separator}{label}\n" for image, label in rows))


def tail(classes: int, largest: int, smallest: int = 2) -> list[int]:
    """Return long-tailed class counts."""
    return [round(largest * (smallest / largest) ** (k / (classes - 1))) for k in range(classes)]


# --- ImageNet-LT, Places-LT --------------------------------------------------------------------------------


def imagenet_lt(folder: Path, synset_folders: bool = True) -> dict[str, Any]:
    """Write ImageNet-LT with 12 synsets. Put the ILSVRC validation images in synset folders or in a single folder."""
    root = folder / "imagenet"
    splits: dict[str, list[Row]] = {"train": [], "val": [], "test": []}
    for k, (synset, count) in enumerate(zip(SYNSETS, tail(12, 30), strict=True)):
        for i in range(count + 3):
            splits["train" if i < count else "val"].append((f"train/{synset}/{synset}_{17 * i}.JPEG", k))
        below = f"{synset}/" if synset_folders else ""
        splits["test"] += [(f"val/{below}ILSVRC2012_val_{12 * i + k:08d}.JPEG", k) for i in range(4)]
    return {"source": "imagenet_lt", "name": "imagenet_lt"} | _listed(folder, root, "ImageNet_LT", splits, 12)


def places_lt(folder: Path, easy: bool = True) -> dict[str, Any]:
    """Write Places-LT with 4 categories in one of its two layouts. Both layouts contain the same images."""
    root = folder / "places"
    splits: dict[str, list[Row]] = {"train": [], "val": [], "test": []}
    for k, (category, count) in enumerate(zip(PLACES, tail(4, 20), strict=True)):
        flat = category.replace("/", "-")
        below = f"train/{flat}" if easy else f"data_256/{category[0]}/{category}"
        for i in range(count + 3):
            splits["train" if i < count else "val"].append((f"{below}/{i:08d}.jpg", k))
        below = f"val/{flat}" if easy else "val_256"
        splits["test"] += [(f"{below}/Places365_val_{4 * i + k:08d}.jpg", k) for i in range(4)]
    if not easy:
        splits = {name: rows[::-1] for name, rows in splits.items()}
    return {"source": "places_lt", "name": "places_lt"} | _listed(folder, root, "Places_LT", splits, 4)


def _listed(folder: Path, root: Path, name: str, splits: Mapping[str, list[Row]], classes: int) -> dict[str, Any]:
    for split, rows in splits.items():
        for image, label in rows:
            write_image(root / image, label, _number(image), classes)
        write_list(folder / f"{name}_{split}.txt", rows)
    return PIXELS | {"root": str(root)} | {f"{split}_list": str(folder / f"{name}_{split}.txt") for split in splits}


def _number(image: str) -> int:
    """Return a number that identifies the image in every layout."""
    return int("".join(c for c in image.rsplit("/", 1)[-1] if c.isdigit())[-9:] or 0)


# --- iNaturalist 2018 --------------------------------------------------------------------------------------


def inaturalist_2018(folder: Path, json_form: bool = True, classes: int = 12) -> dict[str, Any]:
    """Write iNaturalist 2018 as JSON or lists. With over ten categories, IDs as strings sort in a different order."""
    root = folder / "inaturalist"
    kingdoms = ("Animalia", "Plantae", "Fungi")
    splits: dict[str, list[Row]] = {"train": [], "val": []}
    for k, count in enumerate(tail(classes, 20)):
        for split, images in (("train", count), ("val", 3)):
            for i in range(images):
                name = f"{(k * 7919 + i * 104729 + (split == 'val') * 31) % 16**6:06x}{k:02x}{i:02x}"
                splits[split].append((f"train_val2018/{kingdoms[k % 3]}/{k}/{name}.jpg", k))
    for split, rows in splits.items():
        rows.sort(key=lambda row: row[0].rsplit("/", 1)[1])
        for image, label in rows:
            write_image(root / image, label, int(image.rsplit("/", 1)[1][:6], 16), classes)
        write_list(folder / f"iNaturalist18_{split}.txt", rows)
        write_coco(folder / f"{split}2018.json", rows, classes, first=1 + 1000 * (split == "val"))
    names = ("train2018.json", "val2018.json") if json_form else ("iNaturalist18_train.txt", "iNaturalist18_val.txt")
    train, test = (str(folder / name) for name in names)
    source = {"source": "inaturalist2018", "name": "inaturalist2018", "root": str(root)}
    return PIXELS | source | {"train_list": train, "test_list": test}


def coco(rows: Sequence[Row], classes: int, first: int = 1) -> dict[str, Any]:
    """Return annotations in the format of the official JSON files."""
    return {
        "info": {"year": 2018, "contributor": "a miniature"},
        "licenses": [{"id": 1, "name": "CC BY-NC 4.0", "url": ""}],
        "categories": [
            {"id": k, "name": f"Species number{chr(97 + k % 26)}{k}", "supercategory": "Plantae"}
            for k in reversed(range(classes))
        ],
        "images": [
            {"id": first + i, "file_name": image, "license": 1, "rights_holder": "x", "width": 30, "height": 24}
            for i, (image, _) in enumerate(rows)
        ],
        "annotations": [
            {"id": first + i, "image_id": first + i, "category_id": label}
            for i, (_, label) in reversed(list(enumerate(rows)))
        ],
    }


def write_coco(path: Path, rows: Sequence[Row], classes: int, first: int = 1) -> None:
    """Write an annotation file."""
    path.write_text(json.dumps(coco(rows, classes, first)))


# --- CIFAR -------------------------------------------------------------------------------------------------


def cifar(folder: Path, classes: int, binary: bool = False, packed: bool = True, per_class: int = 6) -> dict[str, Any]:
    """Write CIFAR as an archive or unpacked, with `per_class` training images and two test images per class.

    The reader accepts the miniature if the test patches `_EXPECTED` with `cifar_counts` (fixture `small_cifar`).
    """
    rng = np.random.default_rng(classes)
    parts = {}
    for split, each in (("train", per_class), ("test", 2)):
        labels = rng.permutation(np.repeat(np.arange(classes), each))
        pixels = rng.integers(0, 256, (len(labels), 3072), dtype=np.uint8)
        parts[split] = pixels, labels
    batches = 5 if classes == 10 else 1
    contents: dict[str, bytes] = {}
    for split, (pixels, labels) in parts.items():
        pieces = np.array_split(np.arange(len(labels)), batches if split == "train" else 1)
        for i, piece in enumerate(pieces, 1):
            name = split if classes == 100 else f"data_batch_{i}" if split == "train" else "test_batch"
            if binary:
                contents[f"{name}.bin"] = _records(pixels[piece], labels[piece], classes)
            else:
                contents[name] = _batch(pixels[piece], labels[piece].tolist(), classes)
    names = [f"{'kind' if classes == 100 else 'thing'}_{k}" for k in range(classes)]
    if binary:
        contents["fine_label_names.txt" if classes == 100 else "batches.meta.txt"] = "\n".join([*names, ""]).encode()
    elif classes == 100:
        contents["meta"] = python2_pickle({"fine_label_names": names, "coarse_label_names": ["all"]})
    else:
        contents["batches.meta"] = python2_pickle({"num_cases_per_batch": 10, "label_names": names, "num_vis": 3072})
    kind = "binary" if binary else "python"
    inside = f"cifar-{classes}-binary" if binary and classes == 100 else f"cifar-{classes}-{kind}"
    if classes == 10:
        inside = "cifar-10-batches-bin" if binary else "cifar-10-batches-py"
    root = folder / f"cifar-{classes}-{kind}.tar.gz" if packed else folder / inside
    if packed:
        with tarfile.open(root, "w:gz") as tar:
            for name, content in contents.items():
                info = tarfile.TarInfo(f"{inside}/{name}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    else:
        root.mkdir(parents=True)
        for name, content in contents.items():
            (root / name).write_bytes(content)
    cut = {"imbalance": 3, "seed": 0, "val_per_class": 0}
    return PIXELS | {"source": f"cifar{classes}", "name": f"cifar{classes}_lt", "root": str(root), "cut": cut}


def cifar_counts(classes: int, per_class: int = 6) -> dict[str, int]:
    """Return the number of images in each split before the training split is reduced to a long tail."""
    return {"train": classes * per_class, "test": 2 * classes}


def _records(pixels: np.ndarray, labels: np.ndarray, classes: int) -> bytes:
    columns = [labels[:, None].astype(np.uint8), pixels]
    if classes == 100:
        columns.insert(0, (labels[:, None] // 5).astype(np.uint8))
    return np.concatenate(columns, axis=1).tobytes()


def _batch(pixels: np.ndarray, labels: list[int], classes: int) -> bytes:
    content: dict[str, Any] = {"batch_label": "a batch", "data": pixels, "filenames": [f"{i}.png" for i in labels]}
    if classes == 100:
        return python2_pickle(content | {"fine_labels": labels, "coarse_labels": [k // 5 for k in labels]})
    return python2_pickle(content | {"labels": labels})


def python2_pickle(value: Any) -> bytes:
    """Create a Python 2 pickle (protocol 2, with strings as bytes), which Python 3 cannot write."""
    return b"\x80\x02" + _opcodes(value) + b"."


def _opcodes(value: Any) -> bytes:
    match value:
        case str() | bytes():
            content = value.encode("latin1") if isinstance(value, str) else value
            return b"T" + struct.pack("<i", len(content)) + content
        case int():
            return b"J" + struct.pack("<i", value)
        case None:
            return b"N"
        case list():
            return b"](" + b"".join(map(_opcodes, value)) + b"e"
        case tuple():
            return b"(" + b"".join(map(_opcodes, value)) + b"t"
        case dict():
            return b"}(" + b"".join(_opcodes(k) + _opcodes(v) for k, v in value.items()) + b"u"
        case np.ndarray():
            empty = b"cnumpy\nndarray\n" + _opcodes((0,)) + _opcodes("b")
            made = b"cnumpy.core.multiarray\n_reconstruct\n(" + empty + b"tR"
            kind = b"cnumpy\ndtype\n" + _opcodes(("u1", 0, 1)) + b"R"
            kind += _opcodes((3, "|", None, None, None, -1, -1, 0)) + b"b"
            state = _opcodes(1) + _opcodes(value.shape) + kind + _opcodes(0) + _opcodes(value.tobytes())
            return made + b"(" + state + b"tb"
    raise TypeError(type(value))


# --- Fashion-MNIST -----------------------------------------------------------------------------------------

FASHION_MNIST_COUNTS = {"train": 40, "t10k": 20}


def write_idx(path: Path, array: np.ndarray, zipped: bool = True) -> None:
    """Write a uint8 IDX file."""
    content = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
    if zipped:
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(content))
    else:
        path.write_bytes(content)


def write_fashion_mnist(folder: Path) -> None:
    """Write the four files of Fashion-MNIST with 40 training and 20 test images.

    The reader accepts them if the test patches `_EXPECTED` (fixture `small_fashion_mnist`).
    """
    rng = np.random.default_rng(0)
    for part, n in FASHION_MNIST_COUNTS.items():
        write_idx(folder / f"{part}-images-idx3-ubyte", rng.integers(0, 256, (n, 28, 28), dtype=np.uint8))
        write_idx(folder / f"{part}-labels-idx1-ubyte", np.arange(n, dtype=np.uint8) % 10)


def fashion_mnist(
    root: Path | None, counts: Sequence[int] = (3, 3, 3, 2, 2, 2, 2, 1, 1, 1), val_per_class: int = 1
) -> dict[str, Any]:
    """Return a `dataset` section for Fashion-MNIST."""
    cut = {"counts": list(counts), "seed": 0, "val_per_class": val_per_class}
    values = {"source": "fashion_mnist", "name": "fashion", "cut": cut}
    return PIXELS | values | {"root": None if root is None else str(root)}


# --- user-provided images ----------------------------------------------------------------------------------


def folder_tree(folder: Path, classes: int = 11, split_folders: bool = True, largest: int = 12) -> dict[str, Any]:
    """Write class folders, `class1` to `class11`, below split folders or in a single tree."""
    root = folder / "tree"
    for k, count in enumerate(tail(classes, largest, 3)):
        splits = {"train": count, "val": 2, "test": 2} if split_folders else {".": count}
        for split, images in splits.items():
            for i in range(images):
                write_image(root / split / f"class{k + 1}" / f"{split.strip('.')}{i}.png", k, i, classes)
    values = PIXELS | {"source": "folder", "name": "tree", "root": str(root)}
    if split_folders:
        return values | {"train_folder": "train", "val_folder": "val", "test_folder": "test"}
    return values | {"test": {"per_class": 1, "seed": 0}}


def long_tailed_png(folder: Path, classes: int = 100, largest: int = 130) -> dict[str, Any]:
    """Write list files and a naturally long-tailed set of PNG files with spaces in their paths."""
    root = folder / "images"
    splits: dict[str, list[Row]] = {"train": [], "val": [], "test": []}
    for k, count in enumerate(tail(classes, largest)):
        for split, images in (("train", count), ("val", 1), ("test", 2)):
            for i in range(images):
                path = f"batch {i % 7}/{split} {k:03d}-{i:04d}.png"
                write_image(root / path, k, i, classes)
                splits[split].append((path, k))
    for split, rows in splits.items():
        order = np.random.default_rng(len(split)).permutation(len(rows))
        write_list(folder / f"{split}.txt", [rows[i] for i in order])
    lists = {f"{split}_list": str(folder / f"{split}.txt") for split in splits}
    return PIXELS | {"source": "lists", "name": "images", "root": str(root)} | lists


def table(folder: Path, parquet: bool = False, classes: int = 6, split_column: bool = True) -> dict[str, Any]:
    """Write a table with class names, an unused column and, optionally, a split column."""
    root = folder / "images"
    rows: list[dict[str, str]] = []
    for k, count in enumerate(tail(classes, 9, 3)):
        for split, images in (("train", count), ("dev", 1), ("test", 1)):
            for i in range(images):
                path = f"{split}_{k}_{i}.jpg"
                write_image(root / path, k, i, classes)
                row = {"id": str(len(rows)), "file": path, "species": f"Species, number {k + 1}"}
                rows.append(row | ({"part": split} if split_column else {}))
    name = folder / ("images.parquet" if parquet else "images.csv")
    if parquet:
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(rows), name)
    else:
        with open(name, "w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    values = {"source": "table", "name": "table", "root": str(root), "table": str(name), "labels": "names"}
    values |= {"path_column": "file", "label_column": "species"}
    if split_column:
        return PIXELS | values | {"split_column": "part", "split_values": {"val": "dev"}}
    return PIXELS | values | {"test": {"share": 0.2, "seed": 0}}


# --- Glyphs-LT ---------------------------------------------------------------------------------------------


def glyphs(root: Path, **changes: Any) -> dict[str, Any]:
    """Return a `dataset` section for the fonts of `tests.data.font_files.write_families`."""
    values = {
        "source": "glyphs",
        "name": "glyphs",
        "root": str(root),
        "classes": 6,
        "profile": "exponential",
        "largest": 12,
        "imbalance": 6,
        "image_size": 16,
        "em": 12,
        "look_alikes": "keep",
        "test_families": 3,
        "val_families": 2,
        "test_per_class": 3,
        "val_per_class": 4,
        "val_minimum": 3,
        "seed": 0,
    }
    return PIXELS | values | changes


MINIATURES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "imagenet_lt": imagenet_lt,
    "imagenet_lt, flat val": lambda folder: imagenet_lt(folder, synset_folders=False),
    "places_lt": places_lt,
    "places_lt, other layout": lambda folder: places_lt(folder, easy=False),
    "inaturalist2018": inaturalist_2018,
    "inaturalist2018, lists": lambda folder: inaturalist_2018(folder, json_form=False),
    "folder": folder_tree,
    "folder, one tree": lambda folder: folder_tree(folder, split_folders=False),
    "lists": lambda folder: long_tailed_png(folder, classes=12, largest=20),
    "csv": table,
    "parquet": lambda folder: table(folder, parquet=True),
}
