"""Snakemake's own test-suite for executor plugins."""

from __future__ import annotations

import pytest
from snakemake.common.tests import TestWorkflowsLocalStorageBase

from snakemake_executor_plugin_submitit import ExecutorSettings


class OnSubmitit(TestWorkflowsLocalStorageBase):
    """A simple workflow, and one with a group."""

    cluster = "local"

    def get_executor(self) -> str:
        return "submitit"

    def get_executor_settings(self) -> ExecutorSettings:
        return ExecutorSettings(cluster=self.cluster)


@pytest.mark.timeout(120)
class TestOnThisMachine(OnSubmitit):
    __test__ = True


@pytest.mark.timeout(120)
class TestWithInnerSnakemake(OnSubmitit):
    __test__ = True

    def get_executor_settings(self) -> ExecutorSettings:
        return ExecutorSettings(cluster="local", inner_snakemake=True)


@pytest.mark.timeout(120)
class TestInTheHeadItself(OnSubmitit):
    __test__ = True
    cluster = "debug"
