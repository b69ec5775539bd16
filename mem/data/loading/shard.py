"""The part of the data that one rank processes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RankShard:
    """The part of every global batch, or of a split, that one rank processes."""

    rank: int = 0
    ranks: int = 1

    def bounds(self, count: int, group_size: int = 1) -> tuple[int, int]:
        """Return the first index and one past the last index of this rank's part of `count` samples.

        Each group of `group_size` consecutive samples stays on one rank.
        """
        groups = -(-count // group_size)
        low, high = (min(count, group_size * (rank * groups // self.ranks)) for rank in (self.rank, self.rank + 1))
        return low, high
