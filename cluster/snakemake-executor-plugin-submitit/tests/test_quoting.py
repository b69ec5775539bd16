"""Names that a shell would expand, in jobs with and without an inner Snakemake."""

from __future__ import annotations

import pytest

from workflow_runner import Workflow

pytestmark = pytest.mark.stage
SNAKEFILE = r"""
rule all:
    input: "direct.txt", "o'clock $(touch expanded).txt", "inner.txt"
rule direct:
    output: "direct.txt"
    shell: "touch {output}"
rule named:
    output: "{name}'clock $(touch expanded).txt"
    run:
        open(output[0], "w").close()
rule inner:
    input: "o'clock $(touch expanded).txt"
    output: "inner.txt"
    params: text=config["text"]
    run:
        open(output[0], "w").write(params.text)
"""


@pytest.mark.parametrize("name", ["o'clock", "it's $(touch expanded)", "a `touch expanded` 'b", 'double " quote $HOME'])
def test_names_are_not_expanded_by_the_shell(workflow, name):
    first = workflow("")
    flow = Workflow(first.folder / name, SNAKEFILE)
    flow.run("--submitit-cluster", "local", "--config", "text=it's $(touch expanded)")
    assert flow.text("inner.txt") == "it's $(touch expanded)"
    assert not list(flow.folder.rglob("expanded"))
