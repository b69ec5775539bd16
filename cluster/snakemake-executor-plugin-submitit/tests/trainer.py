"""A simulated training program. It counts steps, saves and reports this on SIGUSR2, and saves and exits on SIGTERM.

    python trainer.py STEPS SECONDS_PER_STEP OUTPUT

To stop the program early, create a file `enough` in the working directory.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

steps, step_seconds, output = int(sys.argv[1]), float(sys.argv[2]), Path(sys.argv[3])
rank = int(os.environ.get("RANK", "0"))
state = output.with_suffix(f".state{rank}")
requested = {"save": False, "stop": False}
signal.signal(signal.SIGUSR2, lambda *_: requested.update(save=True))
signal.signal(signal.SIGTERM, lambda *_: requested.update(stop=True))


def save(step: int) -> None:
    partial = state.with_suffix(".part")
    partial.write_text(json.dumps(step))
    partial.rename(state)


step = json.loads(state.read_text()) if state.exists() else 0
with open(output.with_suffix(f".starts{rank}"), "a") as file:
    print(step, os.environ.get("SLURM_JOB_ID"), file=file)
while step < steps and not Path("enough").exists():
    time.sleep(step_seconds)
    step += 1
    if requested["save"] or requested["stop"]:
        save(step)
        if requested["save"]:
            Path(os.environ["SNAKEMAKE_SUBMITIT_SAVED"]).touch()
        requested["save"] = False
    if requested["stop"]:
        sys.exit(143)
if rank == 0:
    output.write_text(str(step))
