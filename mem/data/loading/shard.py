"""Division of the data among ranks."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RankShard:
    """The part of each global batch or split that one rank processes."""

    rank: int = 0
    ranks: int = 1

    def bounds(self, count: int, group_size: int = 1) -> tuple[int, int]:
        """Return the start (inclusive) and end (exclusive) of this rank's part of `count` samples.

        Each group of `group_size` consecutive samples stays on one rank.
        """
        groups = -(-count // group_size)
        low, high = (min(count, group_size * (rank * groups // self.ranks)) for rank in (self.rank, self.rank + 1))
        return low, high
