"""Modules in the working folder are not imported by the plugin."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.stage
MODULES = ("psutil", "submitit", "cloudpickle", "numpy", "snakemake_executor_plugin_submitit")


def test_modules_in_the_working_folder_are_not_imported(workflow):
    flow = workflow(
        """
        rule all:
            input: "direct.txt", "inner.txt"
        rule direct:
            output: "direct.txt"
            shell: "touch {output}"
        rule inner:
            output: "inner.txt"
            run:
                open(output[0], "w").close()
        """
    )
    for name in MODULES:
        flow.path(f"{name}.py").write_text(f"open('{flow.folder}/imported-{name}', 'w').close()\n")
    flow.run("--submitit-cluster", "local")
    assert [path.name for path in flow.folder.glob("imported-*")] == []
