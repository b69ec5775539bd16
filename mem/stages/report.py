"""Stage `report`: computes a study's tables and figures from the outputs of its runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mem import config, files
from mem.errors import UserError
from mem.jobs.job import Job
from mem.report import figures
from mem.report.class_accuracy import all_classes, class_scores
from mem.report.collect import StudyResults, collect
from mem.report.cost import runs_table
from mem.report.crop_marks import crops_note, named_with_crops
from mem.report.marked_tables import marked_table
from mem.report.method_tables import accuracy_table, paired_difference_table
from mem.report.page import CaptionedFigure, CaptionedTable, Page, table_page
from mem.report.paper_figure_numbers import figure1_heads
from mem.report.paper_figures import build_figure_tables
from mem.report.paper_format import PaperTable
from mem.report.paper_tables import build_paper_tables
from mem.report.plot_elements import RenderedFigure
from mem.report.prediction_table import write_prediction_tables
from mem.report.results import summarise, to_csv
from mem.report.results_store import ResultsStore
from mem.report.study_page import StudyRuns, captioned, study_page
from mem.report.table_formats import csv_table, markdown_table
from mem.report.tables import ORACLE
from mem.report.transductive import NOTE, marked_lines, transductive_heads
from mem.runs.attempts import total_seconds
from mem.runs.dag import Run, study_runs
from mem.runs.folder import RunFolder, read_record

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
    results = collect(study.study, [(report_run.inputs[name].labels, folder) for name, folder in job.inputs.items()])
    store = ResultsStore(study.study, results.rows)
    transductive = transductive_heads(results.rows)
    paper_tables = [marked_table(table, transductive) for table in build_paper_tables(store)]
    figure_tables = [marked_table(table, transductive) for table in build_figure_tables(store, study, results)]
    finished = StudyRuns(runs, records)
    page = study_page(study, finished, results, paper_tables, figure_tables)
    folder = Path("results", study.study)
    _write_report(folder / "report", page, results)
    classes = all_classes(class_scores(study, finished.manifest, results))
    files.write_text(folder / "report" / "classes.csv", csv_table(classes))
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
    """Write each of the paper's tables as Markdown, CSV, LaTeX and HTML."""
    for table in tables:
        path, shown = folder / f"table{table.number}", captioned("Table", table)
        _write_lines(path, shown)
        files.write_text(path.with_suffix(".html"), table_page(shown))


def _write_paper_figures(
    folder: Path, report_figures: Sequence[CaptionedFigure], results: StudyResults, tables: Sequence[PaperTable]
) -> None:
    """Write the paper's figures 1, 3 and 4 as SVG and PNG, and their numbers as Markdown, CSV and LaTeX."""
    rendered = {figure.name: figure.rendered for figure in report_figures}
    for name, source in PAPER_FIGURES.items():
        _write_figure(folder / name, rendered.get(source) or figures.placeholder(NO_ABLATION))
    _write_figure(folder / "figure1", _figure1(results))
    for table in tables:
        _write_lines(folder / f"figure{table.number}", captioned("Figure", table))


def _figure1(results: StudyResults) -> RenderedFigure:
    """Plot the paper's figure 1 for the finetuned classifier, or for the first head if nothing was finetuned."""
    variant, mem = figure1_heads(results.rows)
    accuracy, oracle = summarise(results.rows, "test"), summarise(results.rows, "test", ORACLE)
    mem_column = None if mem in (None, variant) else (mem, accuracy[mem])
    error_shares = results.error_shares([variant])[variant]
    return figures.paper_figure1(variant, error_shares, accuracy[variant], oracle[variant], mem_column)


def _write_lines(path: Path, table: CaptionedTable) -> None:
    files.write_text(path.with_suffix(".md"), f"# {table.title}\n\n{table.caption}\n\n{markdown_table(table.lines)}")
    files.write_text(path.with_suffix(".csv"), csv_table(table.lines))
    files.write_text(path.with_suffix(".tex"), table.latex)


def _write_figure(path: Path, figure: RenderedFigure) -> None:
    files.write_text(path.with_suffix(".svg"), figure.svg)
    with files.atomic(path.with_suffix(".png"), "wb") as file:
        file.write(figure.png)
