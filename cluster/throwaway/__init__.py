"""A real SLURM on this machine, for tests and demonstrations: started in seconds, gone without a trace.

python -m cluster.throwaway up      start it; the last line is for the shell: eval "$(python -m cluster.throwaway env)"
python -m cluster.throwaway down    stop exactly what was started
"""

from cluster.throwaway.packages import NotToBeHad, ThrowawayError
from cluster.throwaway.slurm import ThrowawaySlurm

__all__ = ["NotToBeHad", "ThrowawayError", "ThrowawaySlurm"]
