"""Snakemake's own test suite for executor plugins."""

from __future__ import annotations

import pytest

from snakemake_executor_plugin_submitit import ExecutorSettings
from snakemake_suite import SubmititSuite

pytestmark = [pytest.mark.stage, pytest.mark.timeout(120)]


class TestLocal(SubmititSuite):
    __test__ = True


class TestInnerSnakemake(SubmititSuite):
    __test__ = True

    def get_executor_settings(self) -> ExecutorSettings:
        return ExecutorSettings(cluster="local", inner_snakemake=True)


class TestDebug(SubmititSuite):
    __test__ = True
    cluster = "debug"
