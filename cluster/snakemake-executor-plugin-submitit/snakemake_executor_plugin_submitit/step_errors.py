"""Failures of nodes that SLURM reports only in srun's output, with the state FAILED."""

from __future__ import annotations

import re
from pathlib import Path

from snakemake_executor_plugin_submitit.failures import last_lines

_NODE_ERRORS = re.compile(
    r"(srun|slurmstepd): error: .*("
    r"missing step on node|[Nn]ode failure|NODE FAILURE|timed? ?out waiting for task launch|Application launch failed"
    r"|[Tt]ask launch for .* failed|Unable to create step|Unable to confirm allocation|Zero Bytes were transmitted"
    r"|Communication connection failure|Job credential expired)"
)


def node_failed(output: Path) -> bool:
    """Return whether srun lost a node of the job, or could not start the job's ranks.

    A node that crashes and returns quickly is not reported as NODE_FAIL. If the node does not run the batch script,
    srun ends with an error instead.

    Args:
        output: File with the output of the batch script, srun and the first rank.
    """
    return _NODE_ERRORS.search(last_lines(output)) is not None
