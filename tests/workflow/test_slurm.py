"""The DAG on a real SLURM of two nodes, as `snakemake --profile slurm` runs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from cluster.throwaway import ThrowawaySlurm
from mem.report.results import from_csv
from mem.runs import Run, plan
from mem.study import load_study
from mem.tracking import server
from mem.tracking.log import read_curve, read_events
from tests.conftest import REPOSITORY
from tests.waiting import wait
from tests.workflow.conftest import assert_learnt_alike, snakemake

pytestmark = [pytest.mark.slurm, pytest.mark.study, pytest.mark.timeout(400)]
MINI = REPOSITORY / "tests" / "mini.yaml"
ON_SLURM = (
    "--profile", str(REPOSITORY / "slurm"), "--seconds-between-status-checks", "1", "--latency-wait", "10",
    "--config", f"study={MINI}", 'compute={"pretrain": {"nodes": 2, "memory_gb": 1.5}}',
)  # fmt: skip


def run_of(stage: str, changes: dict | None = None) -> Run:
    return next(run for run in plan(load_study([MINI], changes)) if run.stage == stage)


@pytest.fixture(scope="module")
def folder(slurm: ThrowawaySlurm, tmp_path_factory) -> Path:
    """A folder in which the mini study ran on SLURM, its pretraining on two nodes."""
    made = tmp_path_factory.mktemp("slurm")
    often = {"MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL": "0.1"}
    out = snakemake(made, *ON_SLURM, timeout=300, **slurm.environment(), **often).stdout
    assert "Report: results/mini/report/index.html" in out
    return made


def test_every_stage_was_a_slurm_job_and_pretraining_had_both_nodes(folder, slurm):
    jobs: dict[str, str] = {}
    for run in plan(load_study([MINI])):
        record = json.loads((folder / run.folder / "run.json").read_text())
        jobs[run.key] = record["machine"]["slurm"]["job_id"]
        assert record["attempts"] == 1
    states = slurm.run("sacct", "-nX", "-P", "-o", "JobIDRaw,State,NNodes", "-j", ",".join(jobs.values()))
    of_job = {line.split("|")[0]: line.split("|")[1:] for line in states.splitlines()}
    assert {state for state, _ in of_job.values()} == {"COMPLETED"}
    assert of_job[jobs[run_of("pretrain").key]][1] == "2"
    assert of_job[jobs[run_of("finetune").key]][1] == "1"


def test_what_the_second_node_does_stands_in_the_run_of_the_pretraining(folder):
    name = "system/node_1/cpu_utilization_percentage"
    (log,) = (folder / run_of("pretrain").folder).glob("rank-*.jsonl")
    assert log.name.startswith("rank-1-")
    logged = [step for step, _ in read_curve(log, name)]
    assert logged == list(range(len(logged)))
    assert len(logged) > 2
    assert not list(folder.glob("runs/*/*/finetune-*/rank-*.jsonl"))
    client = MlflowClient(server.tracking_uri(folder))
    experiment = client.get_experiment_by_name("mini_digits")
    (run,) = client.search_runs([experiment.experiment_id], "tags.stage = 'pretrain'")
    assert [point.step for point in client.get_metric_history(run.info.run_id, name)] == logged
    assert "system/node_0/cpu_utilization_percentage" in run.data.metrics


def test_two_nodes_learn_what_one_process_does(folder, tmp_path):
    snakemake(tmp_path, "--cores", "2", "--until", "pretrain", "--config", f"study={MINI}")
    assert_learnt_alike(run_of("pretrain").folder, tmp_path, folder)


def test_the_report_has_every_head(folder):
    rows = from_csv(folder / "results" / "mini" / "report" / "results.csv")
    assert {row.variant for row in rows} == set(load_study([MINI]).heads)


def test_a_preempted_pretraining_goes_on_and_no_point_is_lost_or_doubled(slurm, tmp_path, start):
    changes = {"pretrain": {"epochs": 400}}
    run = tmp_path / run_of("pretrain", changes).folder
    log = run / "log.jsonl"
    head = start(
        tmp_path, *ON_SLURM, f"pretrain={json.dumps(changes['pretrain'])}", "--until", "pretrain", **slurm.environment()
    )
    wait(lambda: log.exists() and len(read_curve(log, "train/loss")) > 5, head)
    urgent = slurm.run("sbatch", "--parsable", "-p", "urgent", "-N2", "--exclusive", "--wrap", "sleep 300")
    wait(lambda: "RUNNING" in slurm.run("squeue", "-h", "-j", urgent, "-o", "%T"), head)
    slurm.run("scancel", urgent)
    said = head.communicate(timeout=240)[0]
    assert head.returncode == 0, said
    assert "was requeued, preempted; its work is saved" in said

    (resumed,) = [event["step"] for event in read_events(log) if event["event"] == "resumed"]
    record = json.loads((run / "run.json").read_text())
    assert 0 < resumed < record["results"]["steps"]
    assert record["attempts"] == 2
    assert record["machine"]["slurm"]["restart_count"] == "1"
    logged = [step for step, _ in read_curve(log, "train/loss")]
    assert logged == sorted(set(logged))
    assert logged[-1] == record["results"]["steps"]

    client = MlflowClient(server.tracking_uri(tmp_path))
    experiment = client.get_experiment_by_name("mini_digits")
    assert experiment is not None
    (tracked,) = client.search_runs([experiment.experiment_id], "tags.stage = 'pretrain'")
    assert [p.step for p in client.get_metric_history(tracked.info.run_id, "train/loss")] == logged
    assert tracked.data.tags["restarts"] == "1"
    assert tracked.info.status == "FINISHED"
