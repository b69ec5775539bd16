"""A copied or moved working folder finds its artifacts, and sends new artifacts to its own `runs/`."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import mlflow.artifacts
import pytest
from mlflow.tracking._tracking_service.utils import _artifact_repos_cache

from mem.tracking import server
from mem.tracking.relocation import relocate
from tests.tracking.logs import client, mlflow_run, open_log, send


@pytest.fixture(autouse=True)
def forget_artifact_stores() -> Iterator[None]:
    """Clear MLflow's cache, because a process usually works in one folder, but the runs of copies have the same ids."""
    yield
    _artifact_repos_cache.clear()


@pytest.fixture
def original(root) -> Path:
    """A working folder with a run that has an artifact and a registered model."""
    folder = root / "original"
    (folder / "runs").mkdir(parents=True)
    shutil.move(root / "runs" / "mlflow.db", folder / "runs")
    (folder / "table.md").write_text("first")
    (folder / "model").mkdir()
    (folder / "model" / "MLmodel").write_text("flavors: {}")
    log = open_log(folder, "train_head")
    log.event("artifact", path="table.md", to="report")
    log.event("model", path="model", name="set", alias="best", key="0", tags={})
    open_log(folder, "features").scalars({"a": 1.0}, 1)  # its artifact folder does not exist
    send(folder)
    return folder


def artifacts(folder: Path, stage: str) -> list[str]:
    mlflow_client = client(folder)
    run = mlflow_run(folder, stage)
    _artifact_repos_cache.clear()
    return [file.path for file in mlflow_client.list_artifacts(run.info.run_id, "report")]


def add_artifact(folder: Path, name: str) -> None:
    _artifact_repos_cache.clear()
    (folder / name).write_text("second")
    log = open_log(folder, "train_head")
    log.event("artifact", path=name, to="report")


@pytest.mark.parametrize("change", ["copy", "move"])
def test_artifacts_are_found_and_new_ones_belong_to_the_copy(root, original, change, capsys):
    copy = root / "copy #2?"
    shutil.copytree(original, copy)
    if change == "move":
        shutil.rmtree(original)
    before = sorted(original.rglob("*"))
    add_artifact(copy, "table2.md")
    send(copy)
    assert artifacts(copy, "train_head") == ["report/table.md", "report/table2.md"]
    files = sorted(path.name for path in (copy / "runs" / "mlflow-artifacts").rglob("*.md"))
    assert files == ["table.md", "table2.md"]
    assert sorted(original.rglob("*")) == before
    message = capsys.readouterr().err
    assert message.count("was copied or moved. The locations of its artifacts are changed from") == 1
    assert f"{original / 'runs' / 'mlflow-artifacts'} to {copy / 'runs' / 'mlflow-artifacts'}" in message


def test_a_registered_model_is_loaded_from_the_copy(root, original):
    copy = root / "copy"
    shutil.copytree(original, copy)
    shutil.rmtree(original / "runs" / "mlflow-artifacts")
    uri = server.tracking_uri(copy)
    version = server.client(uri).get_model_version_by_alias("set", "best").version
    source = server.client(uri).get_model_version_download_uri("set", version)
    loaded = mlflow.artifacts.download_artifacts(artifact_uri=source, tracking_uri=uri)
    assert Path(loaded, "MLmodel").read_text() == "flavors: {}"
    assert Path(loaded).is_relative_to(copy)


def test_an_experiment_without_artifacts_is_relocated_as_well(root, original):
    shutil.rmtree(original / "runs" / "mlflow-artifacts")
    copy = root / "copy"
    shutil.copytree(original, copy)
    add_artifact(copy, "table2.md")
    send(copy)
    assert [path.name for path in (copy / "runs" / "mlflow-artifacts").rglob("*.md")] == ["table2.md"]
    assert not (original / "runs" / "mlflow-artifacts").exists()


def test_a_copy_of_a_copy_and_the_original_are_independent(root, original):
    for source, target in (("original", "one"), ("one", "two")):
        shutil.copytree(root / source, root / target)
        add_artifact(root / target, f"{target}.md")
        send(root / target)
    assert artifacts(root / "two", "train_head") == ["report/one.md", "report/table.md", "report/two.md"]
    assert artifacts(original, "train_head") == ["report/table.md"]


def test_the_folder_under_another_name_is_not_changed(root, original):
    (root / "link").symlink_to(original)
    assert relocate(original / "runs" / "mlflow.db") is None
    assert relocate(root / "link" / "runs" / "mlflow.db") is None
    assert artifacts(original, "train_head") == ["report/table.md"]


def test_locations_that_the_user_chose_are_kept(root, original):
    own = client(original).create_experiment("own", artifact_location=(root / "elsewhere").as_uri())
    shutil.copytree(original, root / "copy")
    message = relocate(root / "copy" / "runs" / "mlflow.db")
    assert message is not None
    assert client(root / "copy").get_experiment(own).artifact_location == (root / "elsewhere").as_uri()


def test_the_database_of_another_folder_is_not_changed(root, original, monkeypatch):
    """With MLFLOW_TRACKING_URI, a database may belong to another working folder."""
    shutil.copytree(original, root / "copy")
    content = (root / "copy" / "runs" / "mlflow.db").read_bytes()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root / 'copy' / 'runs' / 'mlflow.db'}")
    server.client(server.tracking_uri(original))
    assert (root / "copy" / "runs" / "mlflow.db").read_bytes() == content


def test_a_damaged_database_is_left_to_the_client(root):
    (root / "runs" / "mlflow.db").write_bytes(b"no database" * 100)
    assert relocate(root / "runs" / "mlflow.db") is None
    (root / "runs" / "mlflow.db").unlink()
    assert relocate(root / "runs" / "mlflow.db") is None
