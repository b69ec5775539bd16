"""Features of a split in one's own files, read piece by piece and written where heads read them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from mem import longtail
from mem.config import FeatureFiles, Shots
from mem.data.features import arrays
from mem.data.features.files import create_feature_file, feature_file, write_about
from mem.errors import UserError


def import_user_features(settings: FeatureFiles, folder: Path) -> dict[str, Any]:
    """Check the features of all splits and copy them into a run's folder, float32, by pieces.

    Returns:
        Classes, counts and groups, as a conversion's results.

    Raises:
        UserError: A file is missing or damaged, or as in `mem.data.features.arrays`.
    """
    sources: dict[str, FeatureArrayReader] = {}
    labels: dict[str, np.ndarray] = {}
    for split in settings.splits():
        path, path_of_labels = settings.files_of(split)
        sources[split] = FeatureArrayReader(path, "features")
        found = arrays.as_numpy(FeatureArrayReader(path_of_labels, "labels").all())
        arrays.check_shape(sources[split].shape, f"{split} ({path})")
        labels[split] = arrays.checked_labels(found, len(sources[split]), f"{split} ({path_of_labels})")
    counts = longtail.class_counts(labels["train"], int(labels["train"].max()) + 1)
    names = _class_names(settings, len(counts))
    counts = longtail.class_counts(labels["train"], len(names))
    arrays.require_every_class(counts)
    for split, source in sources.items():
        arrays.require_known_labels(labels[split], len(counts), split)
        if source.shape[1:] != sources["train"].shape[1:]:
            raise UserError(
                f"{split} ({source.path}): features of an image have shape {source.shape[1:]}, those of train "
                f"{sources['train'].shape[1:]}. All splits must come from the same backbone"
            )
    for split in ("train", "val", "test"):
        _copy(sources.get(split), sources["train"].shape, folder, split)
        np.save(feature_file(folder, split, "labels"), labels.get(split, np.zeros(0, np.int64)))
    write_about(folder, {"class_counts": counts.tolist(), "width": sources["train"].shape[-1]})
    return _described(names, counts, labels)


class FeatureArrayReader:
    """An array in a `.npy` file, or a tensor in a `.safetensors` file, of which pieces are read.

    Raises:
        UserError: There is no such file, it is damaged, or it has no such tensor.
    """

    def __init__(self, path: Path, tensor: str) -> None:
        self.path = path
        try:
            self._array = self._safe(tensor) if path.suffix == ".safetensors" else np.load(path, mmap_mode="r")
            self.shape = tuple(self._array.get_shape() if hasattr(self._array, "get_shape") else self._array.shape)
        except FileNotFoundError:
            raise UserError(f"{path}: no such file (dataset: features and labels)") from None
        except (ValueError, EOFError, OSError, SafetensorError) as error:
            raise UserError(f"{path}: cannot be read as {path.suffix} with one array of numbers: {error}") from None

    def _safe(self, tensor: str) -> Any:
        file = safe_open(str(self.path), framework="pt")
        names = list(file.keys())
        if tensor not in names:
            raise UserError(f"{self.path}: has no tensor `{tensor}`; it has {', '.join(names) or 'none'}")
        return file.get_slice(tensor)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, part: slice) -> np.ndarray:
        return arrays.as_numpy(self._array[part])

    def all(self) -> np.ndarray:
        """The whole array."""
        return self[:] if self.shape else np.asarray(0)


def _copy(source: FeatureArrayReader | None, like: tuple[int, ...], folder: Path, split: str) -> None:
    """Write a split's pooled features and tokens; none of them where there is no such split."""
    if source is not None:
        arrays.check_features(source, f"{split} ({source.path})")
    images = 0 if source is None else len(source)
    width = like[-1]
    pooled = create_feature_file(folder, split, "pooled", (1, images, width))
    tokens = create_feature_file(folder, split, "tokens", (1, images, like[1] - 1, width)) if len(like) == 3 else None
    for start in range(0, images, arrays.CHECKED_AT_ONCE):
        assert source is not None
        place = slice(start, start + arrays.CHECKED_AT_ONCE)
        part = source[place]
        pooled[0, place] = part if tokens is None else part[:, 0]
        if tokens is not None:
            tokens[0, place] = part[:, 1:]
    for array in (pooled, tokens):
        if isinstance(array, np.memmap):
            array.flush()


def _class_names(settings: FeatureFiles, classes: int) -> list[str]:
    if settings.class_names is None:
        return [str(k) for k in range(classes)]
    path = Path(settings.class_names).expanduser()
    try:
        names = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as the names of the classes: {error}") from None
    if len(names) < classes:
        raise UserError(f"{path}: has {len(names)} names, and the training labels go up to {classes - 1}")
    return names


def _described(names: list[str], counts: np.ndarray, labels: dict[str, np.ndarray]) -> dict[str, Any]:
    groups = longtail.shot_groups(counts, Shots())
    return {
        "classes": names,
        "splits": {
            split: {
                "images": len(found := labels.get(split, np.zeros(0, np.int64))),
                "counts": longtail.class_counts(found, len(names)).tolist(),
            }
            for split in ("train", "val", "test")
        },
        "imbalance": float(counts.max() / counts.min()),
        "groups": {name: int((groups == g).sum()) for g, name in enumerate(longtail.SHOT_NAMES)},
    }
