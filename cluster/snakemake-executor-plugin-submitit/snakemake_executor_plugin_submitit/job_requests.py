"""The request of each job of the workflow, and the validation of all requests before the first submission."""

from __future__ import annotations

from typing import Any

from snakemake.exceptions import RuleException
from snakemake_interface_common.exceptions import WorkflowError

from snakemake_executor_plugin_submitit import command
from snakemake_executor_plugin_submitit.debug import Debug
from snakemake_executor_plugin_submitit.local import Local
from snakemake_executor_plugin_submitit.resources import Request, ResourceError, parse_request
from snakemake_executor_plugin_submitit.settings import ExecutorSettings
from snakemake_executor_plugin_submitit.slurm import Slurm

Cluster = Slurm | Local | Debug


class JobRequests:
    """Determines the requests of jobs from their resources, the settings and the cluster."""

    def __init__(self, workflow: Any, cluster: Cluster, settings: ExecutorSettings) -> None:
        self._workflow = workflow
        self._cluster = cluster
        self._settings = settings

    def validate_all(self, dag: Any) -> None:
        """Check the resources of all jobs that the workflow will run, except jobs whose resources are not known yet.

        Raises:
            WorkflowError: Some rules have invalid resources. The message contains one line per invalid rule.
        """
        faults: dict[str, str] = {}
        for job in dag.needrun_jobs():
            if job.is_local or job.rule.norun or job.rule.name in faults:
                continue
            try:
                if job.group is not None:
                    command.check_group_member(job)
                command.check_tasks(job, self.request(job), self._workflow)
            except ResourceError as fault:
                faults[job.rule.name] = str(fault)
            except (WorkflowError, RuleException):
                continue  # the resources depend on files that do not exist yet; they are checked on submission
        if faults:
            lines = [f"rule {name}: {fault}" for name, fault in faults.items()]
            raise WorkflowError("No job was submitted. These rules have invalid resources:\n" + "\n".join(lines))

    def request(self, job: Any) -> Request:
        """Return a job's request. A group requests one task with the sum of its jobs' cores, memory and GPUs.

        Raises:
            ResourceError: A resource is invalid.
        """
        values = {name: value for name, value in job.resources.items() if str(value) != "<TBD>"}
        if job.is_group():
            for member in job.jobs:
                command.check_group_member(member)
            values = {name: value for name, value in values.items() if name not in (*command.TASK_RESOURCES, "bundle")}
        schedulable = set(self._workflow.global_resources) | {"_cores", "_nodes"}
        request = parse_request(values, job.threads, self._settings, schedulable)
        return request if isinstance(self._cluster, Slurm) else self._cluster.collapse(request)

    def checked_request(self, job: Any) -> Request:
        """Return a job's request, with enough memory to start the ranks.

        Raises:
            ResourceError: A resource is invalid, or not supported for this type of rule.
        """
        request = self.request(job)
        command.check_tasks(job, request, self._workflow)
        return request.with_startup_memory(
            command.rank_startup_mb(job, self._workflow, inner=self._settings.inner_snakemake)
        )
