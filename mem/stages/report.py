"""Stage `report`: computes a study's tables and figures from the outputs of its runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from mem import config, files, longtail
from mem.errors import UserError
from mem.jobs.job import Job
from mem.report import figures
from mem.report.captions import calibration_of_sigmoids
from mem.report.class_sections import class_sections
from mem.report.collect import StudyResults, collect
from mem.report.cost import MAX_LISTED_RUNS, cost_by_run, cost_by_stage, provenance, runs_table
from mem.report.crop_marks import crops_mark, crops_note, named_with_crops
from mem.report.deviations import deviations
from mem.report.figure_set import build_figures, reconstruction_images, training_counts
from mem.report.group_naming import group_naming_tables
from mem.report.marked_tables import marked_table
from mem.report.method_tables import accuracy_table, paired_difference_table
from mem.report.page import CaptionedFigure, CaptionedTable, Page, Section, table_page
from mem.report.paper_figure_numbers import figure1_heads
from mem.report.paper_figures import build_figure_tables
from mem.report.paper_format import PaperTable
from mem.report.paper_tables import build_paper_tables
from mem.report.plot_elements import RenderedFigure
from mem.report.prediction_table import write_prediction_tables
from mem.report.ranking import best_on_val_text
from mem.report.results import summarise, to_csv
from mem.report.results_store import ResultsStore
from mem.report.table_formats import csv_table, markdown_table
from mem.report.tables import ORACLE, score_tables
from mem.report.transductive import NOTE, marked_lines, transductive_heads
from mem.runs.attempts import total_seconds
from mem.runs.dag import Run, data_run, study_runs
from mem.runs.folder import RunFolder, read_record
from mem.runs.keys import HOLDOUT

PAPER_FIGURES = {"figure3": "shots", "figure4": "ablations"}
"""Figures of the paper that the report also contains, with the report's name for each figure."""
NO_ABLATION = "No two MEM heads of this study differ in exactly one setting, so there is no figure 4."


def report(job: Job) -> Mapping[str, Any]:
    """Write `results/<study>/`: runs.csv, report/, tables/ and figures/."""
    study = job.run.section("study", config.Study)
    *runs, report_run = study_runs(study)
    if report_run.key != job.run.key:
        raise UserError(
            f"{job.run.path}: the runs of this study have other keys now, because an earlier version of mem planned "
            "this report, or because a list or weights file changed. Run the study again to compute the new runs; the "
            "earlier runs are kept."
        )
    records = {run.key: _record_with_total_seconds(run) for run in runs}
    manifest = records[data_run(runs).key]["results"]
    results = collect(study.study, [(report_run.inputs[name].labels, folder) for name, folder in job.inputs.items()])
    report_figures = build_figures(study, runs, manifest, results)
    store = ResultsStore(study.study, results.rows)
    transductive = transductive_heads(results.rows)
    paper_tables = [marked_table(table, transductive) for table in build_paper_tables(store)]
    figure_tables = [marked_table(table, transductive) for table in build_figure_tables(store, study, results)]
    tables = [*score_tables(results, calibration_of_sigmoids(study)), *group_naming_tables(study, results)]
    page = Page(
        title=f"{study.study}: {study.backbone.name} on {study.dataset.name}",
        description=study.description.strip(),
        facts=_facts(study, runs, records, results),
        sections=[
            Section(
                "methods",
                "Methods",
                "",
                [
                    replace(marked_table(table, transductive), title=table.title + crops_mark(results.rows))
                    for table in tables
                ],
            ),
            *class_sections(study, runs, manifest, results),
            Section("figures", "Figures", "", report_figures),
            Section("reconstructions", "Reconstructions", "", reconstruction_images(runs)),
            Section(
                "paper",
                "Tables and figures of the paper",
                "",
                [
                    *[replace(_captioned("Table", table), folded=True) for table in paper_tables],
                    *[replace(_captioned("Figure", table), folded=True) for table in figure_tables],
                ],
            ),
            Section("deviations", "Deviations and cost", "", _other_tables(study, runs, records)),
        ],
        provenance=provenance(records.values()),
        runs=runs_table(runs)[: MAX_LISTED_RUNS + 1],
        study=yaml.safe_dump(study.model_dump(mode="json"), sort_keys=False, allow_unicode=True),
    )
    folder = Path("results", study.study)
    _write_report(folder / "report", page, results)
    write_prediction_tables(folder / "report" / "predictions", results.evaluations)
    _write_paper_tables(folder / "tables", paper_tables)
    _write_paper_figures(folder / "figures", page.figures, results, figure_tables)
    files.write_text(folder / "runs.csv", csv_table(runs_table(runs)))
    for name in ("index.html", "results.csv", "table.md", "figures"):
        artifact_folder = "report/figures" if name == "figures" else "report"
        job.log.event("artifact", path=str(folder / "report" / name), to=artifact_folder)
    return {
        variant: {shot: score.mean for shot, score in scores.items()}
        for variant, scores in summarise(results.rows, "test").items()
    }


def _record_with_total_seconds(run: Run) -> dict[str, Any]:
    """Return the record of a run, with the time of all its attempts as `seconds`."""
    record = read_record(run.folder)
    return {**record, "seconds": total_seconds(record, RunFolder(run.folder).log)}


