"""Parse a rule's resources into a request to the cluster. Resource names are those of Snakemake's SLURM plugin."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from snakemake_interface_common.exceptions import WorkflowError

from snakemake_executor_plugin_submitit.settings import ExecutorSettings

SUPPORTED = {
    "slurm_partition": "partition",
    "slurm_account": "account",
    "runtime": "time limit in minutes",
    "mem_mb": "memory per node in MB",
    "mem_mb_per_cpu": "memory per core in MB",
    "nodes": "number of nodes",
    "tasks": "number of tasks (ranks) on all nodes together",
    "tasks_per_node": "number of tasks (ranks) per node",
    "cpus_per_task": "number of cores per task; by default, the rule's threads",
    "gpu": "number of GPUs per job",
    "gpus_per_node": "number of GPUs per node",
    "gpu_model": "GPU model",
    "gres": "generic resources per node",
    "constraint": "node features",
    "qos": "quality of service",
    "slurm_extra": "additional sbatch options",
    "bundle": "maximum number of jobs of the rule that run one after another in one job of the cluster",
}
"""Resources that the plugin passes to the cluster, with their descriptions."""
_SNAKEMAKE = {"_cores", "_nodes", "tmpdir", "mem", "mem_mib", "disk", "disk_mb", "disk_mib", "shell_exec", "cores"}
"""Resources that only Snakemake uses, or that have no counterpart in SLURM."""
_ALTERNATIVES = {
    "clusters": "set SLURM_CONF for snakemake, or start snakemake on that cluster",
    "cluster": "set SLURM_CONF for snakemake, or start snakemake on that cluster",
    "slurm_cluster": "set SLURM_CONF for snakemake, or start snakemake on that cluster",
    "mpi": "use tasks_per_node: every rank runs the rule's shell command",
    "tasks_per_gpu": "use tasks_per_node",
    "cpus_per_gpu": "use cpus_per_task",
}
"""Resources of the SLURM plugin that this plugin rejects, with the alternatives."""
_RESOURCE_OPTIONS = {
    "--account": "slurm_account", "-A": "slurm_account",
    "--partition": "slurm_partition", "-p": "slurm_partition",
    "--time": "runtime", "-t": "runtime",
    "--mem": "mem_mb", "--mem-per-cpu": "mem_mb_per_cpu",
    "--nodes": "nodes", "-N": "nodes",
    "--ntasks": "tasks", "-n": "tasks", "--ntasks-per-node": "tasks_per_node",
    "--cpus-per-task": "cpus_per_task", "-c": "cpus_per_task",
    "--gpus": "gpu", "-G": "gpu", "--gpus-per-node": "gpus_per_node", "--gres": "gres",
    "--constraint": "constraint", "-C": "constraint", "--qos": "qos", "-q": "qos",
}  # fmt: skip
"""sbatch options that must be set through a resource."""
_PLUGIN_OPTIONS = {
    "--array", "-a", "--output", "-o", "--error", "-e", "--job-name", "-J", "--signal", "--requeue", "--no-requeue",
    "--open-mode", "--parsable", "--wait", "-W", "--wrap", "--export", "--chdir", "-D", "--clusters", "-M",
}  # fmt: skip
"""sbatch options that the plugin sets, or that are incompatible with it."""


class ResourceError(WorkflowError):
    """A resource is unknown, contradictory, malformed or not supported for this kind of rule."""


@dataclass(frozen=True)
class Request:
    """The resources that one job requests from the cluster. Jobs with equal requests can share an array."""

    nodes: int = 1
    tasks_per_node: int = 1
    cpus_per_task: int = 1
    gpus_per_node: int = 0
    gpu_model: str | None = None
    memory_mb: int | None = None
    memory_mb_per_cpu: int | None = None
    minutes: int | None = None
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    reservation: str | None = None
    gres: str | None = None
    extra: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    bundle: int = 1
    """Maximum number of jobs that run one after another in one job of the cluster."""

    @property
    def tasks(self) -> int:
        """Total number of ranks."""
        return self.nodes * self.tasks_per_node

    def with_startup_memory(self, rank_mb: int) -> Request:
        """Increase the requested memory, if necessary, to the amount that the ranks need to start."""
        if self.memory_mb is not None:
            return replace(self, memory_mb=max(self.memory_mb, rank_mb * self.tasks_per_node))
        if self.memory_mb_per_cpu is not None:
            return replace(self, memory_mb_per_cpu=max(self.memory_mb_per_cpu, -(-rank_mb // self.cpus_per_task)))
        return self

    def signal_delay_seconds(self, longest: int) -> int:
        """Return the seconds between the signal to save and the time limit: at most a quarter of the time limit."""
        return longest if self.minutes is None else max(1, min(longest, 60 * self.minutes // 4))


def parse_request(
    resources: Mapping[str, Any], threads: int, settings: ExecutorSettings, schedulable: Collection[str] = ()
) -> Request:
    """Parse the resources of a job.

    Args:
        resources: Resource values by name. None means that the resource is not set.
        threads: Number of threads of the rule.
        settings: Plugin settings, which contain the site's defaults.
        schedulable: Resources that only Snakemake's scheduler limits (`--resources NAME=N`). They are not passed to the
            cluster.

    Raises:
        ResourceError: A resource is invalid. The message names the resource.
    """
    given = {name: value for name, value in resources.items() if value is not None}
    for name in given:
        _refuse_unknown(name, schedulable)
    number, text = _Reader(given).number, _Reader(given).text
    nodes = number("nodes") or 1
    tasks_per_node = _tasks_per_node(nodes, number("tasks"), number("tasks_per_node"))
    if "mem_mb_per_cpu" in given and "mem_mb" in given:
        raise ResourceError("mem_mb and mem_mb_per_cpu are mutually exclusive. Set only one of them")
    bundle = number("bundle") or 1
    if bundle > 1 and nodes * tasks_per_node > 1:
        raise ResourceError(f"bundle={bundle}: a job with several tasks cannot be in a bundle. Set bundle=1")
    extra = shlex.split(settings.extra or "") + shlex.split(text("slurm_extra") or "")
    _refuse_reserved_options(extra)
    return Request(
        nodes=nodes,
        tasks_per_node=tasks_per_node,
        cpus_per_task=number("cpus_per_task") or max(1, threads),
        gpus_per_node=_gpus_per_node(given, nodes, number("gpu", 0), number("gpus_per_node", 0)),
        gpu_model=text("gpu_model"),
        memory_mb=number("mem_mb"),
        memory_mb_per_cpu=number("mem_mb_per_cpu"),
        minutes=number("runtime"),
        partition=text("slurm_partition") or settings.partition,
        account=text("slurm_account") or settings.account,
        qos=text("qos") or settings.qos,
        constraint=text("constraint") or settings.constraint,
        reservation=settings.reservation,
        gres=text("gres"),
        extra=tuple(extra),
        bundle=bundle,
    )


@dataclass(frozen=True)
class _Reader:
    given: Mapping[str, Any]

    def number(self, name: str, least: int = 1) -> int | None:
        value = self.given.get(name)
        if value is None:
            return None
        if isinstance(value, str) and value.strip().isdigit():
            value = int(value)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ResourceError(f"{name}={value}: expected an integer of at least {least} ({SUPPORTED[name]})")
        return value

    def text(self, name: str) -> str | None:
        value = self.given.get(name)
        return None if value is None else str(value)


def _refuse_unknown(name: str, schedulable: Collection[str]) -> None:
    if name in SUPPORTED or name in _SNAKEMAKE or name in schedulable:
        return
    if name in _ALTERNATIVES:
        raise ResourceError(f"{name}: the submitit executor does not support this resource; {_ALTERNATIVES[name]}")
    close = difflib.get_close_matches(name, SUPPORTED, n=1)
    hint = f"Did you mean {close[0]}?" if close else f"Supported resources: {', '.join(sorted(SUPPORTED))}."
    raise ResourceError(
        f"{name}: unknown resource for the submitit executor. {hint} "
        f"If only Snakemake's scheduler uses this resource, set a limit: --resources {name}=N"
    )


def _tasks_per_node(nodes: int, tasks: int | None, per_node: int | None) -> int:
    if tasks is None:
        return per_node or 1
    if per_node is not None and tasks != nodes * per_node:
        raise ResourceError(
            f"tasks={tasks} contradicts nodes={nodes} x tasks_per_node={per_node}. Set only one of tasks and "
            "tasks_per_node"
        )
    if tasks % nodes:
        raise ResourceError(
            f"tasks={tasks} cannot be distributed evenly over nodes={nodes}. Set tasks to a multiple of nodes"
        )
    return tasks // nodes


def _gpus_per_node(given: Mapping[str, Any], nodes: int, gpu: int | None, per_node: int | None) -> int:
    if "gres" in given and "gpu" in str(given["gres"]) and (gpu or per_node):
        name = "gpu" if gpu else "gpus_per_node"
        raise ResourceError(f"gres={given['gres']} and {name}={given[name]} both request GPUs. Set only one of them")
    if gpu is None:
        return per_node or 0
    if per_node is not None and gpu != nodes * per_node:
        raise ResourceError(
            f"gpu={gpu} (for the whole job) contradicts nodes={nodes} x gpus_per_node={per_node}. "
            "Set only gpus_per_node"
        )
    if gpu % nodes:
        raise ResourceError(
            f"gpu={gpu} (for the whole job) cannot be distributed evenly over nodes={nodes}. Set gpus_per_node"
        )
    return gpu // nodes


def _refuse_reserved_options(extra: list[str]) -> None:
    for word in extra:
        option = word.split("=", 1)[0]
        if option in _RESOURCE_OPTIONS:
            raise ResourceError(f"slurm_extra: {option} is not allowed. Use the resource {_RESOURCE_OPTIONS[option]}")
        if option in _PLUGIN_OPTIONS:
            raise ResourceError(f"slurm_extra: {option} is not allowed, because the submitit executor controls it")
