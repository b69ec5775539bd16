"""A study's estimates as text: a row per kind of run, sums, the longest chain, and what does not fit."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from mem.config import Study
from mem.plan.estimate import Estimate
from mem.plan.hours import Rates, critical_path
from mem.plan.image_counts import Images
from mem.runs.dag import STAGES, Run

HEADER = ("stage", "runs", "steps", "images", "FLOP/image", "FLOPs", "memory", "disk", "+ while it runs", "on", "hours")
LOADER_PER_CORE = 800.0
"""Images a second that a core decodes and crops from JPEGs of 256 pixels, about; notes on FFCV say 900 to 1,060 without
further augmentation."""


def rendered(study: Study, images: Images, estimates: Sequence[Estimate], rates: Rates, disk_free: float) -> str:
    """The whole answer of `mem plan`."""
    lines = [_headline(study, images), ""]
    lines += _columns([HEADER, *(_row(group) for group in _alike(estimates))])
    lines += ["", *_sums(estimates), *_devices(estimates, rates)]
    if notes := [*_notes(study, estimates, rates, disk_free)]:
        lines += ["", *notes]
    return "\n".join(lines)


def _headline(study: Study, images: Images) -> str:
    def number(count: int, word: str) -> str:
        return f"{count} {word}{'s' if count != 1 else ''}"

    return (
        f"{study.study}: {study.dataset.name} x {study.backbone.name}, {number(len(study.seeds), 'seed')}, "
        f"{number(len(study.orders), 'order')} of the classes\n"
        f"{images.train:,} training, {images.val:,} val and {images.test:,} test images of {images.classes:,} classes "
        f"({images.source})"
    )


def _alike(estimates: Sequence[Estimate]) -> list[list[Estimate]]:
    """Runs of one stage (and head) together."""
    groups: dict[str, list[Estimate]] = {}
    for estimate in sorted(estimates, key=lambda e: STAGES.index(e.run.stage)):
        groups.setdefault(_kind(estimate.run), []).append(estimate)
    return list(groups.values())


def _kind(run: Run) -> str:
    return f"{run.stage} {run.labels['variant']}" if run.stage == "train_head" else run.stage


def _row(group: Sequence[Estimate]) -> tuple[str, ...]:
    """One kind of run: the numbers of one run, the FLOPs, disk and hours of all."""
    one = max(group, key=lambda e: e.hours)
    flops = sum(e.flops for e in group)
    each = f"{_hours(one.hours)}" + (f" x {len(group)}" if len(group) > 1 else "")
    return (
        _kind(one.run),
        str(len(group)),
        f"{one.steps:,}" if one.steps else "",
        f"{one.images:,.0f}" if one.images else "",
        si(one.flops_per_image, "") if flops else "",
        si(flops, "") if flops else "",
        si(one.memory.bytes, "B") if one.memory else "",
        si(sum(e.disk.stays for e in group), "B"),
        si(one.disk.while_running, "B") if one.disk.while_running else "",
        _device(one),
        each,
    )


def _device(estimate: Estimate) -> str:
    compute = estimate.compute
    if estimate.gpus:
        return f"{compute.nodes} x {compute.gpus_per_node} GPU"
    cores = compute.nodes * compute.ranks_per_node * compute.threads
    return f"{cores} core{'s' if cores > 1 else ''}"


def _columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows]
    return [lines[0], "-" * max(map(len, lines)), *lines[1:]]


def _sums(estimates: Sequence[Estimate]) -> list[str]:
    total, chain = critical_path([e.run for e in estimates], {e.run.key: e.hours for e in estimates})
    gpu_hours = sum(e.hours * e.gpus for e in estimates)
    core_hours = sum(e.hours * e.compute.nodes * e.compute.ranks_per_node * e.compute.threads for e in estimates)
    words = " > ".join(_kind(run) for run in chain)
    all_hours = sum(e.hours for e in estimates)
    unstored = sum(e.unstored for e in estimates)
    added = sum(e.added_hours for e in estimates)
    change = f"{_hours(abs(added))} {'more' if added > 0 else 'less'} one by one"
    online = f"online features: {si(unstored, 'B')} less on disk, {change}, since heads run the backbone"
    return [
        f"all runs:        {si(sum(e.flops for e in estimates), 'FLOP')}, {_hours(gpu_hours)} of GPUs, "
        f"{_hours(core_hours)} of cores, {si(sum(e.disk.stays for e in estimates), 'B')} on disk",
        f"one by one:      {_hours(all_hours)}",
        f"longest chain:   {_hours(total)}, with as many jobs at once as there are: {words}",
        *([online] if unstored else []),
    ]


def _devices(estimates: Sequence[Estimate], rates: Rates) -> list[str]:
    lines: list[str] = []
    if any(e.gpus for e in estimates):
        lines.append(
            f"a GPU counts as: {rates.peak_tflops:g} TFLOP/s in bfloat16 (float32: a twelfth) "
            f"at {100 * rates.utilisation:g} % (--peak-tflops, --utilisation)"
        )
    if any(not e.gpus for e in estimates):
        lines.append(f"a core counts as: {rates.core_gflops:.0f} GFLOP/s in float32 at a quarter (--core-gflops)")
    return lines


def _notes(study: Study, estimates: Sequence[Estimate], rates: Rates, disk_free: float) -> Iterator[str]:
    """What does not fit, and what the loader must give."""
    for group in _alike(estimates):
        one = max(group, key=lambda e: e.hours)
        yield from _time_note(one)
        yield from _memory_note(one, rates)
        yield from _loader_note(one)
    needed = sum(e.disk.stays for e in estimates) + max((e.disk.while_running for e in estimates), default=0)
    if needed > disk_free:
        yield (
            f"! disk: {si(needed, 'B')} are needed, {si(disk_free, 'B')} are free here. "
            + ("`features.tokens: false` saves most of it. " if study.features and study.features.tokens else "")
            + (
                "`features.online: true` needs no room for features. "
                if study.features and not study.features.online
                else ""
            )
            + "Run it in another folder: snakemake --directory DIR."
        )


def _time_note(one: Estimate) -> Iterator[str]:
    if one.hours > one.compute.hours:
        times = math.ceil(one.hours / one.compute.hours) - 1
        trains = one.steps is not None and one.run.stage != "train_head"
        yield (
            f"! {_kind(one.run)}: {_hours(one.hours)}, its limit is {one.compute.hours:g} h"
            f" (compute.{one.run.stage}.hours). "
            + (f"On SLURM it is requeued {times} x and goes on where it saved." if trains else "Raise the limit.")
        )


def _memory_note(one: Estimate, rates: Rates) -> Iterator[str]:
    memory, compute = one.memory, one.compute
    if memory is None:
        return
    if one.gpus:
        room, needed, what = 1e9 * rates.device_gb, memory.bytes, "a GPU has (--device-gb)"
    else:
        room, what = 1e9 * compute.memory_gb, f"compute.{one.run.stage}.memory_gb says"
        needed = compute.ranks_per_node * memory.bytes
    if needed <= room:
        return
    fits = memory.largest_batch(room if one.gpus else room / compute.ranks_per_node)
    hint = f"compute.{one.run.stage}.micro_batch: {fits} would fit." if fits else "Not even one image would fit."
    hint = hint if one.run.stage in ("pretrain", "finetune") else "Ask for more."
    yield f"! {_kind(one.run)}: {si(needed, 'B')} of memory, more than the {si(room, 'B')} that {what}. {hint}"


def _loader_note(one: Estimate) -> Iterator[str]:
    if one.run.stage not in ("pretrain", "finetune", "features") or not one.gpus:
        return
    rate = one.images / (3600 * one.hours)
    cores = one.compute.nodes * one.compute.ranks_per_node * one.compute.threads
    if rate > LOADER_PER_CORE * cores:
        yield (
            f"! {_kind(one.run)}: {rate:,.0f} images/s on {cores} cores are {rate / cores:,.0f} a core, and a core "
            f"decodes about {LOADER_PER_CORE:,.0f}. Raise compute.{one.run.stage}.threads."
        )


def si(value: float, unit: str) -> str:
    """Three digits with a prefix: 58.8 G, 4.3 PFLOP, 870 MB."""
    prefixes = ("", "k", "M", "G", "T", "P", "E", "Z", "Y")
    power = min(max(0, int(math.log10(value) // 3)) if value >= 1 else 0, len(prefixes) - 1)
    scaled = value / 1000**power
    digits = max(0, 2 - int(math.log10(scaled))) if scaled >= 1 else 2
    return f"{scaled:.{digits}f} {prefixes[power]}{unit}".rstrip()


def _hours(hours: float) -> str:
    if hours < 1 / 60:
        return f"{3600 * hours:.0f} s"
    return f"{60 * hours:.0f} min" if hours < 1 else f"{hours:.1f} h"
