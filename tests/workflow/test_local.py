"""The workflow with the profile `local`."""

from __future__ import annotations

import pytest

from mem.config.load import load_study
from mem.runs.dag import study_runs
from tests.conftest import REPOSITORY
from tests.workflow.conftest import assert_same_training, snakemake

pytestmark = pytest.mark.workflow
MINI = REPOSITORY / "tests" / "mini.yaml"


def test_two_local_ranks_learn_the_same_weights_as_one_process(tmp_path):
    one_process, two_ranks = tmp_path / "one_process", tmp_path / "two_ranks"
    one_process.mkdir(), two_ranks.mkdir()
    study = ("--until", "pretrain", "--config", f"study={MINI}")
    snakemake(one_process, "--cores", "2", *study)
    local = ("--profile", str(REPOSITORY / "local"), "--submitit-local-ranks", "asked")
    snakemake(two_ranks, *local, *study, 'compute={"pretrain": {"tasks_per_node": 2}}')
    run = next(run for run in study_runs(load_study([MINI])) if run.stage == "pretrain").folder
    ranks = sorted(path.name for path in (two_ranks / "logs").rglob("pretrain-*.log.ranks/*"))
    assert ranks == ["rank0.txt", "rank1.txt"]
    assert_same_training(run, one_process, two_ranks)
