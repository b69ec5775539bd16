"""One command per stage: `mem STAGE --config FILE --log FILE`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

STAGE_HELP = {
    "convert": "read a dataset, cut it to a long tail, write one .beton file per split",
    "pretrain": "pretrain a masked autoencoder on the training split",
    "finetune": "finetune the backbone with cross-entropy, from the encoder or from scratch",
    "features": "compute the frozen backbone's features of every split, once per view",
    "adapt": "learn the weights of a backbone's experts on unlabelled test images",
    "train_head": "train, select or copy one head on the features",
    "evaluate": "score a head on val and test",
    "report": "write the tables and figures of a study",
}
STAGE_INPUTS = {
    "convert": (),
    "pretrain": ("images",),
    "finetune": ("images", "encoder"),
    "features": ("images", "classifier", "encoder", "features"),
    "adapt": ("features", "images", "classifier"),
    "train_head": ("features", "head", "images", "classifier", "encoder", "selection", "adapt", "crops"),
    "evaluate": ("head", "features", "images", "classifier", "encoder", "crops"),
    "report": (),
}


def add_commands(commands: Any) -> None:
    """Add a command for each stage."""
    for stage, text in STAGE_HELP.items():
        command = commands.add_parser(stage, help=text, description=text[0].upper() + text[1:] + ".")
        command.add_argument(
            "--config", type=Path, required=True, metavar="FILE", help="config.yaml of the run (see `mem runs`)"
        )
        command.add_argument("--out", type=Path, metavar="DIR", help="run folder; default: the folder of --config")
        command.add_argument(
            "--log", type=Path, metavar="FILE", help="also write messages to FILE; other ranks write to FILE.rankN"
        )
        for name in STAGE_INPUTS[stage]:
            command.add_argument(
                f"--{name}",
                type=Path,
                metavar="DIR",
                help=f"run folder of the input `{name}`; default: the one in --config",
            )
        command.set_defaults(command=_run, stage=stage)


def _run(options: argparse.Namespace) -> int:
    import importlib

    from mem.jobs.job import run_stage

    work = getattr(importlib.import_module(f"mem.stages.{options.stage}"), options.stage)
    inputs = {name: path for name in STAGE_INPUTS[options.stage] if (path := getattr(options, name))}
    return run_stage(options.stage, work, options.config, options.out, options.log, inputs)
