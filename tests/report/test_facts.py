"""The key facts of the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from mem.config import Study
from mem.report.facts import key_facts
from mem.runs.dag import data_run, study_runs

DAY = 86400.0
CPU = {"host": "a", "processor": "AMD EPYC", "cpus": 2, "gpu": None}
OLD = {"host": "a", "cpus": 4}
GPU = {"host": "b", "processor": "AMD EPYC", "cpus": 8, "gpu": "NVIDIA H100"}


def facts(
    study: Study, machines: list[tuple[dict[str, Any], int]], results: Mapping[str, dict[str, Any]] | None = None
) -> dict[str, str]:
    """Return the facts if the machine and number of GPUs of the runs are those of a list, repeated.

    `results` contains the results of runs by stage.
    """
    runs = study_runs(study)[:-1]
    split = {"images": 9, "counts": [200, 50, 5]}
    records: dict[str, dict[str, Any]] = {}
    for i, run in enumerate(runs):
        machine, gpus = machines[i % len(machines)]
        compute = {"nodes": 1, "gpus_per_node": gpus}
        records[run.key] = {"seconds": 60.0, "started": DAY * (20454 + i % 2), "machine": machine, "compute": compute}
        records[run.key] |= {"stage": run.stage, "results": (results or {}).get(run.stage, {})}
    records[data_run(runs).key]["results"] = {"splits": dict.fromkeys(("train", "val", "test"), split)}
    return key_facts(study, runs, records)


def test_one_seed_does_not_read_as_none(mini):
    assert facts(mini, [(CPU, 0)])["runs of each head"] == "1: 1 seed (0), 1 class order (0)"


def test_several_seeds_and_class_orders_are_counted(mini_values):
    study = Study.model_validate(mini_values | {"seeds": [0, 1, 5], "orders": [0, 3]})
    assert facts(study, [(CPU, 0)])["runs of each head"] == "6: 3 seeds (0, 1, 5), 2 class orders (0, 3)"


def test_runs_in_float32_on_a_device_without_the_precision_of_the_settings_are_counted(mini):
    assert "precision" not in facts(mini, [(CPU, 0)])
    found = facts(mini, [(CPU, 0)], {"finetune": {"used_precision": "fp32"}})
    assert found["precision"] == (
        "float32 instead of the precision of the settings, which the device lacks, in runs: 1 finetune"
    )


def test_classes_dates_and_time(mini):
    found = facts(mini, [(CPU, 0)])
    assert found["classes"] == "3: 1 many / 1 medium / 1 few (many>100 few<20)"
    assert found["date"] == "2026-01-01 to 2026-01-02"
    assert found["compute time, all runs"].endswith("min")
    assert found["command"] == "mem run mini"


@pytest.mark.parametrize(
    ("machines", "expected"),
    [
        ([(CPU, 0)], "AMD EPYC, 2 cores"),
        ([(CPU, 0), (CPU | {"cpus": 1}, 0)], "AMD EPYC, 2 cores"),
        ([(CPU | {"instructions": "AVX2"}, 0)], "AMD EPYC with AVX2, 2 cores"),
        ([(CPU | {"instructions": ""}, 0)], "AMD EPYC, 2 cores"),
        ([(OLD, 0)], "not recorded, 4 cores"),
        ([({"host": "here"}, 0)], "not recorded"),
        ([(CPU, 0), (CPU, 0), (GPU, 4)], "AMD EPYC, 2 cores; NVIDIA H100, 4 GPUs"),
        ([(GPU, 1)], "NVIDIA H100, 1 GPU"),
        ([(OLD, 2)], "not recorded, 2 GPUs"),
    ],
)
def test_processors_are_named_with_the_largest_number_used(mini, machines, expected):
    assert facts(mini, machines)["processor"] == expected


def test_a_recipe_in_a_folder_is_run_by_its_path(mini_values):
    study = Study.model_validate(mini_values | {"study": "imagenet_lt_vit_base"})
    assert facts(study, [(CPU, 0)])["command"] == "mem run paper/imagenet_lt_vit_base"
