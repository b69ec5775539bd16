"""The Snakemake workflow catalog lists the workflow, without the usage as a module, which the workflow refuses."""

from __future__ import annotations

from tests.conftest import REPOSITORY
from tests.workflow.conftest import snakemake

MODULE = """
module mem:
    snakefile: "{snakefile}"

use rule * from mem as mem_*
"""


def test_the_repository_meets_the_rules_of_the_catalog():
    readme = (REPOSITORY / "README.md").read_text().lower()
    assert "snakemake" in readme
    assert "workflow" in readme
    assert (REPOSITORY / "Snakefile").is_file()
    assert list((REPOSITORY / "workflow" / "rules").glob("*.smk"))
    # With this file, the catalog would describe the usage as a module.
    assert not (REPOSITORY / ".snakemake-workflow-catalog.yml").exists()


def test_a_workflow_that_imports_the_rules_as_a_module_gets_one_message(tmp_path):
    importing = tmp_path / "Snakefile"
    importing.write_text(MODULE.format(snakefile=REPOSITORY / "Snakefile"))
    done = snakemake(tmp_path, "--snakefile", str(importing), "--cores", "1", "--dry-run", check=False)
    assert done.returncode == 2
    assert "mem: this workflow cannot be used as a module" in done.stdout
    assert "Traceback" not in done.stdout
    assert not (tmp_path / "runs").exists()
