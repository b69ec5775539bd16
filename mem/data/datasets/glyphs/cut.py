"""A cut of Glyphs-LT: the split of each font family, the classes, their numbers of images, and the images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64

from mem import rng
from mem.config import Glyphs, LongTailCut
from mem.data.datasets.glyphs.characters import class_name
from mem.data.datasets.glyphs.fonts import named
from mem.data.datasets.published_counts import published_counts, published_quantiles
from mem.errors import UserError
from mem.longtail import tail_counts

LARGE_FAMILY = 2
"""A family with more than this multiple of the mean number of faces is always in train: the most frequent classes need
most of the faces, and a split with few families must not consist mostly of one of them."""
_SMALLEST_NATURAL = 5
"""Minimum number of training images per class for `profile: natural`: the smallest count of the published datasets."""
_MIN_SHARE = 0.5
"""Minimum share of the count of the profile that a class must reach. Below this share, the cut is rejected."""
SPLITS = ("train", "val", "test")


def split_families(
    faces: Int64[np.ndarray, " families"], settings: Glyphs, order: int
) -> Int64[np.ndarray, " families"]:
    """Choose the split of each family (0 train, 1 val, 2 test), given its number of faces.

    Raises:
        UserError: There are too few families.
    """
    small = np.flatnonzero(faces <= LARGE_FAMILY * faces.mean())
    needed = settings.test_families + settings.val_families
    if needed >= len(faces) or needed > len(small):
        raise UserError(
            f"dataset.test_families and dataset.val_families: {settings.test_families} + {settings.val_families} are "
            f"too many. The fonts have {len(faces):,} families, of which train needs one, and "
            f"{len(faces) - len(small):,} are so large that they are always in train. Decrease the numbers, or add "
            "fonts. Fonts in the same folder are one family."
        )
    chosen = small[rng.permutation(settings.seed, _stream("families", order), 0, len(small))]
    splits = np.zeros(len(faces), dtype=np.int64)
    splits[chosen[: settings.test_families]] = SPLITS.index("test")
    splits[chosen[settings.test_families : needed]] = SPLITS.index("val")
    return splits


@dataclass(frozen=True)
class Classes:
    """The classes of a cut."""

    chosen: Int64[np.ndarray, " classes"]
    """Columns of the characters that are the classes, in ascending order."""
    counts: Int64[np.ndarray, " classes"]
    """Number of training images of each class."""
    qualified: int
    """Number of characters that enough fonts draw."""
    notes: tuple[str, ...]
    """Messages about classes with fewer images than the profile specifies."""


def choose_classes(
    available: Int64[np.ndarray, "3 characters"], codes: Int64[np.ndarray, " characters"], settings: Glyphs, order: int
) -> Classes:
    """Choose the characters that are classes, and their numbers of training images.

    The counts are assigned from the largest to the smallest, each to a random character among those with enough
    training faces. As every character with enough faces for a count has enough for each smaller count, this assignment
    succeeds if any assignment does. A count that no character can reach is reduced to the largest possible one.

    Args:
        available: Number of faces in train, val and test that draw each character.
        codes: Unicode code point of each character, for messages.
        settings: Settings of the dataset.
        order: Class order.

    Raises:
        UserError: Too few characters qualify, or a class has far fewer faces than images.
    """
    minimum = settings.val_per_class if settings.val_minimum is None else settings.val_minimum
    enough = (available[1] >= minimum) & (available[2] >= settings.test_per_class)
    qualified = np.flatnonzero(enough & (available[0] >= _smallest(settings)))
    wanted = profile_counts(settings, len(qualified))
    _require_enough(len(wanted), len(qualified), settings, minimum)
    shuffled = qualified[rng.permutation(settings.seed, _stream("classes", order), 0, len(qualified))]
    faces = available[0][shuffled]
    if settings.profile == "natural":
        chosen = shuffled[: len(wanted)]
        counts = faces[: len(wanted)]
    else:
        positions = _assign(wanted, faces)
        chosen, counts = shuffled[positions], np.minimum(wanted, faces[positions])
    notes = () if settings.profile == "natural" else _shortfall(wanted, counts, codes[chosen])
    by_code = np.argsort(chosen)
    return Classes(chosen[by_code], counts[by_code], len(qualified), notes)


def _smallest(settings: Glyphs) -> int:
    """Return the smallest number of training images of a class in the profile."""
    if settings.profile == "natural":
        return _SMALLEST_NATURAL
    if settings.profile == "exponential":
        assert settings.largest is not None and settings.imbalance is not None
        return max(1, int(settings.largest / settings.imbalance))
    return int(published_counts(settings.profile).min())


def profile_counts(settings: Glyphs, qualified: int) -> Int64[np.ndarray, " classes"]:
    """Return the sorted counts of the profile. For `natural`, they are the minimum number of training images.

    Args:
        settings: Settings of the dataset.
        qualified: Number of characters that can be classes. It is the number of classes if neither the settings nor the
            profile specify one.
    """
    if settings.profile in ("imagenet_lt", "places_lt"):
        return published_quantiles(settings.profile, settings.classes or len(published_counts(settings.profile)))
    classes = qualified if settings.classes is None else settings.classes
    if settings.profile == "natural" or not classes:
        return np.full(classes, _SMALLEST_NATURAL)
    cut = LongTailCut(imbalance=settings.imbalance, largest=settings.largest, seed=0, val_per_class=0)
    return np.asarray(tail_counts(cut, np.full(classes, settings.largest)), dtype=np.int64)


def _require_enough(classes: int, qualified: int, settings: Glyphs, minimum: int) -> None:
    if max(classes, 2) <= qualified:
        return
    raise UserError(
        f"dataset.classes: {max(classes, 2):,} classes, but only {qualified:,} characters are drawn by enough fonts: "
        f"{_smallest(settings):,} in train, {minimum} in val (val_minimum) and {settings.test_per_class} in test "
        "(test_per_class). Decrease the classes or these numbers, increase test_families or val_families, or add fonts."
    )


def _assign(wanted: np.ndarray, faces: np.ndarray) -> Int64[np.ndarray, " classes"]:
    """Return a character for each count, given the number of training faces of each character in random order."""
    free = np.ones(len(faces), dtype=bool)
    chosen = np.empty(len(wanted), dtype=np.int64)
    for i, count in enumerate(wanted.tolist()):
        fitting = free & (faces >= count)
        position = int(fitting.argmax()) if fitting.any() else int(np.where(free, faces, -1).argmax())
        free[position] = False
        chosen[i] = position
    return chosen


def _shortfall(wanted: np.ndarray, counts: np.ndarray, codes: np.ndarray) -> tuple[str, ...]:
    """Describe the classes whose count was reduced. Reject a cut in which a class has far too few faces."""
    short = np.flatnonzero(counts < wanted)
    if not len(short):
        return ()
    listed = [f"{class_name(int(codes[i]))}: {counts[i]:,} instead of {wanted[i]:,}" for i in short]
    if (counts[short] < _MIN_SHARE * wanted[short]).any():
        raise UserError(
            f"dataset.profile: the fonts of train are too few for the largest classes: {named(listed)}. Decrease "
            "test_families and val_families, use another profile, or add fonts."
        )
    verb = "class has" if len(short) == 1 else "classes have"
    return (
        f"{len(short):,} {verb} fewer training images than the profile, because train has too few fonts: "
        f"{named(listed)}",
    )


def choose_train(
    draws: Bool[np.ndarray, "faces classes"], counts: Int64[np.ndarray, " classes"], settings: Glyphs, order: int
) -> list[np.ndarray]:
    """Choose the training faces of each class: a random subset of the faces that draw it."""
    random = rng.generator(settings.seed, _stream("train", order))
    return [random.permutation(np.flatnonzero(draws[:, k]))[:count] for k, count in enumerate(counts.tolist())]


def choose_evenly(
    draws: Bool[np.ndarray, "faces classes"],
    families: Int64[np.ndarray, " faces"],
    split: str,
    settings: Glyphs,
    order: int,
) -> list[np.ndarray]:
    """Choose the faces of val or test: up to the number of the settings, from as many families as possible.

    For each class, the families that draw it take turns in random order, each with a random face.
    """
    number = settings.val_per_class if split == "val" else settings.test_per_class
    random = rng.generator(settings.seed, _stream(split, order))
    chosen: list[np.ndarray] = []
    for k in range(draws.shape[1]):
        faces = random.permutation(np.flatnonzero(draws[:, k]))
        turn = np.empty(len(faces), dtype=np.int64)
        for family in np.unique(families[faces]):
            of_family = np.flatnonzero(families[faces] == family)
            turn[of_family] = np.arange(len(of_family))
        chosen.append(faces[np.argsort(turn, kind="stable")[:number]])
    return chosen


def _stream(purpose: str, order: int) -> str:
    """Return the name of the random stream for a purpose in a class order. Each class order is an independent cut."""
    return f"glyphs {purpose}, order {order}"
