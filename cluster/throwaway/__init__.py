"""A real SLURM cluster on this machine for tests and demonstrations. It starts in seconds and leaves no files behind.

python -m cluster.throwaway up      start SLURM; then run: eval "$(python -m cluster.throwaway env)"
python -m cluster.throwaway down    stop SLURM and remove its files
"""

from cluster.throwaway.packages import ThrowawayError, Unavailable
from cluster.throwaway.slurm import ThrowawaySlurm

__all__ = ["ThrowawayError", "ThrowawaySlurm", "Unavailable"]
