"""The commands for fitted models: their options, and what runs them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any


def add_model_commands(commands: Any) -> None:
    """Add `export`, `register`, `predict` and `runs compare` to the command table."""
    export = commands.add_parser("export", help="write a head with its backbone as one model that takes images")
    export.add_argument("run", type=Path, metavar="RUN", help="run folder of a head (train_head-..., see `mem runs`)")
    export.add_argument("--out", type=Path, required=True, metavar="DIR", help="where to")
    export.add_argument("--no-program", dest="program", action="store_false", help="leave out the torch.export program")
    export.add_argument("--no-mlflow", dest="mlflow", action="store_false", help="leave out the MLflow model")
    export.set_defaults(command=_export)

    register = commands.add_parser("register", help="register the head of a study that is best on val, in MLflow")
    register.add_argument("study", type=Path, nargs="+", metavar="STUDY", help="a study's YAML, and files laid over it")
    register.add_argument("--name", help="under which name; default: the study's")
    register.add_argument("--alias", default="best", help="which alias stands for it (%(default)s)")
    register.add_argument("--head", metavar="NAME", help="this head, instead of the best on val")
    register.set_defaults(command=_register)

    predict = commands.add_parser("predict", help="classify images with an exported, registered or just trained head")
    predict.add_argument("images", nargs="+", metavar="IMAGE", help="files, folders, or - for a list on standard input")
    predict.add_argument(
        "--model", required=True, help="run folder of a head, exported folder, or models:/NAME@ALIAS of MLflow"
    )
    predict.add_argument("--format", choices=("csv", "json"), default="csv", help="of the output (%(default)s)")
    predict.add_argument("--out", type=Path, metavar="FILE", help="instead of standard output")
    predict.add_argument(
        "--batch", type=_positive_count, default=64, metavar="N", help="images at a time (%(default)s)"
    )
    predict.set_defaults(command=_predict)

    compare = commands.add_parser("runs compare", help="what differs between two runs: settings, inputs, results")
    for name in ("a", "b"):
        compare.add_argument(name, metavar=name.upper(), help="a run's folder, its key, or the beginning of its key")
    compare.set_defaults(command=_compare)


def joined(arguments: list[str]) -> list[str]:
    """Make one word of `runs compare`, which argparse cannot tell from `runs STUDY`."""
    return ["runs compare", *arguments[2:]] if arguments[:2] == ["runs", "compare"] else arguments


def _positive_count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is no positive number")
    return int(text)


def _export(options: argparse.Namespace) -> int:
    from mem.export.commands import export

    export(options.run, options.out, program=options.program, mlflow=options.mlflow)
    for path in sorted(options.out.iterdir()):
        print(path)
    return 0


def _register(options: argparse.Namespace) -> int:
    from mem.export.commands import register

    return register(options.study, options.name, options.alias, options.head, Path())


def _predict(options: argparse.Namespace) -> int:
    from mem.export.commands import predict

    return predict(options.images, options.model, options.format, options.out, options.batch, Path(), sys.stdin)


def _compare(options: argparse.Namespace) -> int:
    from mem.runs.diff import compare

    print(compare(options.a, options.b, Path()))
    return 0
