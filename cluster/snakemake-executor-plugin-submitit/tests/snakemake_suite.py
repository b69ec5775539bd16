"""Snakemake's own test suite for executor plugins, with the submitit executor."""

from __future__ import annotations

from snakemake.common.tests import TestWorkflowsLocalStorageBase

from snakemake_executor_plugin_submitit import ExecutorSettings


class SubmititSuite(TestWorkflowsLocalStorageBase):
    """Suite that runs a simple workflow and a workflow with a group job."""

    cluster = "local"

    def get_executor(self) -> str:
        return "submitit"

    def get_executor_settings(self) -> ExecutorSettings:
        return ExecutorSettings(cluster=self.cluster)
