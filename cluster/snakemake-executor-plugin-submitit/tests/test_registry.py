"""Records of submitted jobs on disk."""

from __future__ import annotations

import json

import pytest

from snakemake_executor_plugin_submitit.registry import Record, Registry


def records(count: int, token: str = "t") -> dict[str, Record]:
    return {
        f"{token}{index}": Record("", token, index, tasks=2, logs="logs", fingerprint="f", submitted=5.0, cluster="c")
        for index in range(count)
    }


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "registry"


def test_a_submission_is_found_before_and_after_its_number_is_recorded(folder):
    registry = Registry(folder)
    registry.add(records(2))
    assert Registry(folder).read_all() == records(2)
    registry.set_number("t", "12")
    assert [record.job_id for record in Registry(folder).read_all().values()] == ["12_0", "12_1"]


def test_a_single_job_is_not_an_array_element(folder):
    registry = Registry(folder)
    registry.add(records(1))
    registry.set_number("t", "12")
    assert Registry(folder).read_all()["t0"].job_id == "12"


def test_jobs_that_ended_are_not_found(folder):
    registry = Registry(folder)
    registry.add(records(3))
    registry.set_number("t", "12")
    registry.drop("t", [1])
    later = Registry(folder)
    assert [record.job_id for record in later.read_all().values()] == ["12_0", "12_2"]
    later.drop("t", [0])
    assert [record.job_id for record in Registry(folder).read_all().values()] == ["12_2"]
    later.drop("t", [2])
    assert list(folder.iterdir()) == []


def test_a_line_that_was_not_written_completely_is_ignored(folder):
    registry = Registry(folder)
    registry.add(records(2))
    registry.set_number("t", "12")
    with open(folder / "t.jsonl", "a") as file:
        file.write('{"ended": 1')
    assert len(Registry(folder).read_all()) == 2


def test_a_submission_whose_record_is_incomplete_was_not_sent(folder):
    registry = Registry(folder)
    registry.add(records(2))
    path = folder / "t.jsonl"
    path.write_text(path.read_text()[:-10])
    assert Registry(folder).read_all() == {}
    assert not path.exists()


def test_the_later_submission_of_a_job_is_found(folder):
    registry = Registry(folder)
    registry.add(records(1))
    newer = Record("", "u", 0, tasks=2, logs="logs", fingerprint="f", submitted=9.0)
    registry.add({"t0": newer})
    assert Registry(folder).read_all() == {"t0": newer}


def test_records_of_earlier_versions_are_found_and_dropped(folder):
    folder.mkdir()
    old = {"job_id": "3_1", "token": "old", "index": 1, "tasks": 1, "logs": "l", "fingerprint": "f", "submitted": 1.0}
    (folder / "k.json").write_text(json.dumps(old))
    registry = Registry(folder)
    assert registry.read_all()["k"] == Record(**old)
    registry.drop("old", [1], ["k"])
    assert list(folder.iterdir()) == []


def test_nothing_is_left_if_a_record_cannot_be_written(folder, monkeypatch):
    registry = Registry(folder)

    def disk_full(path, text):
        open(path, "w").close()
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("pathlib.Path.write_text", disk_full)
    with pytest.raises(OSError, match="No space left"):
        registry.add(records(2))
    assert list(folder.iterdir()) == []
