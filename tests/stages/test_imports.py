"""Modules that `mem train_head` and `mem evaluate` import. Imports take longer than the training of most heads."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from mem.config import Study
from mem.runs.dag import Run, study_runs
from mem.runs.run_config import write_configs
from tests.stages.custom_studies import feature_file_study
from tests.stages.running import find_run, run_study

UNNEEDED = (
    "torchvision",
    "timm",
    "numba",
    "ffcv",
    "cv2",
    "PIL",
    "pandas",
    "scipy",
    "sympy",
    "matplotlib",
    "mlflow",
    "snakemake",
    "torch._dynamo",
    "torch._inductor",
)
PROGRAM = """
import json, sys
from mem.cli.main import main
status = main(sys.argv[2:])
print(json.dumps([name for name in json.loads(sys.argv[1]) if name in sys.modules]))
sys.exit(status)
"""


def imported(folder: Path, run: Run) -> list[str]:
    """Run a stage as a process, and return the modules of `UNNEEDED` that it imported."""
    arguments = [
        sys.executable,
        "-c",
        PROGRAM,
        json.dumps(UNNEEDED),
        run.stage,
        "--config",
        f"{run.folder}/config.yaml",
    ]
    done = subprocess.run(arguments, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_heads_on_stored_features_import_only_what_they_need(tmp_path):
    values = feature_file_study(tmp_path)
    run_study(tmp_path, values, ("features",))
    runs = study_runs(Study.model_validate(values))
    write_configs(runs, Study.model_validate(values), tmp_path)
    for stage, variant in (("train_head", "crt"), ("train_head", "mem_on_crt"), ("evaluate", "mem_on_crt")):
        assert imported(tmp_path, find_run(runs, stage, variant)) == []
