"""Commands for studies: settings, runs, data, cost and results."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from mem.cli.arguments import (
    OVERRIDES_HELP,
    STUDY_HELP,
    add_study,
    load_given_study,
    name_of_study,
    study_files,
)


def add_commands(commands: Any) -> None:
    """Add the commands `config`, `runs`, `data`, `plan` and `results`."""
    _add_config(commands)
    _add_runs(commands)
    _add_data(commands)
    _add_plan(commands)
    _add_results(commands)


def _add_config(commands: Any) -> None:
    command = commands.add_parser("config", help="check a study's settings, or print the schema")
    action = command.add_mutually_exclusive_group(required=True)
    action.add_argument("--check", nargs="+", metavar="STUDY", help=OVERRIDES_HELP)
    action.add_argument("--schema", action="store_true", help="print the JSON schema of a study")
    action.add_argument("--reference", action="store_true", help="print every setting as a Markdown page")
    command.set_defaults(command=_config)


def _add_runs(commands: Any) -> None:
    command = commands.add_parser("runs", help="list the runs of a study with stage, key, state and folder")
    add_study(command)
    command.add_argument("--write", action="store_true", help="write the runs' configurations into their folders")
    command.add_argument(
        "--commands", action="store_true", help="print the commands that run the study without Snakemake"
    )
    command.set_defaults(command=_runs)


def _add_data(commands: Any) -> None:
    data = commands.add_parser("data", help="check, describe or show the images of a study, or download fonts")
    actions = data.add_subparsers(required=True, metavar="ACTION")
    check = actions.add_parser("check", help="report problems with a dataset's counts, labels and files")
    check.add_argument("--deep", action="store_true", help="also decode every image")
    check.add_argument("--labels", type=Path, metavar="FILE", help="write label, class name, folder and counts as CSV")
    show = actions.add_parser("show", help="plot the class histogram and a contact sheet of images")
    stats = actions.add_parser(
        "stats", help="compute mean, std, sizes and formats of a sample of images, and suggest settings"
    )
    stats.add_argument(
        "--sample", type=_count, metavar="N", help="number of training images, evenly spaced; default: 1000"
    )
    for action, function in ((check, _data_check), (show, _data_show), (stats, _data_stats)):
        add_study(action)
        action.add_argument(
            "--order", type=int, metavar="N", help="class order of the long tail; default: the first order of the study"
        )
        action.set_defaults(command=function)
    fonts = actions.add_parser("fonts", help="download and unpack the fonts for Glyphs-LT (about 510 MB)")
    fonts.add_argument(
        "--to", type=Path, default=Path("data/fonts"), metavar="FOLDER", help="folder to create; default: data/fonts"
    )
    fonts.add_argument("--from", dest="source", metavar="FILE", help="use a Debian package: a local file or an address")
    fonts.set_defaults(command=_data_fonts)


def _add_plan(commands: Any) -> None:
    command = commands.add_parser(
        "plan", help="estimate the cost of a study: FLOPs, memory, disk space, hours, longest chain of runs"
    )
    add_study(command)
    command.add_argument(
        "--peak-tflops",
        type=_positive,
        metavar="T",
        help="peak bfloat16 rate of a GPU in TFLOP/s; default: 790, or that of the benchmark",
    )
    command.add_argument(
        "--utilisation", type=_positive, metavar="U", help="expected share of this rate; default: 0.4, or measured"
    )
    command.add_argument(
        "--device-gb", type=_positive, metavar="GB", help="GPU memory in GB; default: 80, or that of the benchmark"
    )
    command.add_argument(
        "--gpu-benchmark",
        type=Path,
        metavar="FILE",
        help="result of benchmarks/gpu.py; default: gpu-benchmark.json in the current folder, if it exists",
    )
    command.add_argument(
        "--core-gflops", type=_positive, metavar="G", help="float32 rate of a CPU core in GFLOP/s; default: measured"
    )
    command.add_argument(
        "--images",
        type=_split_count,
        nargs="+",
        default=[],
        metavar="SPLIT=N",
        help="numbers of train, val and test images and of classes; default: those of the dataset",
    )
    command.set_defaults(command=_plan)


def _add_results(commands: Any) -> None:
    command = commands.add_parser(
        "results",
        help="print a study's result table and the paths of the report and MLflow, or one table of several studies",
    )
    command.add_argument("study", metavar="STUDY", help=STUDY_HELP)
    command.add_argument(
        "others",
        metavar="STUDY | PART",
        nargs="*",
        help="further studies for one table, or a part to print: table1 to table5, figure1, figure3 or figure4",
    )
    command.add_argument("--minus", metavar="HEAD", help="head that is subtracted in the differences; default: crt")
    command.add_argument(
        "--directory",
        type=Path,
        default=Path(),
        metavar="DIR",
        help="working folder of the study, as passed to snakemake; default: the current folder",
    )
    command.set_defaults(command=_results)


# --- commands -------------------------------------------------------------------------------------------


def _config(options: argparse.Namespace) -> int:
    from mem.config.json_schema import study_schema
    from mem.config.load import load_study
    from mem.config.reference import reference
    from mem.plan.known_costs import check_backbone
    from mem.runs.dag import study_runs

    if options.schema or options.reference:
        print(study_schema() if options.schema else reference(), end="")
        return 0
    files = study_files(options.check)
    study = load_study(files)
    note = check_backbone(study)
    runs_by_stage: dict[str, int] = {}
    for run in study_runs(study):
        runs_by_stage[run.stage] = runs_by_stage.get(run.stage, 0) + 1
    counts = ", ".join(f"{count} {stage}" for stage, count in runs_by_stage.items())
    print(f"{files[0]}: study {study.study} is valid. Its runs: {counts}.")
    if note:
        print(note)
    return 0


def _runs(options: argparse.Namespace) -> int:
    import time

    from mem.runs.dag import study_runs
    from mem.runs.folder import RunFolder
    from mem.runs.outputs import missing_files, shown_files
    from mem.runs.run_config import write_configs
    from mem.tracking.log import run_status

    study = load_given_study(options.study)
    runs = study_runs(study)
    if options.write or options.commands:
        write_configs(runs, study)
    for run in runs:
        folder = RunFolder(run.folder)
        if options.commands:
            print(f"mem {run.stage} --config {folder.config}")
        else:
            missing = missing_files(run)
            if not missing:
                state = "done"
            elif folder.finished():
                state = f"incomplete: {shown_files(missing)} missing"
            else:
                state = run_status(folder.log, time.time())
            labels = " ".join(f"{name}={value}" for name, value in run.labels.items())
            print(f"{run.stage:<11} {run.key}  {state:<28} {run.folder}  {labels}")
    return 0


def _data_check(options: argparse.Namespace) -> int:
    from mem.config.load import load_study
    from mem.data.check.check import check_study

    files = study_files(options.study)
    return check_study(load_study(files), files, options.order, options.deep, options.labels)


def _data_show(options: argparse.Namespace) -> int:
    from mem.data.show import show

    for path in show(load_given_study(options.study), options.order):
        print(path)
    return 0


def _data_stats(options: argparse.Namespace) -> int:
    from mem.data.check.statistics import SAMPLE, describe_study

    print(describe_study(load_given_study(options.study), options.order, options.sample or SAMPLE))
    return 0


def _data_fonts(options: argparse.Namespace) -> int:
    from mem.data.datasets.glyphs.fetch import fetch_fonts

    fetch_fonts(options.to, options.source, print)
    return 0


def _plan(options: argparse.Namespace) -> int:
    from mem.plan.text import AssumedGpu, plan_text

    print(
        plan_text(
            study_files(options.study),
            given=dict(options.images),
            gpu=AssumedGpu(options.peak_tflops, options.utilisation, options.device_gb, options.gpu_benchmark),
            cpu_gflops=options.core_gflops,
        )
    )
    return 0


def _results(options: argparse.Namespace) -> int:
    from mem.errors import UserError
    from mem.report.study_comparison import studies_summary
    from mem.report.terminal import paper_part, study_summary

    folder, others = options.directory, options.others
    study = name_of_study(options.study, folder)
    if not others:
        print(study_summary(study, folder, options.minus))
    elif len(others) == 1 and _is_part(others[0]):
        print(paper_part(study, others[0], folder))
    elif options.minus is not None:
        raise UserError("--minus: expected a single study. Differences are paired over the runs of one study.")
    else:
        print(studies_summary([study, *(name_of_study(name, folder) for name in others)], folder))
    return 0


def _is_part(name: str) -> bool:
    """Return whether an argument is a table or figure, or is meant as one, so that the message lists them."""
    return re.fullmatch(r"(table|figure)\d*", name) is not None


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text}: expected a positive number")
    return value


def _count(text: str) -> int:
    if not text.isdecimal() or not text.isascii() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected a positive integer")
    return int(text)


def _split_count(text: str) -> tuple[str, int]:
    name, _, number = text.partition("=")
    if name not in ("train", "val", "test", "classes") or not number.isdigit():
        raise argparse.ArgumentTypeError(f"{text}: expected train=N, val=N, test=N or classes=N")
    return name, int(number)