def _write_report(folder: Path, page: Page, results: StudyResults) -> None:
    for figure in page.figures:
        _write_figure(folder / "figures" / figure.name, figure.rendered)
    transductive = transductive_heads(results.rows)
    notes = "".join(f"\n{note}\n" for note in (NOTE if transductive else "", crops_note(results.rows)) if note)
    lines = named_with_crops(marked_lines(accuracy_table(results.rows), transductive), results.rows)
    files.write_text(folder / "table.md", markdown_table(lines) + notes)
    if (differences := paired_difference_table(results.rows)) is not None:
        lines = named_with_crops(marked_lines(differences, transductive), results.rows)
        files.write_text(folder / "differences.md", markdown_table(lines) + notes)
    files.write_text(folder / "results.csv", to_csv(results.rows))
    files.write_text(folder / "index.html", page.html())


def _write_paper_tables(folder: Path, tables: Sequence[PaperTable]) -> None:
    """Write each of the paper's tables as Markdown, CSV and HTML."""
    for table in tables:
        path, captioned = folder / f"table{table.number}", _captioned("Table", table)
        _write_lines(path, captioned)
        files.write_text(path.with_suffix(".html"), table_page(captioned))


def _write_paper_figures(
    folder: Path, report_figures: Sequence[CaptionedFigure], results: StudyResults, tables: Sequence[PaperTable]
) -> None:
    """Write the paper's figures 1, 3 and 4 as SVG and PNG, and their numbers as Markdown and CSV."""
    rendered = {figure.name: figure.rendered for figure in report_figures}
    for name, source in PAPER_FIGURES.items():
        _write_figure(folder / name, rendered.get(source) or figures.placeholder(NO_ABLATION))
    _write_figure(folder / "figure1", _figure1(results))
    for table in tables:
        _write_lines(folder / f"figure{table.number}", _captioned("Figure", table))


def _figure1(results: StudyResults) -> RenderedFigure:
    """Plot the paper's figure 1 for the finetuned classifier, or for the first head if nothing was finetuned."""
    variant, mem = figure1_heads(results.rows)
    accuracy, oracle = summarise(results.rows, "test"), summarise(results.rows, "test", ORACLE)
    mem_column = None if mem in (None, variant) else (mem, accuracy[mem])
    error_shares = results.error_shares([variant])[variant]
    return figures.paper_figure1(variant, error_shares, accuracy[variant], oracle[variant], mem_column)


def _captioned(kind: str, table: PaperTable) -> CaptionedTable:
    return CaptionedTable(f"{kind} {table.number}: {table.title}", table.caption, table.lines)


def _write_lines(path: Path, table: CaptionedTable) -> None:
    files.write_text(path.with_suffix(".md"), f"# {table.title}\n\n{table.caption}\n\n{markdown_table(table.lines)}")
    files.write_text(path.with_suffix(".csv"), csv_table(table.lines))


def _write_figure(path: Path, figure: RenderedFigure) -> None:
    files.write_text(path.with_suffix(".svg"), figure.svg)
    with files.atomic(path.with_suffix(".png"), "wb") as file:
        file.write(figure.png)


def _facts(
    study: config.Study, runs: Sequence[Run], records: Mapping[str, Mapping[str, Any]], results: StudyResults
) -> dict[str, str]:
    manifest = records[data_run(runs).key]["results"]
    splits = manifest["splits"]
    groups = longtail.shot_groups(training_counts(manifest, study), study.shots)
    classes = np.bincount(groups, minlength=len(longtail.SHOT_NAMES))
    seconds = sum(record["seconds"] for record in records.values())
    return {
        "classes": " / ".join(f"{n} {group}" for group, n in zip(longtail.SHOT_NAMES, classes, strict=True)),
        "images (train / val / test)": " / ".join(f"{splits[name]['images']:,}" for name in ("train", "val", "test")),
        **_selection_fact(study, runs, records),
        "shot groups": str(study.shots),
        "seeds": ", ".join(map(str, study.seeds)),
        "class orders": ", ".join(map(str, study.orders)),
        **({} if study.evaluate is None else {"evaluation": f"mean logits of {study.evaluate.crops} (evaluate.crops)"}),
        "best on val": best_on_val_text(results.rows),
        "compute time, all runs": f"{seconds / 60:.1f} min",
    }


def _selection_fact(
    study: config.Study, runs: Sequence[Run], records: Mapping[str, Mapping[str, Any]]
) -> dict[str, str]:
    """Return how many training images a study with `selection` holds out in its first class order."""
    if study.selection is None:
        return {}
    results = next(records[run.key]["results"] for run in runs if HOLDOUT in run.settings)
    held_out = f"{results['held_out_images']:,} held-out training images (seed {study.selection.holdout.seed})"
    return {"selection": f"on {held_out}, with heads trained on the other {results['training_images']:,}"}


def _other_tables(
    study: config.Study, runs: Sequence[Run], records: Mapping[str, Mapping[str, Any]]
) -> list[CaptionedTable]:
    several = bool(study.finetune_variants)
    ratio = (
        " The column `time / finetune` has the mean time of a finetune run, divided by that of the section `finetune`. "
        "It also contains differences in the number of epochs and in the load of the machines."
    ) * several
    limit = f" The first {MAX_LISTED_RUNS} of {len(runs)} runs." if len(runs) > MAX_LISTED_RUNS else ""
    return [
        CaptionedTable(
            "Deviations from the paper",
            "Settings of this study that differ from the paper, and settings that the paper does not state.",
            deviations(study),
            css_class="text",
        ),
        CaptionedTable(
            "Cost",
            f"For each stage{' and finetuning' * several}: hours of all attempts of all runs, images per second over "
            "all processes of a run, and the share of the time that training waited for data (medians over runs, "
            "measured in the last attempt). An "
            f"attempt that was killed counts until its last log message.{ratio}",
            cost_by_stage(runs, records),
        ),
        CaptionedTable(
            "Cost of each run",
            f"Time of all attempts, speed and memory.{limit}",
            cost_by_run(runs, records),
            folded=True,
        ),
    ]
