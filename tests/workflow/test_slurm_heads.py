"""Many heads on a real SLURM cluster: one SLURM job with one fork server trains several heads."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import yaml

from cluster.throwaway import ThrowawaySlurm
from mem.config import Study
from mem.runs.dag import study_runs
from tests.conftest import REPOSITORY
from tests.stages.custom_studies import feature_file_study
from tests.workflow.conftest import snakemake

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(400)]
PROFILE = ("--profile", str(REPOSITORY / "slurm"), "--seconds-between-status-checks", "1", "--latency-wait", "10")


def test_one_slurm_job_trains_several_heads(slurm: ThrowawaySlurm, tmp_path: Path):
    values = feature_file_study(tmp_path, seeds=[0, 1, 2])
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(values))
    options = (*PROFILE, "--configfile", "study.yaml", "--set-resources", "train_head:bundle=20", "evaluate:bundle=20")
    snakemake(tmp_path, *options, "--until", "evaluate", timeout=300, **slurm.environment())
    jobs: dict[str, list[str]] = {"train_head": [], "evaluate": []}
    for run in study_runs(Study.model_validate(values)):
        if run.stage in jobs:
            record = json.loads((tmp_path / run.folder / "run.json").read_text())
            jobs[run.stage].append(record["machine"]["slurm"]["job_id"])
            log = tmp_path / "logs" / run.folder.relative_to("runs")
            assert "done in" in log.with_name(f"{log.name}.log").read_text()
    (_, together), *_ = Counter(jobs["train_head"]).most_common()
    assert together == 6  # three seeds of the linear probe and of cRT; the other heads start from them
    assert len(set(jobs["evaluate"])) < len(jobs["evaluate"])
    outputs = [path.read_text() for path in (tmp_path / ".snakemake/submitit/submissions").rglob("*_log.out")]
    assert not any("declined" in output for output in outputs)
