"""Stage `report`: a study's tables and figures, from what its runs left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from mem import config, files
from mem.jobs.job import Job
from mem.report import figures
from mem.report.collect import StudyResults, collect
from mem.report.cost import LISTED, cost_by_run, cost_by_stage, provenance, runs_table, to_csv_text
from mem.report.deviations import deviations
from mem.report.figure_set import ORACLE, build_figures, reconstruction_photos
from mem.report.page import Figure, Page, Table, table_page
from mem.report.paper_figures import classifier_of, figures_in_numbers
from mem.report.paper_tables import PaperTable, ResultsStore, head_for, tables
from mem.report.results import summarised, to_csv, to_markdown
from mem.report.tables import accuracy_table, best_on_val, difference_text, folded, score_tables
from mem.runs.dag import Run, data_run, study_runs
from mem.runs.folder import read_record

PAPER_FIGURES = {"figure3": "shots", "figure4": "ablations"}
"""The paper's figures that are figures of the report under another name."""
NOTHING = "No two MEM heads of this study differ in one setting only: there is nothing to draw for figure 4."


def report(job: Job) -> Mapping[str, Any]:
    """Write `results/<study>/`: runs.csv, report/, tables/ and figures/."""
    study = job.run.section("study", config.Study)
    *runs, this = study_runs(study)
    records = {run.key: read_record(run.folder) for run in runs}
    manifest = records[data_run(runs).key]["results"]
    found = collect(study.study, [(this.inputs[name].labels, folder) for name, folder in job.inputs.items()])
    drawn = build_figures(study, runs, manifest, found)
    library = ResultsStore(study.study, found.rows)
    paper, in_numbers = tables(library), figures_in_numbers(library, study, found)
    page = Page(
        title=f"{study.study}: {study.backbone.name} on {study.dataset.name}",
        description=study.description.strip(),
        facts=_facts(study, manifest, records, found),
        scores=score_tables(found),
        figures=drawn,
        photos=reconstruction_photos(runs),
        paper=[
            folded(Table(f"{kind} {one.number}: {one.title}", one.caption, one.lines))
            for kind, several in (("Table", paper), ("Figure", in_numbers))
            for one in several
        ],
        rest=_rest(study, runs, records),
        provenance=provenance(records.values()),
        runs=runs_table(runs)[: LISTED + 1],
        study=yaml.safe_dump(study.model_dump(mode="json"), sort_keys=False, allow_unicode=True),
    )
    results = Path("results", study.study)
    _write_report(results / "report", page, drawn, found)
    _write_tables(results / "tables", paper)
    _write_figures(results / "figures", drawn, found, in_numbers)
    files.write_text(results / "runs.csv", to_csv_text(runs_table(runs)))
    for path in ("index.html", "results.csv", "table.md", "figures"):
        at = results / "report" / path
        job.log.event("artifact", path=str(at), to="report" if path != "figures" else "report/figures")
    return {
        variant: {shot: score.mean for shot, score in scores.items()}
        for variant, scores in summarised(found.rows, "test").items()
    }


def _write_report(folder: Path, page: Page, drawn: Sequence[Figure], found: StudyResults) -> None:
    for figure in drawn:
        _write_picture(folder / "figures" / figure.name, figure.picture)
    files.write_text(folder / "table.md", to_markdown(accuracy_table(found.rows)))
    if (differences := difference_text(found.rows)) is not None:
        files.write_text(folder / "differences.md", to_markdown(differences))
    files.write_text(folder / "results.csv", to_csv(found.rows))
    files.write_text(folder / "index.html", page.html())


def _write_tables(folder: Path, paper: Sequence[PaperTable]) -> None:
    """The paper's tables, each as Markdown, CSV and a page."""
    for one in paper:
        title = f"Table {one.number}: {one.title}"
        path = folder / f"table{one.number}"
        _write_lines(path, title, one)
        files.write_text(path.with_suffix(".html"), table_page(Table(title, one.caption, one.lines)))


def _write_lines(path: Path, title: str, one: PaperTable) -> None:
    files.write_text(path.with_suffix(".md"), f"# {title}\n\n{one.caption}\n\n{to_markdown(one.lines)}")
    files.write_text(path.with_suffix(".csv"), to_csv_text(one.lines))


def _write_figures(
    folder: Path, drawn: Sequence[Figure], found: StudyResults, in_numbers: Sequence[PaperTable]
) -> None:
    """The paper's figures: 1 (both halves, of what the report shows one by one), 3 and 4; and each in numbers."""
    by_name = {figure.name: figure.picture for figure in drawn}
    for name, source in PAPER_FIGURES.items():
        _write_picture(folder / name, by_name.get(source) or figures.nothing(NOTHING))
    _write_picture(folder / "figure1", figure1(found))
    for one in in_numbers:
        _write_lines(folder / f"figure{one.number}", f"Figure {one.number}: {one.title}", one)


def figure1(found: StudyResults) -> figures.Picture:
    """Both halves of the paper's figure 1, of the classifier as it was finetuned, or of the first head."""
    variant, mem = classifier_of(found.rows), head_for(found.rows, "mem")
    plain, oracle = summarised(found.rows, "test"), summarised(found.rows, "test", ORACLE)
    third = None if mem in (None, variant) else (mem, plain[mem])
    return figures.halves(variant, found.confusion([variant])[variant], plain[variant], oracle[variant], third)


def _write_picture(path: Path, picture: figures.Picture) -> None:
    files.write_text(path.with_suffix(".svg"), picture.svg)
    with files.atomic(path.with_suffix(".png"), "wb") as file:
        file.write(picture.png)


def _facts(
    study: config.Study, manifest: Mapping[str, Any], records: Mapping[str, Mapping[str, Any]], found: StudyResults
) -> dict[str, str]:
    splits = manifest["splits"]
    seconds = sum(record["seconds"] for record in records.values())
    return {
        "classes": " / ".join(f"{n} {name}" for name, n in manifest["groups"].items()),
        "images (train / val / test)": " / ".join(f"{splits[s]['images']:,}" for s in ("train", "val", "test")),
        "thresholds": str(study.shots),
        "seeds": ", ".join(map(str, study.seeds)),
        "class orders": ", ".join(map(str, study.orders)),
        "best on val": best_on_val(found.rows),
        "compute, all runs": f"{seconds / 60:.1f} min",
    }


def _rest(study: config.Study, runs: Sequence[Run], records: Mapping[str, Mapping[str, Any]]) -> list[Table]:
    more = f" The first {LISTED} of {len(runs)}." if len(runs) > LISTED else ""
    return [
        Table(
            "Deviations from the paper",
            "Settings of this study that differ from what the paper states, and what was chosen where it is silent.",
            deviations(study),
            kind="words",
        ),
        Table(
            "Cost",
            "Wall-clock hours of all runs of a stage; images per second over all processes of a run, and the share of "
            "the time that training waited for data (medians over runs).",
            cost_by_stage(runs, records),
        ),
        Table("Cost of each run", f"Wall-clock time, speed, memory.{more}", cost_by_run(runs, records), folded=True),
    ]
