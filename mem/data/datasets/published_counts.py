"""Published numbers of training images per class, and their reduction to fewer classes.

The counts are sorted, the most frequent class first. `5x3` means that three classes have 5 images.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Int64

from mem.errors import UserError

_IMAGENET_LT = """
1280 1246 1173 1121 1053 819 787 775 714 683 679 652 642 625 619 611 604 566 534 516 511 507 502 496 481 480 472x2
469 459 456 454 446 428 422 418 413 411 398 393 392x2 391 382 381 376x2 372 370 367 354 352 349x2 346x2 343 340 333
332 330x2 328 323 317 315 310x3 306 305x2 303 302 299 298 297x2 296 292 290x2 288 287 285x2 284x2 283x2 282 281x2
279 278 275 274 272x2 271 268 264 263 258 257 253x2 252x2 250 248 247 246 245 244 242 241 240 239 238 236x3 233
232x3 231x2 229x2 226 224 222 221 220x2 218 217 216 215 214 211 209x2 208 205 204 203 202 201 199 198 197x2 194x3
192 191 189x3 188x2 187 186x4 184 183 182x2 181x2 180 179x2 178x2 177 175x3 174x3 173x2 172x3 171x3 170x3 169x2 168
167x5 166 165x4 164x2 163 162 161x2 159 158 157x4 156 155x3 154 153 152x2 151 150x6 149x2 148x2 147 146 145 143x6
142 141x4 140x3 138x3 137x9 135 134x7 133x5 132x2 131 130x3 129 128x5 127x3 126x4 125x4 124x3 123x3 122x4 121x2 120
119x6 118x2 117 116x4 115 114x5 113x3 112x4 111x3 110x5 109x2 108x4 107x2 106x2 105x3 104x3 103x4 102x6 101x4 100x6
99x2 98x2 97 96x6 95x2 94x2 93x5 92x3 91x2 90x4 89 88 87x8 86x8 85x7 84x2 83x6 82x8 81x7 80x7 79x3 78x3 77x4 76x3
75x7 74x2 73x5 72x8 71x6 70x2 69x6 68x2 67x4 66x7 65x5 64x6 63x8 62x4 61x3 60x4 59x6 58x4 57x4 56x8 55x7 54x7 53x7
52x3 51x4 50x9 49x4 48x7 47x6 46x5 45x8 44x7 43x13 42x7 41x8 40x2 39x9 38x7 37x5 36x9 35x11 34x10 33x6 32x13 31x12
30x8 29x5 28x9 27x7 26x9 25x12 24x5 23x8 22x10 21x6 20x10 19x13 18x5 17x8 16x9 15x12 14x11 13x5 12x5 11x11 10x16 9x5
8x11 7x8 6x12 5x5
"""
"""ImageNet-LT (Liu et al. 2019), counted in `ImageNet_LT_train.txt`: 1,000 classes, 115,846 images. The class counts
were taken from `cls_freq/ImageNet_LT_train.json` of github.com/JiahuiKChen/LT-classification (commit 855e0f88)."""
_PLACES_LT = """
4980 2612 2400 1582 1530 1487 1406 1380 1085 1036 1023 841 830 725 689 668 643 605 566 547 521 499 482 480 475 470
451 450 431 428 422 408 392 389 383 374 371 367 366 364 334 331 318 315x2 309 298x2 291 290 287 283 280 279 265 264
263 260 253x2 250x2 242 241 238 232 230 229x2 226 225 219 218x2 216 209 208 207 206 205 198 195x2 191 188 186 183
181 179 177 176 173x2 171 167 164 157 156 155 153 152 149 148 147 143 141 140 138 135 132 129x2 128 124 120 118
116x2 115 113 112 111 108x3 105 104x2 103x3 100 99x2 98x5 97x3 95 94 93x3 92 91x2 89x2 88 87x3 86x2 85 84x2 82x2 81
80x3 79 78x3 76 74x2 73x2 72x7 71x2 70 69 68 65x2 63 62 61 60x4 59x2 58 57 56x2 55x2 54x3 52x2 51x2 50 49 48x4 46x5
45 44x2 43x2 42x2 41x3 40x3 39x4 38 37 36x5 35 34x7 33x6 32x2 30x2 29x2 28x4 27 26 25x3 24x3 23x2 22x5 21x2 20x6
19x4 18x3 17x4 16x3 15x4 14x6 13x3 12x5 11x7 10x3 9x6 8x7 7x5 6x8 5x3
"""
"""Places-LT (Liu et al. 2019), counted in `Places_LT_train.txt`: 365 classes, 62,500 images. The list was taken from
github.com/facebookresearch/classifier-balancing (commit f162adef)."""
_ENCODED: Mapping[str, str] = {"imagenet_lt": _IMAGENET_LT, "places_lt": _PLACES_LT}


def published_counts(name: str) -> Int64[np.ndarray, " classes"]:
    """Return the sorted class counts of `imagenet_lt` or `places_lt`, the most frequent class first."""
    pairs = [entry.partition("x") for entry in _ENCODED[name].split()]
    return np.repeat([int(count) for count, _, _ in pairs], [int(classes or 1) for _, _, classes in pairs])


def published_quantiles(name: str, classes: int) -> Int64[np.ndarray, " {classes}"]:
    """Return sorted counts of fewer classes that have the same shape: evenly spaced quantiles of the published counts.

    The largest and the smallest count are those of the published dataset.

    Raises:
        UserError: The published dataset has fewer classes.
    """
    counts = published_counts(name)
    if classes > len(counts):
        raise UserError(
            f"dataset.classes: {classes:,} classes, but the profile `{name}` has {len(counts):,}. Choose at most as "
            "many, or another profile."
        )
    return counts[np.linspace(0, len(counts) - 1, classes).round().astype(np.int64)]
