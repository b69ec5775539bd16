"""Logs that go into the MLflow run of another: those of other ranks, and evaluations."""

from __future__ import annotations

from mem.tracking.log import JsonLines
from mem.tracking.mirror import Mirror
from mem.tracking.server import tracking_uri
from tests.tracking.test_mirror import (  # noqa: F401
    FOLDERS,
    client,
    close_logs,
    empty_database,
    mlflow_run,
    open_log,
    root,
    send,
    steps,
)

CPU = "system/node_1/cpu_utilization_percentage"


def rank_log(root, of: JsonLines, rank: int = 1) -> JsonLines:  # noqa: F811
    log = JsonLines(root / "runs" / "set" / FOLDERS["pretrain"] / f"rank-{rank}-{of.id[:8]}.jsonl")
    log.event("beside", log=of.id)
    return log


def cpu_points(run) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in run]


def test_what_other_ranks_see_goes_into_the_run_of_their_stage(root):  # noqa: F811
    of = open_log(root, "pretrain")
    with rank_log(root, of) as log:
        for step in range(3):
            log.scalars({CPU: 10.0 * step}, step)
        mirror = send(root)
        log.scalars({CPU: 30.0}, 3)
        mirror.send_new()
        send(root)
    history = client(root).get_metric_history(mlflow_run(root, "pretrain").info.run_id, CPU)
    assert cpu_points(history) == [(0, 0.0), (1, 10.0), (2, 20.0), (3, 30.0)]


def test_a_rank_that_is_ahead_of_its_stages_log_waits_for_it(root):  # noqa: F811
    folder = root / "runs" / "set" / FOLDERS["pretrain"]
    with JsonLines(folder / "rank-1-0.jsonl") as log:
        log.event("beside", log="of no run yet")
        log.scalars({CPU: 1.0}, 0)
        assert send(root).lines == 0


def test_the_ranks_of_a_run_that_was_made_anew_stay_with_the_old_one(root):  # noqa: F811
    path = root / "runs" / "set" / FOLDERS["pretrain"] / "log.jsonl"
    first = open_log(root, "pretrain")
    with rank_log(root, first) as log:
        log.scalars({CPU: 1.0}, 0)
    path.rename(path.with_name("log-1.jsonl"))
    second = open_log(root, "pretrain")
    with rank_log(root, second) as log:
        log.scalars({CPU: 2.0}, 0)
    send(root)
    send(root)
    own = client(root)
    runs = own.search_runs([own.get_experiment_by_name("set").experiment_id])
    assert sorted(cpu_points(own.get_metric_history(run.info.run_id, CPU)) for run in runs) == [[(0, 1.0)], [(0, 2.0)]]


def test_what_hangs_on_a_run_that_the_user_deleted_is_passed_over(root):  # noqa: F811
    open_log(root, "features")
    head = open_log(root, "train_head")
    send(root)
    client(root).delete_run(mlflow_run(root, "train_head").info.run_id)
    open_log(root, "evaluate").scalars({"test/acc1": 50.0}, 0)
    with rank_log(root, head) as log:
        log.scalars({CPU: 1.0}, 0)
    open_log(root, "pretrain").scalars({"train/loss": 1.0}, 1)
    send(root)
    assert steps(root, "pretrain") == [1]


def test_the_scores_of_an_evaluation_that_was_made_again_are_the_runs_latest(root):  # noqa: F811
    open_log(root, "features")
    open_log(root, "train_head")
    folder = root / "runs" / "set" / FOLDERS["evaluate"]
    for score in (50.0, 60.0):
        log = open_log(root, "evaluate")
        log.scalars({"test/acc1": score}, 0)
        log.close()
        send(root)
        send(root)
        if score == 50.0:
            (folder / "log.jsonl").unlink()
    run = mlflow_run(root, "train_head")
    assert run.data.metrics["test/acc1"] == 60.0
    assert len(client(root).get_metric_history(run.info.run_id, "test/acc1")) == 2


def test_a_log_that_is_set_aside_while_it_is_read_is_found_again(root, monkeypatch):  # noqa: F811
    path = root / "runs" / "set" / FOLDERS["pretrain"] / "log.jsonl"
    open_log(root, "pretrain").scalars({"train/loss": 1.0}, 1)
    mirror = Mirror(root, tracking_uri(root))
    aside = path.with_name("log-1.jsonl")
    real = mirror._find

    def moved_meanwhile(at, inode):
        found = real(at, inode)
        if at == path and not aside.exists():
            path.rename(aside)
        return found

    monkeypatch.setattr(mirror, "_find", moved_meanwhile)
    mirror.send_new()
    mirror.send_new()
    assert steps(root, "pretrain") == [1]
