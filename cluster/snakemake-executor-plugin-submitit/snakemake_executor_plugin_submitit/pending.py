"""Warn about jobs that cannot start, with SLURM's reason and what to do."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping

from snakemake_executor_plugin_submitit.states import Kind, State

_WAIT_SECONDS = 60
"""Seconds for which a job must have the same reason before a warning is printed."""
_ORDINARY = re.compile(
    r"|None|Priority|Resources|BeginTime|Dependency|JobArrayTaskLimit|Prolog|Cleaning|Licenses|Reservation"
    r"|WaitingForScheduling|.*Max(Jobs|SubmitJob|Cpu|CPU|Node|GRES|Mem|TRES|BB|Billing|Energy|License)\w*"
    r"(PerUser|PerAccount|PerAcct)\w*|AssocMaxJobsLimit|(Assoc|QOS)Grp\w*(?<!Minutes)(?<!MinutesLimit)(?<!WallLimit)"
)
"""Reasons that end without the user, because other jobs end or because time passes."""
_LIMITS = "Request fewer resources or less time for the rule, or use another partition, account or QOS"
_NODES = "Wait until the nodes return, or use another partition. `sinfo -R` lists why nodes are unavailable"
_RIGHTS = "Correct the account, the QOS or the partition"
_ADVICE = (
    (r"Partition(Time|Node)Limit|.*(Wall|Minutes|Time)\w*PerJob\w*", _LIMITS),
    (r".*(Minutes|Wall)\w*", "The account or QOS has used up its budget. Use another one, or ask for more"),
    (r".*PerJob\w*|.*PerNode\w*|MaxMemPerLimit|BadConstraints|.*MinCpu\w*", _LIMITS),
    (r"Partition(Down|Inactive)|.*ReqNodeNotAvail.*|Nodes required.*|NodeDown|PartitionConfig", _NODES),
    (r"JobHeldUser|.*[Hh]eld state.*", "Release the jobs with `scontrol release JOB`"),
    (r"launch failed.*", "A node failed to start the jobs. Check the node, then run `scontrol release JOB`"),
    (r"JobHeldAdmin", "Ask the administrators of the SLURM cluster to release the jobs"),
    (r"Invalid(Account|QOS)|(Account|QOS)NotAllowed|.*Account.*", _RIGHTS),
    (r"DependencyNeverSatisfied", "Cancel the jobs with `scancel JOB`, and correct the dependency"),
    (r"Reservation\w+", "The reservation does not exist any more. Correct --submitit-reservation"),
)
"""What to do, by a pattern for the reason. The first match applies."""
_GENERAL_ADVICE = "`scontrol show job JOB` shows the details"


class PendingJobs:
    """The pending jobs and the times since which they have had their reasons. Each reason is reported once."""

    def __init__(self, warn: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._warn = warn
        self._clock = clock
        self._since: dict[str, tuple[str, float]] = {}
        self._reported: set[str] = set()

    def observe(self, states: Mapping[str, State]) -> None:
        """Process the states that the controller reported, and warn about jobs that have not started for a minute."""
        now = self._clock()
        waiting: dict[str, list[str]] = {}
        before, self._since = self._since, {}
        for job_id, state in states.items():
            if state.kind is not Kind.PENDING or _ORDINARY.fullmatch(state.reason):
                continue
            reason, since = before.get(job_id, ("", now))
            since = since if reason == state.reason else now
            self._since[job_id] = (state.reason, since)
            if now - since >= _WAIT_SECONDS:
                waiting.setdefault(state.reason, []).append(job_id)
        for reason, ids in waiting.items():
            if reason not in self._reported:
                self._reported.add(reason)
                self._warn(_warning(reason, ids))


def _warning(reason: str, ids: list[str]) -> str:
    first = min(ids, key=lambda job_id: [int(number) for number in job_id.split("_")])
    jobs = f"SLURM job {first} does" if len(ids) == 1 else f"{len(ids)} SLURM jobs (the first is {first}) do"
    advice = next((text for pattern, text in _ADVICE if re.fullmatch(pattern, reason)), _GENERAL_ADVICE)
    return f"{jobs} not start. SLURM's reason: {reason}. {advice.replace('JOB', first)}."
