"""A study's plan: images, steps, hours, the longest chain, what does not fit."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from dataclasses import replace

import pytest

from mem.cli.main import main
from mem.config.load import load_study
from mem.errors import UserError
from mem.plan.estimate import Estimate
from mem.plan.hours import Rates, core_gflops, critical_path
from mem.plan.image_counts import images_of
from mem.plan.table import rendered, si
from mem.plan.text import estimated
from mem.runs.dag import Run, study_runs
from tests.conftest import REPOSITORY

MINI = REPOSITORY / "tests" / "mini.yaml"
RATES = Rates(core_gflops=50)


def estimates(changes: dict | None = None) -> dict[str, Estimate]:
    return _estimates(json.dumps(changes))


@functools.cache
def _estimates(changes: str) -> dict[str, Estimate]:
    found = estimated(load_study([MINI], json.loads(changes)), {}, RATES)[1]
    return {f"{e.run.stage} {e.run.labels.get('variant', '')}".strip(): e for e in found}


def step(stage: str, hours: float, *inputs: Run) -> tuple[Run, float]:
    return Run(stage, "d", "b", {"hours": int(1000 * hours)}, {str(i): run for i, run in enumerate(inputs)}, {}), hours


def test_the_longest_chain_is_the_one_with_the_most_hours_not_the_most_runs():
    images, one = step("convert", 1)
    short, two = step("finetune", 2, images)
    long, nine = step("pretrain", 9, images)
    after_short, four = step("features", 4, short)
    end, half = step("report", 0.5, after_short, long)
    hours = {images.key: one, short.key: two, long.key: nine, after_short.key: four, end.key: half}
    total, chain = critical_path([images, short, long, after_short, end], hours)
    assert total == 10.5
    assert chain == [images, long, end]
    hours[after_short.key] = 8
    assert critical_path([images, short, long, after_short, end], hours) == (11.5, [images, short, after_short, end])


def test_images_come_from_the_cut_before_anything_is_converted(mini):
    found = images_of(mini, study_runs(mini)[0], {})
    assert found.splits == {"train": 489, "val": 100, "test": 200}
    assert (found.classes, found.picture_bytes) == (10, 8 * 8 * 3)


def test_images_that_were_converted_are_counted_there(mini, tmp_path):
    convert = study_runs(mini)[0]
    folder = tmp_path / convert.folder
    folder.mkdir(parents=True)
    splits = {name: {"images": number} for name, number in (("train", 70), ("val", 8), ("test", 9))}
    (folder / "dataset.json").write_text(json.dumps({"splits": splits, "classes": ["a", "b", "c"]}))
    assert images_of(mini, convert, {}, tmp_path).train == 489, "a conversion that is not finished does not count"
    (folder / "run.json").write_text("{}")
    found = images_of(mini, convert, {}, tmp_path)
    assert (found.splits, found.classes) == ({"train": 70, "val": 8, "test": 9}, 3)


def test_images_that_cannot_be_known_are_asked_for(mini):
    dataset = mini.dataset.model_copy(update={"source": "folder", "cut": None})
    unknown = mini.model_copy(update={"dataset": dataset})
    with pytest.raises(UserError, match=r"How many images `folder` has is not known.*--images train=N"):
        images_of(unknown, study_runs(mini)[0], {"train": 5})
    given = {"train": 5, "test": 6, "classes": 2}
    assert images_of(unknown, study_runs(mini)[0], given).splits == {"train": 5, "val": 0, "test": 6}


def test_a_holdout_moves_its_share_from_train_to_val(mini):
    cut = mini.dataset.cut.model_copy(update={"val_per_class": 0})
    held = mini.dataset.model_copy(update={"cut": cut, "holdout": type("H", (), {"share": 0.1})()})
    found = images_of(mini.model_copy(update={"dataset": held}), study_runs(mini)[0], {})
    assert found.splits == {"train": 440, "val": 49, "test": 200}


def test_the_features_batch_is_that_of_the_stage():
    from mem.plan.estimate import FEATURES_BATCH
    from mem.stages.features import BATCH

    assert FEATURES_BATCH == BATCH


def test_steps_are_full_batches_rounded_up():
    found = estimates()
    assert (found["pretrain"].steps, found["finetune"].steps) == (46, 46)  # 6 epochs of 489 images by 64
    assert found["train_head crt"].steps == 31  # 2 epochs by 32
    assert found["pretrain"].images == 46 * 64
    assert found["features"].images == 2 * 489 + 100 + 200


def test_twice_the_gpus_take_half_the_time_and_the_same_gpu_hours():
    def hours(gpus: int) -> float:
        compute = {"pretrain": {"gpus_per_node": gpus}}
        long = {"epochs": 1e13}
        return estimates({"compute": compute, "pretrain": long})["pretrain"].hours

    assert hours(1) == pytest.approx(2 * hours(2), rel=1e-3)


def test_hours_are_flops_over_peak_and_utilisation():
    found = estimates(
        {"compute": {"pretrain": {"gpus_per_node": 1}}, "pretrain": {"epochs": 1e13, "precision": "bf16"}}
    )
    expected = found["pretrain"].flops / (790e12 * 0.4) / 3600
    assert found["pretrain"].hours == pytest.approx(expected, rel=1e-3)


def text(changes: dict, *, device_gb: float = 80, disk_free: float = 1e12) -> str:
    study = load_study([MINI], changes)
    rates = replace(RATES, device_gb=device_gb)
    images, found = estimated(study, {}, rates)
    return rendered(study, images, found, rates, disk_free)


def test_what_fits_raises_no_note():
    assert "!" not in text({})


def test_a_training_longer_than_its_limit_is_said_to_be_requeued():
    notes = text({"pretrain": {"epochs": 3e6}, "compute": {"pretrain": {"hours": 2}}})
    assert "! pretrain: " in notes
    assert "its limit is 2 h (compute.pretrain.hours). On SLURM it is requeued" in notes


def test_memory_beyond_the_device_names_the_micro_batch_that_fits():
    notes = text({"compute": {"finetune": {"gpus_per_node": 1, "micro_batch": 64}}}, device_gb=0.0004)
    assert "! finetune: " in notes
    assert "more than the 400 kB that a GPU has (--device-gb). compute.finetune.micro_batch: " in notes


def test_online_features_take_no_disk_and_the_heads_take_the_backbones_flops():
    stored, online = estimates(), estimates({"features": {"online": True}})
    assert online["features"].disk.stays < 0.2 * stored["features"].disk.stays
    assert online["features"].unstored == stored["features"].disk.stays - online["features"].disk.stays
    for name in ("train_head crt", "train_head mem_on_crt"):
        assert online[name].flops_per_image > stored[name].flops_per_image
        assert online[name].hours == pytest.approx(stored[name].hours + online[name].added_hours)
    assert stored["train_head crt"].added_hours == 0
    assert "online features: " in text({"features": {"online": True}})
    assert "online features: " not in text({})


def test_tokens_in_half_precision_take_half_the_disk():
    half, full, none = (
        estimates({"features": change})["features"].disk.stays
        for change in ({"dtype": "float16"}, {}, {"online": True})
    )
    images, width, tokens = 2 * 489 + 100 + 200, 16, 4
    assert full - none == 4 * images * width * (1 + tokens)
    assert full - half == 2 * images * width * tokens


def test_a_full_disk_is_noticed_before_the_study():
    notes = text({}, disk_free=1e6)
    assert "! disk: " in notes
    assert "1.00 MB are free here. `features.tokens: false` saves most of it. `features.online: true` needs no" in notes


def test_a_loader_that_would_starve_the_gpu_is_noticed():
    compute = {"pretrain": {"gpus_per_node": 8, "threads": 1}}
    assert "! pretrain: " in text({"compute": compute, "pretrain": {"epochs": 1e7}})


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0, "0.00 B"), (1, "1.00 B"), (999, "999 B"), (58.8e9, "58.8 GB"), (1234, "1.23 kB"), (4.2e15, "4.20 PB")],
)
def test_numbers_have_three_digits_and_a_prefix(value, expected):
    assert si(value, "B") == expected


def test_the_rate_of_a_core_is_measured():
    assert 0.1 < core_gflops(0.05) < 1000


def test_the_command_prints_a_row_for_each_stage_and_writes_nothing(tmp_path):
    command = [sys.executable, "-m", "mem.cli", "plan", str(MINI), "--core-gflops", "50"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    for stage in ("convert", "pretrain", "finetune", "features", "train_head mem_on_crt", "evaluate", "report"):
        assert any(line.startswith(stage) for line in done.stdout.splitlines()), stage
    assert "longest chain:" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--images", "train=many"], "train=many: expected train=N, val=N, test=N or classes=N"),
        (["--utilisation", "0"], "0: expected a positive number"),
    ],
)
def test_a_wrong_option_is_refused_in_words(capsys, arguments, expected):
    with pytest.raises(SystemExit):
        main(["plan", str(MINI), *arguments])
    assert expected in capsys.readouterr().err
