"""Shell commands produce the same results when they run directly and through an inner Snakemake."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from workflow_runner import Workflow

pytestmark = [pytest.mark.stage, pytest.mark.timeout(200)]
LOCAL = ("--submitit-cluster", "local", "--config", "word=hello")
SNAKEFILE = """
CONSTANT = "a constant of the Snakefile"
shell.prefix("set -o nounset; export FROM_PREFIX=yes; ")
rule all:
    input: "plain/a b.txt", "touched", "tree", "last.txt", "protected.txt", "nothing-to-log.txt"
rule plain:
    output: first="plain/{name}.txt", second="plain/deep/er/{name}.txt"
    log: "logs/{name}/out.log"
    params: number=3, listed=["x y", "z"], computed=lambda w, input, output: f"{w.name}!{len(output)}"
    threads: 2
    resources: mem_mb=123, runtime=3
    shell:
        \"\"\"
        echo {wildcards.name:q} {params.number} {params.listed:q} {params.computed:q} {threads} {resources.mem_mb} \\
            {config[word]} {CONSTANT:q} {log:q} {rule} $FROM_PREFIX > {output.first:q}
        env | sort > {output.second:q}
        echo noise > {log:q}
        ls -a plain >> {output.first:q}
        \"\"\"
rule touched:
    output: touch("touched")
    shell: "true"
rule tree:
    output: directory("tree")
    shell: "mkdir tree && date > /dev/null && echo leaf > tree/leaf"
rule temporary:
    output: temp("temporary.txt")
    shell: "echo passing > {output}"
rule last:
    input: "temporary.txt"
    output: "last.txt"
    shell: "cat {input} > {output}"
rule protected:
    output: protected("protected.txt")
    shell: "echo keep > {output}"
rule nothing_to_log:
    output: "nothing-to-log.txt"
    log: "logs/never/written.log"
    shell: "echo x > {output}"
"""
BOTH = pytest.mark.parametrize("inner", [False, True], ids=["direct", "inner"])
IGNORED_VARIABLES = {"_", "SHLVL", "PWD", "OLDPWD", "CUDA_VISIBLE_DEVICES", "PATH"}
"""Variables that the shell, or Python in an inner Snakemake, sets. They differ between runs."""


def options(inner: bool) -> tuple[str, ...]:
    return (*LOCAL, "--submitit-inner-snakemake") if inner else LOCAL


def tree(folder: Path) -> dict[str, str]:
    """Return the mode and content of each path outside .snakemake and the rank logs, as one string per path."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if name.startswith(".snakemake") or ".ranks" in name:
            continue
        found[name] = f"{path.stat().st_mode:o} " + (path.read_text() if path.is_file() else "folder")
    return found


def variables(text: str) -> dict[str, str]:
    """Parse a command's environment, and omit the variables that differ between runs."""
    found = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    prefixes = ("SUBMITIT", "SNAKEMAKE_SUBMITIT")
    return {k: v for k, v in found.items() if k not in IGNORED_VARIABLES and not k.startswith(prefixes)}


def records(flow: Workflow) -> list[str]:
    """Return Snakemake's metadata for all outputs: rules, inputs, logs and commands."""
    return sorted(line.split("\t")[0] + "\t".join(line.split("\t")[2:]) for line in summary(flow).splitlines())


def summary(flow: Workflow) -> str:
    command = ["snakemake", "--detailed-summary", "--config", "word=hello"]
    return subprocess.run(command, cwd=flow.folder, env=flow.environment, capture_output=True, text=True).stdout


def test_files_environment_and_metadata_are_the_same(workflow):
    flows = [workflow(SNAKEFILE), workflow(SNAKEFILE)]
    for flow, inner in zip(flows, (False, True), strict=True):
        flow.path("plain").mkdir()
        flow.path("plain/a b.txt").write_text("from an earlier run")
        flow.path("tree").mkdir()
        flow.path("tree/old leaf").touch()
        flow.run(*options(inner), "--forceall")
    direct, inner = (tree(flow.folder) for flow in flows)
    environment = "plain/deep/er/a b.txt"
    assert variables(direct.pop(environment)) == variables(inner.pop(environment))
    assert direct == inner
    assert records(flows[0]) == records(flows[1])
    for flow in flows:
        assert "Nothing to be done" in flow.run(*LOCAL)


@BOTH
def test_outputs_of_a_failed_job_are_removed(workflow, inner):
    flow = workflow(
        """
        rule fails:
            output: "half.txt"
            shell: "echo half > {output}; false; echo never reached > proof"
        """
    )
    printed = flow.run(*options(inner), ok=False)
    assert not flow.path("half.txt").exists()
    assert not flow.path("proof").exists()
    assert "half.txt" in printed


@BOTH
def test_a_command_that_does_not_create_its_output_fails(workflow, inner):
    flow = workflow(
        """
        rule forgets:
            output: "never.txt"
            shell: "true"
        """
    )
    assert "never.txt" in flow.run(*options(inner), ok=False)


@BOTH
def test_a_failure_inside_a_shell_pipe_fails_the_job(workflow, inner):
    flow = workflow(
        """
        rule piped:
            output: "piped.txt"
            shell: "false | cat > {output}"
        """
    )
    flow.run(*options(inner), ok=False)


@BOTH
@pytest.mark.skipif(os.geteuid() == 0, reason="root can write to protected files")
def test_a_protected_output_is_not_overwritten(workflow, inner):
    flow = workflow(
        """
        rule guarded:
            output: protected("guarded.txt")
            shell: "echo new > {output}"
        """
    )
    flow.path("guarded.txt").write_text("old")
    flow.path("guarded.txt").chmod(0o444)
    flow.run(*options(inner), "--force", ok=False)
    assert flow.text("guarded.txt") == "old"


@BOTH
def test_snakemakes_retries_apply_to_failures_of_the_code(workflow, inner):
    flow = workflow(
        """
        rule flaky:
            output: "flaky.txt"
            retries: 2
            resources: mem_mb=lambda wildcards, attempt: 100 * attempt
            shell: "echo {resources.mem_mb} >> attempts; test {resources.mem_mb} = 300 && touch {output}"
        """
    )
    flow.run(*options(inner))
    assert flow.text("attempts") == "100\n200\n300\n"
