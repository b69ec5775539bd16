"""The matrix-product rate of a CPU core, measured once per machine while it is idle."""

from __future__ import annotations

import os
import time
from dataclasses import asdict

from mem.plan import answers
from mem.plan.hours import CoreRate
from mem.processor import processor_name, vector_instructions


def core_rate() -> CoreRate:
    """Return the stored rate of a core of this machine. If there is none, measure it.

    A measurement on a busy machine is not stored, because it may be too low.
    """
    processor = {"processor": processor_name(), "instructions": vector_instructions()}
    question = {"kind": "core rate", **processor, "cores": os.cpu_count() or 1}
    if (answer := answers.recall(question)) is not None:
        return CoreRate(**answer)
    measured = measure_core()
    if not measured.busy:
        answers.store(question, {**asdict(measured), "date": time.strftime("%Y-%m-%d")})
    return measured


def measure_core(seconds: float = 0.4) -> CoreRate:
    """Measure the float32 matrix-product rate of one core of this machine."""
    import torch  # takes seconds, and is not needed if the rate is stored

    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        side = 768
        a, b = torch.rand(side, side), torch.rand(side, side)
        torch.mm(a, b)
        start, cpu_start, products = time.perf_counter(), time.thread_time(), 0
        while (elapsed := time.perf_counter() - start) < seconds:
            torch.mm(a, b)
            products += 1
        cpu_seconds = time.thread_time() - cpu_start
        return CoreRate(2 * side**3 * products / cpu_seconds / 1e9, load, cores, cpu_seconds / elapsed)
    finally:
        torch.set_num_threads(threads)
