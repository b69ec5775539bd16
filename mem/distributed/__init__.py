"""Communication between the ranks of a distributed stage. Only this package imports torch.distributed."""

from mem.distributed.world import SINGLE_PROCESS, RankGroup, World, single_process, world_from_environment

__all__ = ["SINGLE_PROCESS", "RankGroup", "World", "single_process", "world_from_environment"]
