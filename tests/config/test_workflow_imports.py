"""The workflow process needs only the packages that the page about containers lists."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY

pytestmark = pytest.mark.stage
PAGE = REPOSITORY / "docs" / "how-to" / "clusters" / "container.md"
BLOCKED = (
    "cv2", "ffcv", "matplotlib", "numba", "safetensors", "timm", "torch", "torchvision",
)  # fmt: skip
"""Packages that the workflow process must not need."""
SLOW = ("PIL", "jinja2", "mlflow", "pandas", "pyarrow", "scipy", "sklearn", "sqlalchemy")
"""Packages whose import would delay the start of the workflow. The mirror, another process, imports some of them."""
CODE = f"""
import json, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {BLOCKED!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocker())
from mem.config.load import load_study
from mem.runs.dag import study_runs
from mem.runs.run_config import write_configs
import mem.jobs.workflow_signals, mem.runs.font_files, mem.tracking.commands, mem.workflow_process

mem.runs.font_files.FONT_FOLDERS = ("/nowhere",)  # installed fonts are part of the keys

keys = {{path: [run.key for run in study_runs(load_study(path.split(" + ")))] for path in sys.argv[1:]}}
print(json.dumps(keys))
"""


def test_the_workflow_process_loads_every_study_without_torch_and_timm():
    recorded = json.loads((REPOSITORY / "tests" / "runs" / "recorded_keys.json").read_text())
    studies = sorted(recorded)
    assert any("resnext50" in study for study in studies)  # studies with a timm network
    done = subprocess.run(
        [sys.executable, "-c", CODE, *studies], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    keys = json.loads(done.stdout)
    assert {study: keys[study] for study in studies} == {
        study: [key for _, _, key, _ in runs] for study, runs in recorded.items()
    }


def test_the_rules_import_no_large_library_when_the_workflow_starts(tmp_path):
    text = (REPOSITORY / "workflow" / "rules" / "common.smk").read_text()
    imports = re.findall(r"^from mem[.\w]* import .*$", text, re.MULTILINE)
    assert len(imports) >= 7
    program = "\n".join(
        [
            "import sys",
            *imports,
            f"study = load_study([{str(REPOSITORY / 'config/paper/inat18_resnext50.yaml')!r}])",
            "runs = study_runs(study)",
            "write_configs(runs, study)",
            "files_to_restore(runs)",
            f"print([name for name in {(*BLOCKED, *SLOW)!r} if name in sys.modules])",
        ]
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[]\n"


def test_the_page_installs_no_blocked_package():
    page = PAGE.read_text()
    (line,) = re.findall(r"pip install (pydantic .*)", page)
    assert "pyyaml" in line.split()
    assert not {*BLOCKED} & {*line.split()}
    assert "needs neither torch nor timm nor a compiler" in page
