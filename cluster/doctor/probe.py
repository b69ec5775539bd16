"""What the doctor runs on the nodes: python -m cluster.doctor.probe FOLDER, one process a node.

Each writes what it saw into FOLDER/rank<N>.json; the doctor reads them on the head.
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

QUESTION = "question.txt"
_SEEN_SECONDS = 30.0
_MEET_SECONDS = 60.0


def main(folder: Path) -> int:
    """Look around, meet the other ranks, write it down."""
    rank, size = int(os.environ.get("SLURM_PROCID", "0")), int(os.environ.get("SLURM_NTASKS", "1"))
    seen: dict[str, Any] = {"node": os.environ.get("SLURMD_NODENAME", socket.gethostname())}
    looks = {"question": lambda: _question(folder), "gpus": _gpus, "meeting": lambda: _meet(rank, size)}
    for name, look in looks.items():
        try:
            seen[name] = look()
        except Exception as error:  # whatever it is, the head is to say it
            seen[name] = {"error": f"{type(error).__name__}: {error}"}
    new = folder / f"rank{rank}.new"
    new.write_text(json.dumps(seen))
    new.rename(folder / f"rank{rank}.json")
    return 0


def _question(folder: Path) -> dict[str, Any]:
    """What the head wrote just before it submitted this job."""
    began = time.monotonic()
    path = folder / QUESTION
    while not path.exists():
        if time.monotonic() - began > _SEEN_SECONDS:
            raise FileNotFoundError(f"{path} is not there after {_SEEN_SECONDS:.0f} s")
        time.sleep(0.2)
    return {"text": path.read_text(), "seconds": round(time.monotonic() - began, 1)}


def _gpus() -> dict[str, Any]:
    """What torch sees, and that it can compute there."""
    import torch

    count = torch.cuda.device_count()
    names = [torch.cuda.get_device_name(number) for number in range(count)]
    for number in range(count):
        torch.ones(8, device=f"cuda:{number}").sum().item()
    return {"count": count, "names": names, "torch": torch.__version__, "cuda": torch.version.cuda}


def _meet(rank: int, size: int) -> dict[str, Any]:
    """Add up the ranks over gloo, through a port of the first node."""
    import torch
    import torch.distributed

    address, port = os.environ["DOCTOR_ADDRESS"], int(os.environ["DOCTOR_PORT"])
    try:
        resolved = socket.gethostbyname(address)
    except OSError as error:
        raise OSError(f"the name {address} does not resolve on {socket.gethostname()}: {error}") from None
    limit = datetime.timedelta(seconds=_MEET_SECONDS)
    torch.distributed.init_process_group(
        "gloo", init_method=f"tcp://{address}:{port}", rank=rank, world_size=size, timeout=limit
    )
    total = torch.tensor([rank])
    torch.distributed.all_reduce(total)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    if total.item() != sum(range(size)):
        raise ValueError(f"the ranks 0 to {size - 1} add up to {total.item()}")
    return {"address": address, "resolved": resolved, "port": port}


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
