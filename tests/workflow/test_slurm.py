"""The workflow on a real two-node SLURM cluster, as `snakemake --profile slurm` runs it."""

from __future__ import annotations

import copy
import json
import subprocess
from pathlib import Path

import pytest
import torch
import yaml
from mlflow.tracking import MlflowClient
from safetensors.torch import load_file

from cluster.throwaway import ThrowawaySlurm
from mem.config.load import load_study
from mem.report.results import from_csv
from mem.runs.dag import Run, study_runs
from mem.tracking import server
from mem.tracking.log import read_curve, read_events
from mem.train.schedules import Schedule
from tests.conftest import REPOSITORY
from tests.waiting import wait
from tests.workflow.conftest import assert_same_training, snakemake

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(400)]
MINI = REPOSITORY / "tests" / "mini.yaml"
ON_SLURM = (
    "--profile", str(REPOSITORY / "slurm"), "--seconds-between-status-checks", "1", "--latency-wait", "10",
    "--config", f"study={MINI}", 'compute={"pretrain": {"nodes": 2, "memory_gb": 1.5}}',
)  # fmt: skip


def run_of(stage: str, changes: dict | None = None) -> Run:
    return next(run for run in study_runs(load_study([MINI], changes)) if run.stage == stage)


@pytest.fixture(scope="module")
def folder(slurm: ThrowawaySlurm, tmp_path_factory) -> Path:
    """A folder in which the mini study ran on SLURM, with pretraining on two nodes."""
    path = tmp_path_factory.mktemp("slurm")
    frequent_metrics = {"MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL": "0.1"}
    out = snakemake(path, *ON_SLURM, timeout=300, **slurm.environment(), **frequent_metrics).stdout
    assert "Report: results/mini/report/index.html" in out
    return path


def test_every_stage_ran_as_a_slurm_job_and_pretraining_used_both_nodes(folder, slurm):
    jobs: dict[str, str] = {}
    for run in study_runs(load_study([MINI])):
        record = json.loads((folder / run.folder / "run.json").read_text())
        jobs[run.key] = record["machine"]["slurm"]["job_id"]
        assert record["attempts"] == 1
    states = slurm.run("sacct", "-nX", "-P", "-o", "JobIDRaw,State,NNodes", "-j", ",".join(jobs.values()))
    job_states = {line.split("|")[0]: line.split("|")[1:] for line in states.splitlines()}
    assert {state for state, _ in job_states.values()} == {"COMPLETED"}
    assert job_states[jobs[run_of("pretrain").key]][1] == "2"
    assert job_states[jobs[run_of("finetune").key]][1] == "1"


def test_the_metrics_of_the_second_node_are_in_the_pretraining_run(folder):
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


def test_two_nodes_learn_the_same_as_one_process(folder, tmp_path):
    snakemake(tmp_path, "--cores", "2", "--until", "pretrain", "--config", f"study={MINI}")
    assert_same_training(run_of("pretrain").folder, tmp_path, folder)


def test_the_report_contains_every_head(folder):
    rows = from_csv(folder / "results" / "mini" / "report" / "results.csv")
    assert {row.variant for row in rows} == set(load_study([MINI]).heads)


def preempt_and_finish(slurm: ThrowawaySlurm, workflow_process: subprocess.Popen[str], log: Path) -> int:
    """Preempt a training on two nodes, wait until the workflow ends, and return the step at which it resumed."""
    wait(lambda: log.exists() and len(read_curve(log, "train/loss")) > 5, workflow_process)
    urgent = slurm.run("sbatch", "--parsable", "-p", "urgent", "-N2", "--exclusive", "--wrap", "sleep 300")
    wait(lambda: "RUNNING" in slurm.run("squeue", "-h", "-j", urgent, "-o", "%T"), workflow_process)
    slurm.run("scancel", urgent)
    output = workflow_process.communicate(timeout=240)[0]
    assert workflow_process.returncode == 0, output
    assert "was requeued (preempted); its progress is saved" in output
    (resumed,) = [event["step"] for event in read_events(log) if event["event"] == "resumed"]
    return resumed


def test_a_preempted_pretraining_resumes_and_no_point_is_lost_or_duplicated(slurm, tmp_path, start):
    changes = {"pretrain": {"epochs": 250}}
    run = tmp_path / run_of("pretrain", changes).folder
    log = run / "log.jsonl"
    workflow_process = start(
        tmp_path, *ON_SLURM, f"pretrain={json.dumps(changes['pretrain'])}", "--until", "pretrain", **slurm.environment()
    )
    resumed = preempt_and_finish(slurm, workflow_process, log)
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


PACO = {
    "objective": {
        "name": "paco",
        "sample_weight": 0.05,
        "contrast": {"queue": 128, "width": 8, "temperature": 0.2, "momentum": 0.9, "projector_norm": True},
    },
    "label_smoothing": 0.0,
    "global_batch": 4,  # Epochs of 122 steps, so that a job is hardly ever stopped at the end of one.
    "epochs": 7,
}


@pytest.mark.timeout(600)
def test_paco_killed_within_an_epoch_resumes_with_its_queue_and_key_encoder(slurm, tmp_path, start):
    """Two ranks on two nodes are preempted. The weights are those of a run that was not interrupted."""
    values = copy.deepcopy(yaml.safe_load(MINI.read_text()))
    values |= {
        "study": "mini_paco",
        "pretrain": None,
        "heads": {"paco": {"method": "finetuned"}},
        "compute": {"finetune": {"nodes": 2, "memory_gb": 1.5}},
    }
    values["finetune"] |= PACO
    study = tmp_path / "mini_paco.yaml"
    study.write_text(yaml.safe_dump(values))
    run = next(run for run in study_runs(load_study([study])) if run.stage == "finetune")
    on_slurm = (*ON_SLURM[: ON_SLURM.index("--config")], "--config", f"study={study}", "--until", "finetune")
    interrupted, undisturbed = tmp_path / "interrupted", tmp_path / "undisturbed"
    for folder in (interrupted, undisturbed):
        folder.mkdir()
    log = interrupted / run.folder / "log.jsonl"

    workflow_process = start(interrupted, *on_slurm, **slurm.environment())
    resumed = preempt_and_finish(slurm, workflow_process, log)
    record = json.loads((interrupted / run.folder / "run.json").read_text())
    steps = record["results"]["steps"]
    assert 0 < resumed < steps
    # 489 training images. Resuming at the end of an epoch would not show that the position within it is restored.
    schedule = Schedule(steps, 489 / values["finetune"]["global_batch"], lambda step: 0.0)
    at_end = f"the job was stopped after step {resumed}, at the end of an epoch, which happens by chance: test again"
    assert not schedule.epoch_ends_at(resumed), at_end

    snakemake(undisturbed, *on_slurm, timeout=240, **slurm.environment())
    weights = [load_file(folder / run.folder / "model.safetensors") for folder in (interrupted, undisturbed)]
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-5, atol=1e-6)
