"""A finished report publishes its study in MLflow: marked runs, means over runs, views, and their addresses."""

from __future__ import annotations

import base64
import json
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import ViewType
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST

from mem.errors import UserError
from mem.metrics import interval
from mem.tracking import publish, server
from mem.tracking.log import JsonLines
from mem.tracking.published_studies import PublishedView, published_studies
from mem.tracking.run_names import earlier_run_name
from mem.tracking.study_views import VIEWS
from mem.tracking.view_state import TAG
from tests.tracking.logs import MACHINE, all_runs, client, send
from tests.tracking.study_logs import HEADS, STUDY, accuracy, folder, write_report, write_study

SEEDS = (0, 1)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Path:
    """A working folder whose study is published. Opening a copy of a database takes a second, so all tests use this."""
    folder = tmp_path_factory.mktemp("published")
    (folder / "runs").mkdir(parents=True)
    shutil.copy(empty_database, folder / "runs" / "mlflow.db")
    write_study(folder, tuple(HEADS), SEEDS)
    send(folder)
    return folder


@pytest.fixture
def root(published: Path) -> Iterator[Path]:
    """The same folder for tests that change the report. After the test, the study is published as before."""
    yield published
    write_report(published, tuple(HEADS), SEEDS)
    send(published)


@pytest.fixture(autouse=True)
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def experiment_of(root: Path) -> Any:
    return client(root).get_experiment_by_name("set")


def found(root: Path, query: str, **options: Any) -> list[Any]:
    experiment = experiment_of(root)
    return list(client(root).search_runs([experiment.experiment_id], query, **options))


def tags(root: Path) -> dict[str, str]:
    return experiment_of(root).tags


def state(root: Path, view: str) -> dict[str, Any]:
    """Return a view as MLflow's UI reads it."""
    envelope = json.loads(tags(root)[f"{TAG}mem.{STUDY}.{view}"])
    assert set(envelope) == {"name", "createdAt", "state"}
    header, _, content = envelope["state"].partition(";")
    assert header == "deflate"
    return json.loads(zlib.decompress(base64.b64decode(content)))


def means(root: Path, **options: Any) -> dict[str, Any]:
    return {run.data.tags["variant"]: run for run in found(root, "tags.stage = 'summary'", **options)}


def views_of(root: Path) -> tuple[PublishedView, ...]:
    return next(study.views for study in published_studies(client(root)) if study.name == STUDY)


def publish_again(root: Path) -> None:
    """Let the next mirror publish the study again, as after a mirror that was killed before it set the tag."""
    for run in found(root, "tags.`mem.published` LIKE '%'"):
        client(root).delete_tag(run.info.run_id, "mem.published")
    send(root)


# --- runs of the study ------------------------------------------------------------------------------------------------


def test_the_query_of_the_table_finds_every_head_and_nothing_else(published):
    runs = found(published, state(published, "heads")["searchFilter"])
    assert len(runs) == len(SEEDS) * len(HEADS)
    assert {run.data.tags["stage"] for run in runs} == {"train_head"}
    assert {run.data.tags[f"study.{STUDY}"] for run in runs} == set(HEADS)
    assert not [run for run in runs if "mlflow.parentRunId" in run.data.tags]


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_the_query_of_the_curves_finds_every_run_of_the_stage(published, stage):
    runs = found(published, state(published, stage)["searchFilter"])
    assert [run.data.tags["stage"] for run in runs] == [stage] * len(SEEDS)


def test_runs_that_no_longer_belong_to_the_study_lose_their_mark_and_their_mean(published):
    root = published
    heads = ("ce", "mem")
    write_report(root, heads, (0, 1))
    send(root)
    runs = found(root, state(root, "heads")["searchFilter"])
    assert sorted(run.info.run_name for run in runs) == [
        "ce · vit · seed 0", "ce · vit · seed 1",
        "mem (frozen CE, softmax) · vit · seed 0", "mem (frozen CE, softmax) · vit · seed 1",
    ]  # fmt: skip
    assert set(means(root)) == set(heads)
    write_report(root, tuple(HEADS), SEEDS)
    send(root)
    assert len(found(root, state(root, "heads")["searchFilter"])) == len(SEEDS) * len(HEADS)
    assert set(means(root)) == set(HEADS)


def test_another_study_with_the_same_runs_has_its_own_views(root):
    write_report(root, ("ce", "crt", "mem"), (0,), study="other")
    send(root)
    assert len(found(root, "tags.`study.other` LIKE '%' AND tags.stage = 'train_head'")) == 3
    assert len(found(root, state(root, "heads")["searchFilter"])) == len(SEEDS) * len(HEADS)
    assert [study.name for study in published_studies(client(root))] == [STUDY, "other"]
    note = tags(root)["mlflow.note.content"]
    assert note.count("**Study mini**") == note.count("**Study other**") == 1


