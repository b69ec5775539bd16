"""Provenance of a result: commit, package versions, machine and SLURM job."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import resource
import socket
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import torch

import mem
from mem.processor import processor_name, vector_instructions

PACKAGES = ("torch", "torchvision", "timm", "numpy", "ffcv", "simplejpeg", "opencv-python", "snakemake", "mlflow")


@cache
def git_state() -> dict[str, Any]:
    """Return the code's Git commit and whether tracked files differ from it. Outside a checkout, both are None.

    The first call determines the state, because it describes the code that this process has imported.
    """
    command = ["git", "status", "--porcelain=v2", "--branch", "--untracked-files=no"]
    folder = Path(mem.__file__).parent
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return {"commit": None, "dirty": None}
    commit, dirty = None, False
    for line in done.stdout.splitlines():
        if line.startswith("# branch.oid "):
            commit = line.split()[2]
        elif not line.startswith("#"):
            dirty = True
    return {"commit": commit, "dirty": dirty} if commit != "(initial)" else {"commit": None, "dirty": None}


def versions() -> dict[str, str]:
    """Return the versions of Python, this project and its main dependencies."""
    found = {"python": platform.python_version(), "mem": mem.__version__}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def machine() -> dict[str, Any]:
    """Return the host, the system, the processor, the numbers of cores and of PyTorch's threads, and the SLURM job.

    The processor's vector instructions are included, and the GPU if the process uses one.
    """
    job = {
        name.removeprefix("SLURM_").lower(): os.environ[name]
        for name in ("SLURM_JOB_ID", "SLURM_JOB_NODELIST", "SLURM_JOB_PARTITION", "SLURM_RESTART_COUNT")
        if name in os.environ
    }
    return {
        "host": socket.gethostname(),
        "system": platform.platform(),
        "processor": processor_name(),
        "instructions": vector_instructions(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_initialized() else None,
        "cpus": cpus(),
        "threads": torch.get_num_threads(),
        "slurm": job or None,
    }


def cpus() -> int:
    """Return the number of cores available to this process, according to Snakemake, SLURM or the CPU affinity."""
    for name in ("OMP_NUM_THREADS", "SLURM_CPUS_PER_TASK"):
        if os.environ.get(name, "").isdigit():
            return max(1, int(os.environ[name]))
    return len(os.sched_getaffinity(0))


def peak_memory_gb() -> float:
    """Return the peak memory use of this process so far, in GB (10^9 bytes)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def peak_gpu_memory_gb() -> float:
    """Return the peak GPU memory use of this process so far, in GB (10^9 bytes); 0 without a GPU."""
    return torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else 0.0
