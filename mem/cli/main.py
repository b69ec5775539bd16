"""The command line. Paths and words only: heavy imports happen inside the commands."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import mem
from mem.cli.models import add_model_commands, joined
from mem.errors import UserError

STAGE_HELP = {
    "convert": "read a data set, cut its long tail, write one .beton file per split",
    "pretrain": "pretrain a masked autoencoder on the training split",
    "finetune": "finetune the backbone with cross-entropy, from the encoder or from scratch",
    "features": "compute the frozen backbone's features of every split, once per view",
    "train_head": "train, choose or copy one head on the features",
    "evaluate": "score a head on val and test",
    "report": "tables and figures of a study",
}
STAGE_INPUTS = {
    "convert": (),
    "pretrain": ("images",),
    "finetune": ("images", "encoder"),
    "features": ("images", "classifier", "encoder"),
    "train_head": ("features", "head", "images", "classifier", "encoder"),
    "evaluate": ("head", "features", "images", "classifier", "encoder"),
    "report": (),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    parser = _parser()
    options = parser.parse_args(joined(list(sys.argv[1:] if arguments is None else arguments)))
    try:
        return options.command(options)
    except UserError as error:
        print(f"mem: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # The reader of a pipe has gone; Python would complain again when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mem",
        description=mem.__doc__,
        epilog="`snakemake --cores 2` runs all stages of a study in order; each can be run alone too.",
    )
    parser.add_argument("--version", action="version", version=f"mem {mem.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    for stage, text in STAGE_HELP.items():
        command = commands.add_parser(stage, help=text, description=text[0].upper() + text[1:] + ".")
        command.add_argument(
            "--config",
            type=Path,
            required=True,
            metavar="FILE",
            help="config.yaml of the run (see `mem runs`)",
        )
        command.add_argument("--out", type=Path, metavar="DIR", help="run folder; default: the configuration's")
        command.add_argument("--log", type=Path, metavar="FILE", help="also write messages there; ranks beside it")
        for name in STAGE_INPUTS[stage]:
            command.add_argument(
                f"--{name}",
                type=Path,
                metavar="DIR",
                help=f"run folder of the {name}; default: the configuration's",
            )
        command.set_defaults(command=_stage, stage=stage)

    config = commands.add_parser("config", help="check a study's YAML, or print the schema")
    what = config.add_mutually_exclusive_group(required=True)
    what.add_argument("--check", type=Path, nargs="+", metavar="FILE", help="a study, and files laid over it")
    what.add_argument("--schema", action="store_true", help="print the JSON schema of a study")
    what.add_argument("--reference", action="store_true", help="print every setting as a Markdown page")
    config.set_defaults(command=_config)

    runs = commands.add_parser("runs", help="list the runs of a study: stage, key, state, folder")
    runs.add_argument("study", type=Path, nargs="+", metavar="STUDY", help="a study's YAML, and files laid over it")
    runs.add_argument("--write", action="store_true", help="write the runs' configurations into their folders")
    runs.add_argument("--commands", action="store_true", help="print the commands that run the study without Snakemake")
    runs.set_defaults(command=_runs)

    data = commands.add_parser("data", help="check the images of a study, or look at them")
    actions = data.add_subparsers(required=True, metavar="ACTION")
    check = actions.add_parser("check", help="say what is wrong with a data set: counts, labels, files")
    check.add_argument("--deep", action="store_true", help="decode every image, too")
    check.add_argument("--labels", type=Path, metavar="FILE", help="write label, class name, folder, counts as CSV")
    show = actions.add_parser("show", help="draw the class histogram and a sheet of images")
    for action, function in ((check, _data_check), (show, _data_show)):
        action.add_argument(
            "study", type=Path, nargs="+", metavar="STUDY", help="a study's YAML, and files laid over it"
        )
        action.add_argument(
            "--order", type=int, metavar="N", help="order of the classes along the tail; default: the study's first"
        )
        action.set_defaults(command=function)

    study_runs = commands.add_parser(
        "plan", help="what a study takes: FLOPs, memory, disk, hours, the longest chain of runs"
    )
    study_runs.add_argument(
        "study", type=Path, nargs="+", metavar="STUDY", help="a study's YAML, and files laid over it"
    )
    study_runs.add_argument(
        "--peak-tflops", type=_positive, default=790, metavar="T", help="bfloat16 rate of a GPU (%(default)s)"
    )
    study_runs.add_argument(
        "--utilisation", type=_positive, default=0.40, metavar="U", help="share of it (%(default)s)"
    )
    study_runs.add_argument(
        "--device-gb", type=_positive, default=80, metavar="GB", help="memory of a GPU (%(default)s)"
    )
    study_runs.add_argument(
        "--core-gflops", type=_positive, metavar="G", help="float32 rate of a CPU core; else measured"
    )
    study_runs.add_argument(
        "--images",
        type=_count,
        nargs="+",
        default=[],
        metavar="SPLIT=N",
        help="images of train, val and test, and classes=N, of data that are not converted yet",
    )
    study_runs.set_defaults(command=_plan)

    weights = commands.add_parser("weights", help="official checkpoints to start from: list, get")
    actions = weights.add_subparsers(required=True, metavar="ACTION")
    listed = actions.add_parser("list", help="names, addresses, checksums, and which are on this machine")
    listed.set_defaults(command=_weights_list)
    get = actions.add_parser("get", help="download one into $MEM_WEIGHTS or ~/.cache/mem/weights")
    get.add_argument("name", metavar="NAME", help="see `mem weights list`")
    get.add_argument("--from", dest="source", metavar="FILE", help="take a file that is here, or another address")
    get.set_defaults(command=_weights_get)

    add_model_commands(commands)

    results = commands.add_parser("results", help="print a study's table, and where report and MLflow are")
    results.add_argument("study", metavar="STUDY", help="name of a study")
    results.add_argument(
        "part", metavar="PART", nargs="?", help="table1 to table5, figure1, figure3, figure4: only that"
    )
    results.set_defaults(command=_results)

    track = commands.add_parser("track", help="send the runs' logs to MLflow, or open its UI")
    kinds = track.add_subparsers(required=True, metavar="ACTION")
    sync = kinds.add_parser("sync", help="send what was not sent yet, once")
    follow = kinds.add_parser("follow", help="keep sending until the process --parent ends")
    follow.add_argument("--parent", type=int, metavar="PID")
    ui = kinds.add_parser("ui", help="open the MLflow UI on the embedded database")
    ui.add_argument("--host", default="127.0.0.1")
    ui.add_argument("--port", type=int, default=5000)
    for kind, function in ((sync, _track_sync), (follow, _track_follow), (ui, _track_ui)):
        kind.set_defaults(command=function)
    return parser


def _stage(options: argparse.Namespace) -> int:
    import importlib

    from mem.jobs.job import run_stage

    work = getattr(importlib.import_module(f"mem.stages.{options.stage}"), options.stage)
    inputs = {name: path for name in STAGE_INPUTS[options.stage] if (path := getattr(options, name))}
    return run_stage(options.stage, work, options.config, options.out, options.log, inputs)


def _config(options: argparse.Namespace) -> int:
    from mem.config.json_schema import study_schema
    from mem.config.load import load_study
    from mem.config.reference import reference
    from mem.runs.dag import study_runs

    if options.schema or options.reference:
        print(study_schema() if options.schema else reference(), end="")
        return 0
    study = load_study(options.check)
    stages: dict[str, int] = {}
    for run in study_runs(study):
        stages[run.stage] = stages.get(run.stage, 0) + 1
    counted = ", ".join(f"{count} {stage}" for stage, count in stages.items())
    print(f"{options.check[0]}: study {study.study} is valid. Its runs: {counted}.")
    return 0


def _runs(options: argparse.Namespace) -> int:
    import time

    from mem.config.load import load_study
    from mem.runs.dag import study_runs
    from mem.runs.folder import RunFolder, write_configs
    from mem.tracking.log import run_status

    study = load_study(options.study)
    runs = study_runs(study)
    if options.write or options.commands:
        write_configs(runs, study)
    for run in runs:
        if options.commands:
            print(f"mem {run.stage} --config {RunFolder(run.folder).config}")
        else:
            folder = RunFolder(run.folder)
            state = "done" if folder.finished() else run_status(folder.log, time.time())
            words = " ".join(f"{name}={value}" for name, value in run.labels.items())
            print(f"{run.stage:<11} {run.key}  {state:<28} {run.folder}  {words}")
    return 0


def _data_check(options: argparse.Namespace) -> int:
    from mem.config.load import load_study
    from mem.data.check.check import check_study

    return check_study(load_study(options.study), options.study, options.order, options.deep, options.labels)


def _data_show(options: argparse.Namespace) -> int:
    from mem.config.load import load_study
    from mem.data.show import show

    for path in show(load_study(options.study), options.order):
        print(path)
    return 0


def _plan(options: argparse.Namespace) -> int:
    from mem.plan.text import plan_text

    print(
        plan_text(
            options.study,
            given=dict(options.images),
            peak_tflops=options.peak_tflops,
            utilisation=options.utilisation,
            cpu_gflops=options.core_gflops,
            device_gb=options.device_gb,
        )
    )
    return 0


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is no positive number")
    return value


def _count(text: str) -> tuple[str, int]:
    name, _, number = text.partition("=")
    if name not in ("train", "val", "test", "classes") or not number.isdigit():
        raise argparse.ArgumentTypeError(f"{text}: expected train=N, val=N, test=N or classes=N")
    return name, int(number)


def _weights_list(options: argparse.Namespace) -> int:
    from mem.models.weights.official import listing

    print(listing())
    return 0


def _weights_get(options: argparse.Namespace) -> int:
    from mem.models.weights.official import get

    get(options.name, options.source, print)
    return 0


def _results(options: argparse.Namespace) -> int:
    from mem.report.terminal import paper_part, summary

    print(paper_part(options.study, options.part) if options.part else summary(options.study))
    return 0


def _track_sync(options: argparse.Namespace) -> int:
    from mem.tracking.mirror import sync

    return sync(Path())


def _track_follow(options: argparse.Namespace) -> int:
    from mem.tracking.mirror import follow

    return follow(Path(), options.parent)


def _track_ui(options: argparse.Namespace) -> int:
    from mem.tracking.ui import open_ui

    return open_ui(Path(), options.host, options.port)


if __name__ == "__main__":
    sys.exit(main())
