"""The DAG of a study, as listed by dry runs."""

from __future__ import annotations

import subprocess

import pytest

from mem.config.load import load_study
from mem.runs.dag import study_runs
from tests.conftest import REPOSITORY
from tests.workflow.conftest import ENVIRONMENT, jobs, snakemake

SHIPPED = sorted((REPOSITORY / "config").glob("*.yaml"))
MINI = REPOSITORY / "tests" / "mini.yaml"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_every_shipped_study_plans_one_job_per_run(tmp_path, path):
    expected = {}
    for run in study_runs(load_study([path])):
        expected[run.stage] = expected.get(run.stage, 0) + 1
    assert jobs(tmp_path, "--config", f"study={path}") == {**expected, "all": 1}


def test_the_default_study_is_digits_lt(tmp_path):
    assert "results/digits_lt/report/index.html" in snakemake(tmp_path, "--dry-run", "--cores", "1").stdout


def test_configfile_selects_a_study(tmp_path):
    output = snakemake(tmp_path, "--dry-run", "--cores", "1", "--configfile", str(MINI)).stdout
    assert "results/mini/report/index.html" in output


def test_seeds_and_orders_multiply_the_runs(tmp_path):
    counted = jobs(tmp_path, "--config", f"study={MINI}", "seeds=[0, 1]", "orders=[0, 3]")
    assert (counted["convert"], counted["pretrain"], counted["evaluate"], counted["report"]) == (2, 4, 24, 1)


def test_a_study_without_pretraining_plans_none(tmp_path):
    assert "pretrain" not in jobs(tmp_path, "--config", f"study={MINI}", "pretrain=null")


@pytest.mark.parametrize("profile", ["local", "slurm"])
def test_the_profiles_plan_the_same_jobs(tmp_path, profile):
    plain = jobs(tmp_path, "--config", f"study={MINI}")
    output = snakemake(
        tmp_path, "--dry-run", "--profile", str(REPOSITORY / profile), "--config", f"study={MINI}"
    ).stdout
    assert sum(plain.values()) == output.count("rule ") - output.count("rules")


def test_an_invalid_study_ends_with_only_the_message(tmp_path):
    done = snakemake(tmp_path, "-n", "--config", f"study={MINI}", 'heads={"mem": {"xii": 1}}', check=False)
    assert done.returncode == 2
    assert "mem: --config: unknown key `heads.mem.xii`; did you mean `xi`?" in done.stdout
    assert "Traceback" not in done.stdout
    assert "common.smk" not in done.stdout


def test_a_missing_study_ends_with_only_the_message(tmp_path):
    done = snakemake(tmp_path, "-n", "--config", "study=digits_tl", check=False)
    assert done.returncode == 2
    assert "no such study; did you mean" in done.stdout
    assert "Traceback" not in done.stdout


def test_software_deployment_by_conda_is_refused_with_the_command_to_run(tmp_path):
    done = snakemake(tmp_path, "-n", "--sdm", "conda", check=False)
    assert done.returncode == 2
    assert "conda env create -f envs/environment.yaml && conda activate mem" in done.stdout
    assert "Traceback" not in done.stdout


def test_the_workflow_passes_snakemakes_linter(tmp_path):
    assert "Congratulations" in snakemake(tmp_path, "--lint").stdout


def test_the_rules_are_formatted():
    done = subprocess.run(
        ["snakefmt", "--check", "Snakefile", "workflow"],
        cwd=REPOSITORY,
        env=ENVIRONMENT,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
