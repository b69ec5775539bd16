"""A simulated two-node training for soak.py, whose curve shows steps that were lost or logged twice.

    python soak_trainer.py SECONDS_PER_STEP OUTPUT

Every rank saves a checkpoint after every 20 steps, on SIGUSR2, and on SIGTERM. Rank 0 appends one line per step to
`curve.jsonl`. After it resumed from a checkpoint, it logs only the steps above the last logged one, as `mem pretrain`
does. The training ends when a file `enough` exists in the working directory.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

STEPS_PER_CHECKPOINT = 20
CURVE = Path("curve.jsonl")


def main() -> int:
    """Run one rank."""
    step_seconds, output = float(sys.argv[1]), Path(sys.argv[2])
    rank = int(os.environ.get("RANK", "0"))
    checkpoint = Path(f"checkpoint-{rank}.json")
    requested = {"save": False, "stop": False}
    signal.signal(signal.SIGUSR2, lambda *_: requested.update(save=True))
    signal.signal(signal.SIGTERM, lambda *_: requested.update(stop=True))
    step = json.loads(checkpoint.read_text()) if checkpoint.exists() else 0
    with open("training-starts.txt", "a") as file:
        print(f"{time.time():.1f} rank {rank} job {os.environ.get('SLURM_JOB_ID')} step {step}", file=file)
    logged = last_logged_step() if rank == 0 else 0
    while not Path("enough").exists():
        time.sleep(step_seconds)
        step += 1
        if rank == 0 and step > logged:
            with open(CURVE, "a") as file:
                file.write(json.dumps({"step": step, "loss": 1 / step, "job": os.environ.get("SLURM_JOB_ID")}) + "\n")
            logged = step
        if requested["save"] or requested["stop"] or step % STEPS_PER_CHECKPOINT == 0:
            save(checkpoint, step)
        if requested["save"]:
            Path(os.environ["SNAKEMAKE_SUBMITIT_SAVED"]).touch()
            requested["save"] = False
        if requested["stop"]:
            return 143
    if rank == 0:
        output.write_text(f"{step}\n")
    return 0


def save(checkpoint: Path, step: int) -> None:
    """Write a checkpoint atomically."""
    partial = checkpoint.with_suffix(".part")
    partial.write_text(json.dumps(step))
    partial.rename(checkpoint)


def last_logged_step() -> int:
    """Return the last step in the curve, and remove an incomplete last line, which a killed process can leave."""
    if not CURVE.exists():
        return 0
    text = CURVE.read_text()
    complete = text[: text.rfind("\n") + 1]
    if complete != text:
        CURVE.write_text(complete)
    return json.loads(complete.splitlines()[-1])["step"] if complete else 0


if __name__ == "__main__":
    sys.exit(main())
