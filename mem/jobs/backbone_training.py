"""What the two stages that train a backbone share: data, schedule, mechanics, the figures for run.json."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mem import config, provenance
from mem.data.beton.reader import Beton
from mem.data.loading.images import RankShard, TrainingImages
from mem.data.loading.samplers import InstanceSampler
from mem.errors import UserError
from mem.jobs.job import Job
from mem.models.flops import training_flops
from mem.models.pixels import Pixels
from mem.models.weights import LoadReport
from mem.models.weights.foreign import read_checkpoint
from mem.models.weights.official import local_file
from mem.runs.dag import INITIAL_DIGEST, file_digest
from mem.runs.folder import read_record
from mem.train.loop import Objective, StepOptions, TrainState, fit
from mem.train.schedules import training_steps, warmup_cosine


def normalization_of(images: Path) -> Pixels:
    """The normalisation that a converted data set asks for."""
    dataset = read_record(images)["settings"]["dataset"]
    return Pixels(tuple(dataset["pixel_mean"]), tuple(dataset["pixel_std"]))


def fill_color_of(images: Path) -> tuple[int, int, int]:
    """The mean colour of a converted data set, which fills places outside of a picture."""
    red, green, blue = (min(255, round(255 * mean)) for mean in normalization_of(images).mean)
    return red, green, blue


def load_initial_weights(job: Job, start: Callable[[Mapping[str, Tensor], str], LoadReport]) -> dict[str, Any]:
    """Let `start` take the weights that the run's section `initial` names; returns what run.json says of it.

    Raises:
        UserError: They are not here, are others than when the run was planned, or do not fit.
    """
    if "initial" not in job.run.settings:
        return {}
    initial = job.run.section("initial", config.Initial)
    path = local_file(initial)
    planned = job.run.settings.get(INITIAL_DIGEST)
    if initial.weights is None and file_digest(path) != planned:
        raise UserError(
            f"{path}: has another content than when this run was planned ({file_digest(path)}, then {planned}). Run "
            "the study again: it makes a new run beside this one"
        )
    report = start(read_checkpoint(path), initial.weights or str(path))
    job.say(f"From {initial.weights or path}: {report}.")
    return {"initial": {"file": str(path), **report.document()}}


def train_backbone(
    job: Job,
    state: TrainState,
    objective: Objective,
    settings: config.Training,
    augmentation: config.Augmentation,
    side: int,
    validate: Callable[[nn.Module], Mapping[str, float]] | None = None,
    validate_every_epochs: float = 0,
    together: int = 1,
    flop_shapes: tuple[tuple[int, ...], ...] | None = None,
) -> dict[str, Any]:
    """Train on a data set's training split; returns the figures for run.json.

    `together` consecutive samples are on the same rank and in the same micro-batch.
    `flop_shapes` are those of the model's inputs for one image, where they are more than the image.
    """
    train = Beton(job.inputs["images"] / "train.beton")
    steps_per_epoch = len(train) / settings.global_batch
    steps = training_steps(settings.epochs, len(train), settings.global_batch)
    data = TrainingImages(
        images=train,
        order=InstanceSampler(len(train), job.seed),
        global_batch=settings.global_batch,
        side=side,
        augmentation=augmentation,
        seed=job.seed,
        workers=provenance.cpus(),
        slice=RankShard(job.world.rank, job.world.size),
        together=together,
        fill=fill_color_of(job.inputs["images"]),
    )
    speed = fit(
        state,
        data,
        objective,
        warmup_cosine(settings.lr, settings.min_lr, settings.warmup_epochs, settings.epochs, steps_per_epoch),
        steps=steps,
        steps_per_epoch=steps_per_epoch,
        checkpoints=job.checkpoints(),
        log=job.log,
        stop=job.stop,
        title=job.run.title,
        mechanics=StepOptions(
            job.world,
            job.run.compute.micro_batch,
            settings.clip_grad,
            bf16=settings.precision == "bf16",
            compile=job.run.compute.compile,
            skip_nonfinite=settings.on_nonfinite == "skip",
            peak_images_per_s=peak_images_per_s(job, state.model, flop_shapes or ((1, 3, side, side),)),
        ),
        validate=validate,
        validate_every=round(validate_every_epochs * steps_per_epoch),
    )
    return {
        "steps": steps,
        "images": steps * settings.global_batch,
        "images_per_s": round(speed.images_per_second, 1),
        "data_wait": round(speed.data_wait, 5),
        **({"peak_gpu_memory_gb": round(gpu, 3)} if (gpu := provenance.peak_gpu_memory_gb()) else {}),
        "parameters": sum(p.numel() for p in state.model.parameters() if p.requires_grad),
    }


def peak_images_per_s(job: Job, model: nn.Module, shapes: tuple[tuple[int, ...], ...]) -> float | None:
    """Images a second of all ranks at the rate that `compute.peak_tflops` states; None where it states none."""
    peak = job.run.compute.peak_tflops
    return peak and peak * 1e12 * job.world.size / training_flops(model, *shapes)
