"""Program that the doctor runs once on every node: `python -m snakemake_executor_plugin_submitit.doctor.probe FOLDER`.

The process of rank N writes its results to FOLDER/rank<N>.json. The doctor reads these files on the login node.
"""

from __future__ import annotations

import datetime
import json
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

PROBE = "snakemake_executor_plugin_submitit.doctor.probe"
"""Name of this module."""
TOKEN_FILE = "token.txt"
"""File that the doctor writes to the job's folder before it submits the job."""
_TOKEN_SECONDS = 30.0
_RENDEZVOUS_SECONDS = 60.0


def main(folder: Path) -> int:
    """Run all probes on this node and write their results."""
    rank, size = int(os.environ.get("SLURM_PROCID", "0")), int(os.environ.get("SLURM_NTASKS", "1"))
    results: dict[str, Any] = {"node": os.environ.get("SLURMD_NODENAME", socket.gethostname())}
    probes = {"token": lambda: _read_token(folder), "gpus": _gpus, "rendezvous": lambda: _rendezvous(rank, size)}
    for name, probe in probes.items():
        try:
            results[name] = probe()
        except Exception as error:  # the doctor reports the error of any probe
            results[name] = {"error": f"{type(error).__name__}: {error}"}
    new = folder / f"rank{rank}.new"
    new.write_text(json.dumps(results))
    new.rename(folder / f"rank{rank}.json")
    return 0


def _read_token(folder: Path) -> dict[str, Any]:
    """Read the doctor's token file, and measure how long the file takes to appear."""
    start = time.monotonic()
    path = folder / TOKEN_FILE
    while not path.exists():
        if time.monotonic() - start > _TOKEN_SECONDS:
            raise FileNotFoundError(f"{path} does not exist after {_TOKEN_SECONDS:.0f} s")
        time.sleep(0.2)
    return {"text": path.read_text(), "seconds": round(time.monotonic() - start, 1)}


def _gpus() -> dict[str, Any]:
    """Run a small computation on each GPU that torch detects, and return the GPU count, names and torch versions."""
    import torch

    count = torch.cuda.device_count()
    names = [torch.cuda.get_device_name(number) for number in range(count)]
    for number in range(count):
        torch.ones(8, device=f"cuda:{number}").sum().item()
    return {"count": count, "names": names, "torch": torch.__version__, "cuda": torch.version.cuda}


def _rendezvous(rank: int, size: int) -> dict[str, Any]:
    """Sum the rank numbers with a gloo all-reduce. The ranks connect through a port on the first node."""
    import torch
    import torch.distributed

    address, port = os.environ["DOCTOR_ADDRESS"], int(os.environ["DOCTOR_PORT"])
    try:
        resolved = socket.gethostbyname(address)
    except OSError as error:
        raise OSError(f"the name {address} does not resolve on {socket.gethostname()}: {error}") from None
    timeout = datetime.timedelta(seconds=_RENDEZVOUS_SECONDS)
    torch.distributed.init_process_group(
        "gloo", init_method=f"tcp://{address}:{port}", rank=rank, world_size=size, timeout=timeout
    )
    total = torch.tensor([rank])
    torch.distributed.all_reduce(total)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    if total.item() != sum(range(size)):
        raise ValueError(f"the sum of ranks 0 to {size - 1} is {total.item()}, expected {sum(range(size))}")
    return {"address": address, "resolved": resolved, "port": port}


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
