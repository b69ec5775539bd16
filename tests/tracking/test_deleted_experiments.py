"""What the user deleted in MLflow stays deleted, and what the user restores is continued."""

from __future__ import annotations

from mlflow.entities import ViewType
from mlflow.tracking import MlflowClient

from mem.tracking import log_state, server
from tests.tracking.logs import FOLDERS, client, log_path, mlflow_run, open_log, send, steps


def delete_experiment(root) -> str:
    experiment = client(root).get_experiment_by_name("set")
    assert experiment is not None
    client(root).delete_experiment(experiment.experiment_id)
    return experiment.experiment_id


def runs_of_all_kinds(root) -> list[str]:
    """Return the stages of all MLflow runs, including those that are deleted."""
    mlflow_client = client(root)
    ids = [e.experiment_id for e in mlflow_client.search_experiments(view_type=ViewType.ALL)]
    runs = mlflow_client.search_runs(ids, run_view_type=ViewType.ALL)
    return sorted(run.data.tags["stage"] for run in runs)


def lifecycle(root) -> str:
    experiment = client(root).get_experiment_by_name("set")
    assert experiment is not None
    return experiment.lifecycle_stage


def test_a_deleted_experiment_stays_deleted_and_no_run_is_doubled(root, capsys):
    for stage in ("pretrain", "finetune"):
        open_log(root, stage).scalars({"train/loss": 1.0}, 1)
    send(root)
    experiment = delete_experiment(root)
    log = open_log(root, "pretrain")
    log.scalars({"train/loss": 2.0}, 2)
    open_log(root, "features").scalars({"train/loss": 1.0}, 1)
    for _ in range(2):
        assert send(root).lines == 0
    assert lifecycle(root) == "deleted"
    assert runs_of_all_kinds(root) == ["finetune", "pretrain"]
    said = capsys.readouterr().err
    assert "The MLflow experiment set was deleted. New runs of this dataset are not sent" in said
    assert f"mlflow experiments restore --experiment-id {experiment}" in said


def test_an_experiment_that_is_deleted_under_a_live_mirror_stays_deleted(root, capsys):
    log = open_log(root, "pretrain")
    log.scalars({"train/loss": 1.0}, 1)
    mirror = send(root)
    delete_experiment(root)
    log.scalars({"train/loss": 2.0}, 2)
    open_log(root, "finetune").scalars({"train/loss": 1.0}, 1)
    open_log(root, "convert").scalars({"train/loss": 1.0}, 1)
    for _ in range(2):
        mirror.send_new()
    assert mirror.failed == {}
    assert lifecycle(root) == "deleted"
    assert runs_of_all_kinds(root) == ["pretrain"]
    assert capsys.readouterr().err.count("was deleted") == 1


def test_a_run_that_is_deleted_under_a_live_mirror_is_no_failure(root):
    log = open_log(root, "pretrain")
    log.scalars({"train/loss": 1.0}, 1)
    mirror = send(root)
    client(root).delete_run(mlflow_run(root, "pretrain").info.run_id)
    log.scalars({"train/loss": 2.0}, 2)
    mirror.send_new()
    assert mirror.failed == {}
    assert mlflow_run(root, "pretrain", run_view_type=ViewType.ALL).info.lifecycle_stage == "deleted"


def test_a_restored_experiment_is_continued_without_gaps(root, monkeypatch):
    log = open_log(root, "pretrain")
    log.scalars({"train/loss": 1.0}, 1)
    mirror = send(root)
    experiment = delete_experiment(root)
    log.scalars({"train/loss": 2.0}, 2)
    open_log(root, "finetune").scalars({"train/loss": 1.0}, 1)
    mirror.send_new()
    client(root).restore_experiment(experiment)
    log.scalars({"train/loss": 3.0}, 3)
    monkeypatch.setattr(log_state, "_RECHECK_SECONDS", 0.0)
    mirror.send_new()
    assert mirror.failed == {}
    assert steps(root, "pretrain") == [1, 2, 3]
    assert runs_of_all_kinds(root) == ["pretrain"]  # no lines were added to the other log
    send(root)
    assert steps(root, "finetune") == [1]
    assert runs_of_all_kinds(root) == ["finetune", "pretrain"]


def test_logs_that_belong_to_a_run_of_a_deleted_experiment_are_skipped(root):
    open_log(root, "features")
    open_log(root, "train_head")
    send(root)
    delete_experiment(root)
    open_log(root, "evaluate").scalars({"test/acc1": 50.0}, 0)
    log_path(root, "convert").parent.mkdir(parents=True)
    send(root)
    assert runs_of_all_kinds(root) == ["features", "train_head"]


def test_the_runs_of_more_experiments_than_one_answer_contains_are_found(root):
    """A server returns at most 1000 experiments in one answer. The others were overlooked, and their runs doubled."""
    open_log(root, "pretrain").scalars({"train/loss": 1.0}, 1)
    send(root)
    client(root).create_experiment("later")

    class Paged(MlflowClient):
        """A client that returns one experiment in each answer."""

        def search_experiments(self, **options):
            return super().search_experiments(**options, max_results=1)

    found = server.all_runs(Paged(server.tracking_uri(root)))
    assert [run.data.tags["config_digest"] for run in found] == [FOLDERS["pretrain"][-12:]]
