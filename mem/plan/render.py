"""The output of `mem plan`: a table with one line per kind of run, totals, the longest chain, and exceeded limits."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from mem.config import Study
from mem.models.tuners.counts import trained_text
from mem.plan.estimate import Estimate
from mem.plan.hours import CPU_UTILISATION, FP32_SHARE, Rates, critical_path
from mem.plan.image_counts import ImageCounts
from mem.runs.dag import STAGES, Run
from mem.runs.keys import CROPS

HEADER = ("stage", "runs", "steps", "images", "FLOP/image", "FLOPs", "memory", "disk", "+ while running", "on", "hours")
LOADER_IMAGES_PER_CORE = 800.0
"""Approximate number of 256-pixel JPEG images that one core decodes and crops per second. Without further augmentation,
values reported for FFCV range from 900 to 1,060."""


def render_plan(
    study: Study, images: ImageCounts, estimates: Sequence[Estimate], rates: Rates, free_bytes: float
) -> str:
    """Return the complete output of `mem plan`."""
    lines = [_headline(study, images), ""]
    lines += _align([HEADER, *(_line(group) for group in _by_kind(estimates))])
    lines += ["", *_totals(estimates), *_assumptions(estimates, rates)]
    if notes := [*_notes(study, estimates, rates, free_bytes)]:
        lines += ["", *notes]
    return "\n".join(lines)


def _headline(study: Study, images: ImageCounts) -> str:
    seeds, orders = len(study.seeds), len(study.orders)
    selection = ""
    if study.selection is not None:
        part = images.without_held_out(study.selection.holdout.share)
        selection = (
            f"\nselect: trains on {part.train:,} training images and selects on the {part.val:,} held-out images; "
            f"refit: trains on all {images.train:,}"
        )
    return (
        f"{study.study}: {study.dataset.name} x {study.backbone.name}, {seeds} seed{'s' * (seeds != 1)}, "
        f"{orders} class order{'s' * (orders != 1)}\n"
        f"{images.train:,} training, {images.val:,} val and {images.test:,} test images of {images.classes:,} classes "
        f"({images.source}){selection}"
    )


def _by_kind(estimates: Sequence[Estimate]) -> list[list[Estimate]]:
    """Group the estimates by stage and branch, and those of `train_head` also by head."""
    groups: dict[str, list[Estimate]] = {}
    for estimate in sorted(estimates, key=lambda e: STAGES.index(e.run.stage)):
        groups.setdefault(_kind(estimate.run), []).append(estimate)
    return list(groups.values())


def _kind(run: Run) -> str:
    """Return what the runs of a line have in common. All evaluations of a branch are in one line."""
    branch = f" ({run.labels['branch']})" if "branch" in run.labels else ""
    name = "" if run.stage == "evaluate" else run.labels.get("variant", run.labels.get("finetuning", ""))
    crops = run.labels.get(CROPS, "")
    return " ".join(str(part) for part in (run.stage, name, crops) if part) + branch


def _longest(group: Sequence[Estimate]) -> Estimate:
    return max(group, key=lambda e: e.hours)


def _line(group: Sequence[Estimate]) -> tuple[str, ...]:
    """Return the line for one kind of run. FLOPs and disk space are totals; the rest describes the longest run."""
    longest = _longest(group)
    flops = sum(e.flops for e in group)
    running_bytes = longest.disk.running_bytes
    return (
        _kind(longest.run),
        str(len(group)),
        f"{longest.steps:,}" if longest.steps else "",
        f"{longest.images:,.0f}" if longest.images else "",
        format_si(longest.flops_per_image, "") if flops else "",
        format_si(flops, "") if flops else "",
        format_si(longest.memory.bytes, "B") if longest.memory else "",
        format_si(sum(e.disk.final_bytes for e in group), "B"),
        format_si(running_bytes, "B") if running_bytes else "",
        _device(longest),
        f"{_format_hours(longest.hours)}" + (f" x {len(group)}" if len(group) > 1 else ""),
    )


def _device(estimate: Estimate) -> str:
    if estimate.gpus:
        return f"{estimate.compute.nodes} x {estimate.compute.gpus_per_node} GPU"
    return f"{estimate.cores} core{'s' if estimate.cores > 1 else ''}"


def _align(lines: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    text = ["  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip() for line in lines]
    return [text[0], "-" * max(map(len, text)), *text[1:]]


def _totals(estimates: Sequence[Estimate]) -> list[str]:
    flops = format_si(sum(e.flops for e in estimates), "FLOP")
    gpu_hours = _format_hours(sum(e.hours * e.gpus for e in estimates))
    core_hours = _format_hours(sum(e.hours * e.cores for e in estimates))
    disk = format_si(sum(e.disk.final_bytes for e in estimates), "B")
    chain_hours, chain = critical_path([e.run for e in estimates], {e.run.key: e.hours for e in estimates})
    lines = [
        f"all runs:       {flops}, {gpu_hours} of GPU time, {core_hours} of core time, {disk} on disk",
        f"one at a time:  {_format_hours(sum(e.hours for e in estimates))}",
        f"longest chain:  {_format_hours(chain_hours)} with enough jobs in parallel: "
        f"{' > '.join(_kind(run) for run in chain)}",
    ]
    tuned = {_kind(e.run): e.tuned_parameters for e in estimates if e.tuned_parameters is not None}
    lines += [f"{kind}: {trained_text(*counts)}" for kind, counts in tuned.items()]
    if saved_bytes := sum(e.saved_bytes for e in estimates):
        added_hours = sum(e.added_hours for e in estimates)
        lines.append(
            f"online features: {format_si(saved_bytes, 'B')} less on disk, {_format_hours(abs(added_hours))} "
            f"{'more' if added_hours > 0 else 'less'} one at a time, because heads run the backbone"
        )
    return lines


def _assumptions(estimates: Sequence[Estimate], rates: Rates) -> list[str]:
    lines = _measurements(estimates, rates)
    if any(e.gpus and not e.measured for e in estimates):
        lines.append(
            f"assumed GPU:    {100 * rates.utilisation:g} % of {rates.peak_tflops:g} TFLOP/s in bfloat16, "
            f"1/{1 / FP32_SHARE:.0f} of that in float32 (--utilisation, --peak-tflops)"
        )
    if any(not e.gpus for e in estimates):
        measured = rates.measured
        date = f"on {measured.date} " if measured and measured.date else ""
        origin = f"measured {date}at load {measured.load:.1f} on {measured.cores} cores; " if measured else ""
        lines.append(
            f"assumed core:   {100 * CPU_UTILISATION:g} % of {rates.core_gflops:.0f} GFLOP/s in float32 "
            f"({origin}--core-gflops)"
        )
    return lines


def _measurements(estimates: Sequence[Estimate], rates: Rates) -> list[str]:
    """Return which hours are from measurements of a GPU."""
    sources = {e.run.stage: e.measured for e in estimates if e.measured}
    if rates.gpu is None or not sources:
        return []
    lines = [f"measured GPU:   {rates.gpu.device} on {rates.gpu.date} ({rates.gpu.path}; --gpu-benchmark)"]
    return lines + [f"  {stage}: {source}" for stage, source in sources.items()]


def _notes(study: Study, estimates: Sequence[Estimate], rates: Rates, free_bytes: float) -> Iterator[str]:
    """Yield a line for every limit that the study exceeds."""
    for group in _by_kind(estimates):
        longest = _longest(group)
        yield from _time_note(longest)
        yield from _memory_note(longest, rates)
        yield from _loader_note(longest, rates)
    if rates.measured is not None and rates.measured.busy and any(not e.gpus for e in estimates):
        yield (
            f"! core rate: measured while this machine was busy (load {rates.measured.load:.1f} on "
            f"{rates.measured.cores} cores; the measurement got {100 * rates.measured.share:.0f} % of a core), so the "
            "hours on cores may be wrong. Run the plan again on an idle machine, or specify --core-gflops."
        )
    final_bytes = sum(e.disk.final_bytes for e in estimates)
    needed = final_bytes + max((e.disk.running_bytes for e in estimates), default=0)
    if needed > free_bytes:
        note = f"! disk: the study needs {format_si(needed, 'B')}, but only {format_si(free_bytes, 'B')} is free here."
        if study.features and study.features.tokens:
            note += " `features.tokens: false` saves most of it."
        if study.features and not study.features.online:
            note += " `features.online: true` stores no features."
        yield f"{note} To use another disk, run `mem run STUDY --directory DIR`."


def _time_note(estimate: Estimate) -> Iterator[str]:
    limit = estimate.compute.hours
    if estimate.hours > limit:
        requeues = math.ceil(estimate.hours / limit) - 1
        resumes = estimate.steps is not None and estimate.run.stage != "train_head"
        yield (
            f"! {_kind(estimate.run)}: takes {_format_hours(estimate.hours)}, but its limit is {limit:g} h "
            f"(compute.{estimate.run.stage}.hours). "
            + (f"On SLURM it is requeued {requeues} times and resumes." if resumes else "Raise the limit.")
        )


def _memory_note(estimate: Estimate, rates: Rates) -> Iterator[str]:
    memory, compute, stage = estimate.memory, estimate.compute, estimate.run.stage
    if memory is None:
        return
    processes = 1 if estimate.gpus else compute.ranks_per_node
    if estimate.gpus:
        available, limit = 1e9 * rates.device_gb, "of a GPU (--device-gb)"
    else:
        available, limit = 1e9 * compute.memory_gb, f"of compute.{stage}.memory_gb"
    needed = processes * memory.bytes
    if needed <= available:
        return
    if estimate.undivided:
        hint = "The objective requires the complete global batch: use more GPUs, or a smaller global_batch."
    elif stage in ("pretrain", "finetune"):
        batch = memory.largest_batch(available / processes)
        hint = f"compute.{stage}.micro_batch: {batch} would fit." if batch else "Not even one image would fit."
    else:
        hint = "Request more memory."
    yield (
        f"! {_kind(estimate.run)}: needs {format_si(needed, 'B')} of memory, more than the {format_si(available, 'B')} "
        f"{limit}. {hint}"
    )


def _loader_note(estimate: Estimate, rates: Rates) -> Iterator[str]:
    if estimate.run.stage not in ("pretrain", "finetune", "features", "adapt") or not estimate.gpus:
        return
    rate, cores = estimate.images / (3600 * estimate.hours), estimate.cores
    per_core = (rates.gpu and rates.gpu.loader_images_per_core) or LOADER_IMAGES_PER_CORE
    if rate > per_core * cores:
        yield (
            f"! {_kind(estimate.run)}: requires {rate:,.0f} images/s on {cores} cores ({rate / cores:,.0f} per core), "
            f"but one core decodes about {per_core:,.0f}. Raise compute.{estimate.run.stage}.threads."
        )


def format_si(value: float, unit: str) -> str:
    """Format a value with three digits and an SI prefix: 58.8 G, 4.3 PFLOP, 870 MB."""
    prefixes = ("", "k", "M", "G", "T", "P", "E", "Z", "Y")
    power = min(max(0, int(math.log10(value) // 3)) if value >= 1 else 0, len(prefixes) - 1)
    scaled = value / 1000**power
    digits = max(0, 2 - int(math.log10(scaled))) if scaled >= 1 else 2
    return f"{scaled:.{digits}f} {prefixes[power]}{unit}".rstrip()


def _format_hours(hours: float) -> str:
    if hours < 1 / 60:
        return f"{3600 * hours:.0f} s"
    return f"{60 * hours:.0f} min" if hours < 1 else f"{hours:.1f} h"
