"""Settings for the resources of stages."""

from __future__ import annotations

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from mem.config.base import Section


class Compute(Section):
    """Resources of a stage. These settings affect results by rounding at most."""

    threads: PositiveInt = 1
    """Threads, and therefore CPU cores, per process. `snakemake --cores` limits them."""
    memory_gb: PositiveFloat = 4
    """Main memory per node in gigabytes."""
    nodes: PositiveInt = 1
    """Number of nodes for the profile `slurm`."""
    gpus_per_node: NonNegativeInt = 0
    """GPUs per node."""
    tasks_per_node: PositiveInt | None = None
    """Processes (ranks) per node. Default: one per GPU, or one if there are no GPUs."""
    hours: PositiveFloat = 1
    """Time limit of the job in hours."""
    micro_batch: PositiveInt | None = None
    """Maximum number of images per forward pass on one device. Larger batches use gradient accumulation. Default on a
    GPU: the largest micro-batch that fits into its memory."""
    checkpoint_minutes: NonNegativeFloat = 3
    """Minutes between checkpoints."""
    peak_tflops: PositiveFloat | None = None
    """Peak matrix-product rate of one device at the training precision, in TFLOP/s. If set, pretraining and finetuning
    log `mfu` (model FLOPs utilisation): the share of this rate that the model's arithmetic reaches."""
    compile: bool = False
    """Whether the backbone is compiled with `torch.compile` in training and in the stage `features`. Like the number of
    ranks, this changes only rounding."""
    channels_last: bool | None = None
    """Whether the weights of convolutions are stored with the channels last. This changes only rounding. Default: on a
    GPU, for networks that consist mostly of convolutions."""
    recompute_activations: bool = False
    """Whether the backward pass computes the activations of each block again instead of keeping them (activation
    checkpointing, Chen et al. 2016). Training then needs less memory and more time; the results are the same."""

    @property
    def ranks_per_node(self) -> int:
        """Processes per node."""
        return self.tasks_per_node or max(1, self.gpus_per_node)


MULTI_RANK_STAGES = ("pretrain", "finetune", "features")
"""Stages that can run as several processes."""


class StageCompute(Section):
    """Resources of each stage."""

    convert: Compute = Compute()
    pretrain: Compute = Compute()
    finetune: Compute = Compute()
    features: Compute = Compute()
    adapt: Compute = Compute()
    train_head: Compute = Compute()
    evaluate: Compute = Compute()
    report: Compute = Compute()

    @model_validator(mode="after")
    def _single_process_stages(self) -> StageCompute:
        for stage in type(self).model_fields:
            requested: Compute = getattr(self, stage)
            ranks = requested.nodes * requested.ranks_per_node
            if ranks > 1 and stage not in MULTI_RANK_STAGES:
                raise ValueError(
                    f"{stage} runs as one process, but nodes, gpus_per_node and tasks_per_node request {ranks}; "
                    f"only {', '.join(MULTI_RANK_STAGES)} can run as several processes"
                )
        return self
