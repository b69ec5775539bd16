"""Commands for fitted heads and finished runs: `export`, `register`, `predict` and `runs compare`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from mem.cli.arguments import RUN_HELP, add_run, add_study, study_files


def add_commands(commands: Any) -> None:
    """Add the commands `export`, `register`, `predict` and `runs compare`."""
    export = commands.add_parser("export", help="export a head and its backbone as one model that takes images")
    add_run(
        export,
        text=f"{RUN_HELP}. The run trains a head (train_head-..., see `mem runs`) or, for a model that averages over "
        "the crops of an evaluation, evaluates it (evaluate-...)",
    )
    export.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write")
    export.add_argument(
        "--format",
        type=_formats,
        default=("mem",),
        metavar="FORMAT[,FORMAT]",
        help="mem: weights, torch.export program and MLflow model (default); timm: a folder for timm.create_model and "
        "the Hugging Face Hub; onnx: model.onnx",
    )
    export.add_argument(
        "--license", metavar="ID", help="timm: licence of the weights; default: that of the initial weights"
    )
    export.add_argument("--overwrite", action="store_true", help="timm and onnx: replace an earlier export in DIR")
    export.add_argument("--no-program", dest="program", action="store_false", help="omit the torch.export program")
    export.add_argument("--no-mlflow", dest="mlflow", action="store_false", help="omit the MLflow model")
    export.set_defaults(command=_export)

    register = commands.add_parser("register", help="register a study's best head on val in MLflow")
    add_study(register)
    register.add_argument("--name", help="name of the registered model; default: the study's name")
    register.add_argument("--alias", default="best", help="alias to set on the new version (%(default)s)")
    register.add_argument("--head", metavar="NAME", help="register this head instead of the best head on val")
    register.set_defaults(command=_register)

    predict = commands.add_parser("predict", help="classify images with a head: exported, registered or from a run")
    predict.add_argument("images", nargs="+", metavar="IMAGE", help="files, folders, or - for a list on standard input")
    predict.add_argument(
        "--model",
        required=True,
        metavar="MODEL",
        help=f"{RUN_HELP}; an exported folder; or an MLflow model models:/NAME@ALIAS",
    )
    predict.add_argument("--format", choices=("csv", "json"), default="csv", help="output format (%(default)s)")
    predict.add_argument("--out", type=Path, metavar="FILE", help="output file; default: standard output")
    predict.add_argument(
        "--batch", type=_positive_integer, default=64, metavar="N", help="images per batch (%(default)s)"
    )
    predict.set_defaults(command=_predict)

    compare = commands.add_parser("runs compare", help="compare the settings, inputs and results of two runs")
    for name in ("a", "b"):
        add_run(compare, name)
    compare.set_defaults(command=_compare)


def _positive_integer(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected a positive integer")
    return int(text)


def _formats(text: str) -> tuple[str, ...]:
    formats = tuple(text.split(","))
    known = ("mem", "timm", "onnx")
    if unknown := [name for name in formats if name not in known]:
        raise argparse.ArgumentTypeError(f"unknown format {unknown[0]!r}; expected {', '.join(known)}")
    return formats


def _export(options: argparse.Namespace) -> int:
    from mem.export.formats import ExportOptions, export
    from mem.runs.find import existing_or_run, find_run

    run = existing_or_run(options.run, Path())
    run = run if Path(run, "run.json").is_file() else find_run(options.run, Path())
    what = ExportOptions(options.format, options.program, options.mlflow, options.license, options.overwrite)
    export(run, options.out, what)
    for path in sorted(options.out.iterdir()):
        print(path)
    return 0


def _register(options: argparse.Namespace) -> int:
    from mem.export.commands import register

    return register(study_files(options.study), options.name, options.alias, options.head, Path())


def _predict(options: argparse.Namespace) -> int:
    from mem.export.commands import predict
    from mem.runs.find import existing_or_run

    is_registered = options.model.startswith("models:")
    model = options.model if is_registered else str(existing_or_run(options.model, Path()))
    return predict(options.images, model, options.format, options.out, options.batch, Path(), sys.stdin)


def _compare(options: argparse.Namespace) -> int:
    from mem.runs.diff import compare

    print(compare(options.a, options.b, Path()))
    return 0