def test_names_of_an_earlier_version_are_replaced_and_names_that_the_user_chose_are_kept(published):
    root = published
    runs = {run.info.run_name: run for run in all_runs(root)}
    start = {"stage": "train_head", "key": runs["crt · vit · seed 0"].data.tags["config_digest"]}
    start["labels"] = {"variant": "crt", "order": 0, "seed": 0}
    client(root).update_run(runs["crt · vit · seed 0"].info.run_id, name=earlier_run_name(start))
    client(root).update_run(runs["crt · vit · seed 1"].info.run_id, name="my favourite")
    (report,) = found(root, f"tags.folder = '{folder('report', 0, len(HEADS))}'")
    client(root).update_run(report.info.run_id, name=f"report {report.data.tags['config_digest'][:4]}")
    publish_again(root)
    names = {run.info.run_name for run in all_runs(root)}
    assert client(root).get_run(report.info.run_id).info.run_name == "report · mini"
    assert {"crt · vit · seed 0", "my favourite"} <= names
    assert "crt · vit · seed 1" not in names


# --- means ------------------------------------------------------------------------------------------------------------


def test_a_summary_run_contains_the_mean_and_the_interval_over_seeds(published):
    runs = means(published)
    assert set(runs) == set(HEADS)
    run = runs["mem"]
    assert run.info.run_name == "mem (frozen CE, softmax) · vit · mean of 2 runs"
    assert run.info.status == "FINISHED"
    assert (run.data.tags["seeds"], run.data.tags["study"]) == ("0, 1", STUDY)
    for shot in ("many", "medium", "few", "all"):
        expected = interval([accuracy("mem", seed, shot) for seed in SEEDS])
        assert expected.half_width is not None
        assert run.data.metrics[f"test/{shot}"] == pytest.approx(expected.mean)
        assert run.data.metrics[f"test/{shot}_low"] == pytest.approx(expected.mean - expected.half_width)
        assert run.data.metrics[f"test/{shot}_high"] == pytest.approx(expected.mean + expected.half_width)
        assert run.data.metrics[f"val/{shot}"] == pytest.approx(expected.mean - 3)
    assert run.data.metrics["runs"] == 2


def test_one_run_per_head_has_no_summary(root):
    write_report(root, ("ce", "crt"), (0,))
    send(root)
    assert means(root) == {}
    assert {tag.rpartition(".")[2] for tag in tags(root) if tag.startswith(TAG)} == set(VIEWS) - {"means", "summary"}
    titles = [view.title for view in views_of(root)]
    assert titles[0] == "all heads by shot group"
    assert not [title for title in titles if "mean" in title]


def test_publishing_twice_changes_nothing(published):
    root, run = published, means(published)["crt"]
    history = client(root).get_metric_history(run.info.run_id, "test/all")
    before = {run.info.run_id: run.to_dictionary() for run in all_runs(root) if run.data.tags["stage"] != "report"}
    publish_again(root)
    after = {run.info.run_id: run.to_dictionary() for run in all_runs(root) if run.data.tags["stage"] != "report"}
    assert after == before
    assert len(client(root).get_metric_history(run.info.run_id, "test/all")) == len(history)


def test_the_next_report_writes_a_damaged_tag_again(published):
    before = views_of(published)
    client(published).set_experiment_tag(experiment_of(published).experiment_id, f"mem.views.{STUDY}", "{")
    with pytest.raises(UserError, match="The next report of the study writes it again"):
        views_of(published)
    publish_again(published)
    assert views_of(published) == before


