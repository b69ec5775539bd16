"""Import of user-provided feature files into a run folder."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import IO, Any

import numpy as np

from mem import files, longtail
from mem.config import FeatureFiles, Shots
from mem.data.features import arrays
from mem.data.features.array_reader import FeatureArrayReader
from mem.data.features.stored import feature_file, writable_feature_file, write_about
from mem.errors import UserError


def import_user_features(settings: FeatureFiles, folder: Path) -> dict[str, Any]:
    """Check the features of all splits and copy them into a run folder as float32, a few thousand images at a time.

    Returns:
        Class names, class counts and shot groups, as returned by a conversion.

    Raises:
        UserError: A file is missing or damaged, or its content is invalid; see `mem.data.features.arrays`.
    """
    features: dict[str, FeatureArrayReader] = {}
    labels: dict[str, np.ndarray] = {}
    for split in settings.splits():
        features_path, labels_path = settings.files_of(split)
        features[split] = FeatureArrayReader(features_path, "features")
        values = arrays.as_numpy(FeatureArrayReader(labels_path, "labels").all())
        arrays.check_shape(features[split].shape, f"{split} ({features_path})")
        labels[split] = arrays.checked_labels(values, len(features[split]), f"{split} ({labels_path})")
    names = _class_names(settings, int(labels["train"].max()) + 1)
    counts = longtail.class_counts(labels["train"], len(names))
    arrays.require_every_class(counts)
    for split, array in features.items():
        arrays.require_known_labels(labels[split], len(counts), split)
        if array.shape[1:] != features["train"].shape[1:]:
            raise UserError(
                f"{split} ({array.path}): features have shape {array.shape[1:]} per image, but train has shape "
                f"{features['train'].shape[1:]}. Compute the features of all splits with the same backbone."
            )
    for split in ("train", "val", "test"):
        _copy(features.get(split), features["train"].shape, folder, split)
        files.write_array(feature_file(folder, split, "labels"), labels.get(split, np.zeros(0, np.int64)))
    write_about(folder, {"class_counts": counts.tolist(), "width": features["train"].shape[-1]})
    return _summary(names, counts, labels)


def _copy(source: FeatureArrayReader | None, train_shape: tuple[int, ...], folder: Path, split: str) -> None:
    """Write the pooled features and tokens of a split. Without a source, write files with 0 images."""
    if source is not None:
        arrays.check_features(source, f"{split} ({source.path})")
    images = 0 if source is None else len(source)
    _, *sequence, width = train_shape

    def create(kind: str, shape: tuple[int, ...]) -> AbstractContextManager[IO[bytes]]:
        return writable_feature_file(folder, split, kind, shape, np.dtype(np.float32))

    with ExitStack() as stack:
        pooled, tokens = stack.enter_context(create("pooled", (1, images, width))), None
        if sequence:
            tokens = stack.enter_context(create("tokens", (1, images, sequence[0] - 1, width)))
        for start in range(0, images, arrays.IMAGES_PER_READ):
            assert source is not None
            values = np.asarray(source[start : start + arrays.IMAGES_PER_READ], dtype=np.float32)
            pooled.write((values if tokens is None else values[:, 0]).tobytes())
            if tokens is not None:
                tokens.write(values[:, 1:].tobytes())


def _class_names(settings: FeatureFiles, classes: int) -> list[str]:
    if settings.class_names is None:
        return [str(k) for k in range(classes)]
    path = Path(settings.class_names).expanduser()
    try:
        names = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path}: class names cannot be read: {error}. Provide a UTF-8 text file with one name per line."
        ) from None
    if len(names) < classes:
        raise UserError(
            f"{path}: has {len(names)} class names, but the training labels go up to {classes - 1}. Add a line for "
            "each class."
        )
    return names


def _summary(names: list[str], counts: np.ndarray, labels: dict[str, np.ndarray]) -> dict[str, Any]:
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