def test_a_mirror_that_is_killed_while_it_publishes_is_completed_by_the_next_one(root, monkeypatch):
    write_report(root, ("ce", "crt"), SEEDS)

    def killed(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(publish.Publisher, "_write_views", killed)
    with pytest.raises(KeyboardInterrupt):
        send(root)
    monkeypatch.undo()
    assert len(state(root, "means")["groupsExpanded"]) == len(HEADS)
    send(root)
    assert len(means(root)) == 2
    assert state(root, "means")["groupsExpanded"] == {"tag.study.mini.ce": False, "tag.study.mini.crt": False}


def test_a_summary_that_the_user_deleted_stays_deleted(published):
    root, deleted = published, means(published)["crt"].info.run_id
    client(root).delete_run(deleted)
    publish_again(root)
    assert set(means(root)) == set(HEADS) - {"crt"}
    assert len(means(root, run_view_type=ViewType.ALL)) == len(HEADS)
    client(root).restore_run(deleted)


def test_without_results_there_are_views_and_a_message(root, capsys):
    (root / "results" / STUDY / "report" / "results.csv").write_text("variant,split\nmem,test\n")
    publish_again(root)
    assert "MLflow shows no means over runs for the study mini" in capsys.readouterr().err
    assert len(found(root, f"tags.study = '{STUDY}' AND tags.`mem.published` LIKE '%'")) == 1


@pytest.mark.parametrize("study", ["../outside", "a'b"])
def test_a_report_of_another_person_writes_nothing_outside_the_working_folder(published, study):
    before = sorted(published.parent.rglob("*.html"))
    with JsonLines(published / "runs" / "set" / "vit" / f"report-{len(study):012d}" / "log.jsonl") as log:
        log.event(
            "start", stage="report", key=f"{len(study):012d}", dataset="set", backbone="vit", labels={"study": study},
            seed=None, settings={}, inputs={}, git={"commit": "abc", "dirty": False}, machine=MACHINE, versions={},
        )  # fmt: skip
        log.event("end", status="finished")
    send(published)
    assert sorted(published.parent.rglob("*.html")) == before
    assert STUDY in [study.name for study in published_studies(client(published))]


# --- views ------------------------------------------------------------------------------------------------------------


def test_the_table_is_sorted_and_has_a_column_per_score_and_per_setting_that_differs(published):
    view = state(published, "heads")
    assert (view["orderByKey"], view["orderByAsc"]) == ("metrics.`test/all`", False)
    scores = [f"metrics.`{split}/{shot}`" for split in ("test", "val") for shot in ("many", "medium", "few", "all")]
    # The sampler and the number of epochs are the same in all heads that have them.
    settings = [f"params.`head.{name}`" for name in ("training.lr", "xi")]
    assert view["selectedColumns"] == ["params.`method`", "params.`seed`", *scores, *settings]
    assert view["columnOrder"][1:] == view["selectedColumns"]
    assert "groupBy" not in view


def test_means_are_grouped_by_head(published):
    view = state(published, "means")
    assert view["groupBy"] == {
        "aggregateFunction": "average",
        "groupByKeys": [{"mode": "tag", "groupByData": "study.mini"}],
    }


def test_parallel_coordinates_have_the_settings_that_differ_and_end_with_the_accuracy(published):
    view = state(published, "compare")
    charts = [chart for chart in view["compareRunCharts"] if chart["type"] == "PARALLEL"]
    titles = {section["uuid"]: section["name"].rpartition(": ")[2] for section in view["compareRunSections"]}
    axes = {titles[chart["metricSectionId"]]: chart["selectedParams"] for chart in charts}
    assert axes == {
        "all heads": ["variant", "seed"],
        "trained heads": ["variant", "seed", "head.training.lr"],
        "mem": ["variant", "seed", "head.xi"],
    }
    assert all(chart["selectedMetrics"] == ["test/many", "test/medium", "test/few", "test/all"] for chart in charts)


def test_an_unknown_mlflow_version_has_plain_addresses(published, monkeypatch):
    root = published
    assert any(tag.startswith(TAG) for tag in tags(root))
    with monkeypatch.context() as patched:
        patched.setattr(server, "ui_version", lambda uri: "3.99.1")
        publish_again(root)
    assert not [tag for tag in tags(root) if tag.startswith(TAG)]
    address = views_of(root)[1].address
    assert (
        "&searchFilter=tags.stage%20%3D%20%27train_head%27%20AND%20tags.%60study.mini%60%20LIKE%20%27%25%27" in address
    )
    assert "&orderByKey=metrics.%60test%2Fall%60&orderByAsc=false" in address
    publish_again(root)


def test_the_description_and_the_page_link_to_every_view(published):
    views = views_of(published)
    page = (published / "results" / STUDY / "report" / "mlflow.html").read_text()
    note = tags(published)["mlflow.note.content"].partition("<!-- end of mini")[0]
    assert len(views) == 6
    for view in views:
        assert view.address.startswith("#/experiments/1/runs?workflowType=machine_learning&viewStateShareKey=mem.mini.")
        assert f"[{view.title}]({view.address})" in note
        assert f'href="http://127.0.0.1:5000/{view.address.replace("&", "&amp;")}"' in page
    assert "mem track ui mini" in page
    assert "results/mini/report/index.html" in note


def test_text_that_the_user_adds_to_the_description_is_kept(published):
    root = published
    experiment = experiment_of(root)
    note = "mlflow.note.content"
    client(root).set_experiment_tag(experiment.experiment_id, note, f"Before\n\n{experiment.tags[note]}\n\nAfter")
    publish_again(root)
    assert tags(root)[note] == f"Before\n\n{experiment.tags[note]}\n\nAfter"


def test_a_view_that_the_server_rejects_is_reported_without_the_password_of_the_server(published, monkeypatch, capsys):
    def rejected(*arguments: Any) -> None:
        raise MlflowException("http://me:secret@host/api: bad request", BAD_REQUEST)

    with monkeypatch.context() as patched:
        patched.setattr(publish.Publisher, "_write_views", rejected)
        publish_again(published)
    message = capsys.readouterr().err
    assert "The views of the study mini cannot be created in MLflow: MlflowException" in message
    assert "secret" not in message
    publish_again(published)


def test_a_page_that_cannot_be_written_is_reported(published, capsys):
    root = published
    page = root / "results" / STUDY / "report" / "mlflow.html"
    page.unlink()
    page.mkdir()
    publish_again(root)
    page.rmdir()
    publish_again(root)
    assert "mlflow.html: cannot write this file" in capsys.readouterr().err
