"""The content of a study's report page: its sections in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import yaml

from mem import config
from mem.local_paths import without_folders
from mem.report.agreement import disagreement_text
from mem.report.answer import answer
from mem.report.captions import calibration_of_sigmoids
from mem.report.chosen_methods import chosen_methods
from mem.report.class_accuracy import class_scores
from mem.report.class_sections import class_sections
from mem.report.collect import StudyResults
from mem.report.cost import MAX_LISTED_RUNS, cost_by_run, cost_by_stage, provenance, runs_table
from mem.report.crop_marks import crops_mark
from mem.report.deviations import ranked_deviations
from mem.report.facts import key_facts
from mem.report.figure_set import FIGURE_SECTIONS, build_figures
from mem.report.group_errors import group_error_table
from mem.report.group_naming import group_naming_tables
from mem.report.marked_tables import marked_table
from mem.report.page import CaptionedTable, Page, Section
from mem.report.paper_format import PaperTable
from mem.report.reconstructions import reconstruction_images
from mem.report.tables import accuracy_tables, difference_tables, other_score_tables, shot_group_tables
from mem.report.training_curves import training_curves
from mem.report.transductive import transductive_heads
from mem.runs.dag import Run, data_run


@dataclass(frozen=True)
class StudyRuns:
    """The finished runs of a study."""

    runs: Sequence[Run]
    """All runs except the report."""
    records: Mapping[str, Mapping[str, Any]]
    """Content of `run.json` by run key, with the time of all attempts as `seconds`."""

    @property
    def manifest(self) -> Mapping[str, Any]:
        """Recorded results of the convert run."""
        return self.records[data_run(self.runs).key]["results"]


def study_page(
    study: config.Study,
    finished: StudyRuns,
    results: StudyResults,
    paper_tables: Sequence[PaperTable],
    figure_tables: Sequence[PaperTable],
) -> Page:
    """Return the report page of a study.

    Args:
        study: The study.
        finished: Its runs.
        results: Scores of all heads.
        paper_tables: The paper's tables.
        figure_tables: The numbers of the paper's figures.
    """
    runs, records, manifest = finished.runs, finished.records, finished.manifest
    figures = build_figures(study, runs, manifest, results)
    figures_of = {
        section: [figure for figure in figures if FIGURE_SECTIONS[figure.name] == section]
        for section in FIGURE_SECTIONS.values()
    }

    def marked(tables: Sequence[CaptionedTable]) -> list[CaptionedTable]:
        transductive, mark = transductive_heads(results.rows), crops_mark(results.rows)
        return [replace(marked_table(table, transductive), title=table.title + mark) for table in tables]

    chosen = chosen_methods(results.rows)
    shot_tables = [group_error_table(results), *shot_group_tables(results), *group_naming_tables(study, results)]
    return Page(
        title=f"{study.study}: {study.backbone.name} on {study.dataset.name}",
        study_name=study.study,
        description=study.description.strip(),
        answer=answer(results),
        facts=key_facts(study, runs, records) | _disagreement(results),
        sections=[
            Section("accuracy", "Accuracy", "", [*marked(accuracy_tables(results)), *figures_of["accuracy"]]),
            Section("differences", "Differences between methods", "", marked(difference_tables(results))),
            deviations_section(study),
            *class_sections(class_scores(study, manifest, results), chosen, runs, manifest, results),
            Section("shot-groups", "Shot groups", "", [*figures_of["shot-groups"], *marked(shot_tables)]),
            Section("ablations", "One setting at a time", "", figures_of["ablations"]),
            Section(
                "other-scores",
                "Other scores",
                "",
                marked(other_score_tables(results, calibration_of_sigmoids(study))),
            ),
            Section(
                "training",
                "Training",
                "",
                [*figures_of["training"], *training_curves(runs, chosen), *reconstruction_images(runs)],
            ),
            _paper(paper_tables, figure_tables),
            _cost(study, finished),
        ],
        provenance=provenance(records.values()),
        runs=runs_table(runs)[: MAX_LISTED_RUNS + 1],
        study=study_text(study),
    )


def study_text(study: config.Study) -> str:
    """Return the study as YAML, without the folders of absolute paths."""
    return yaml.safe_dump(without_folders(study.model_dump(mode="json")), sort_keys=False, allow_unicode=True)


def _disagreement(results: StudyResults) -> dict[str, str]:
    """Return the warning about a disagreement between val and test as a fact; nothing if there is none."""
    text = disagreement_text(results.rows)
    return {"val and test": text} if text else {}


def captioned(kind: str, table: PaperTable, folded: bool = False) -> CaptionedTable:
    """Return one of the paper's tables or figures (`kind`) with its number in the title."""
    return CaptionedTable(f"{kind} {table.number}: {table.title}", table.caption, table.lines, folded)


def _paper(paper_tables: Sequence[PaperTable], figure_tables: Sequence[PaperTable]) -> Section:
    """Return the section of the paper's tables and figures. Tables with the same lines are shown once.

    On a dataset that is not in the paper, tables 2 to 4 have the same lines.
    """
    equal: dict[tuple[tuple[str, ...], ...], list[PaperTable]] = {}
    for table in paper_tables:
        equal.setdefault(tuple(map(tuple, table.lines)), []).append(table)
    shown: list[CaptionedTable] = []
    for tables in equal.values():
        table = captioned("Table", tables[0], folded=True)
        if len(tables) > 1:
            numbers = [str(each.number) for each in tables]
            title = f"Tables {', '.join(numbers[:-1])} and {numbers[-1]}: {tables[0].title.partition(' (in the')[0]}"
            table = replace(table, title=title)
        shown.append(table)
    intro = "Results of this study next to the paper's numbers, for the paper's tables and the values of its figures."
    shown += [captioned("Figure", table, folded=True) for table in figure_tables]
    return Section("paper", "Tables and figures of the paper", intro, shown)


def deviations_section(study: config.Study) -> Section:
    """Return the section about differences from the paper, with a second table if the paper leaves settings open."""
    differing, unstated = ranked_deviations(study)
    number = len(differing) - 1
    intro = (
        f"{number} setting{'s' * (number != 1)} of this study differ{'s' * (number == 1)} from the paper, the most "
        "important first."
    )
    tables = [CaptionedTable("Deviations from the paper", "", differing, css_class="text compact")]
    if open_settings := len(unstated) - 1:
        intro += f" The paper leaves {open_settings} further setting{'s' * (open_settings > 1)} open."
        title = "Settings that the paper does not state"
        caption = "The values that this study uses."
        tables.append(CaptionedTable(title, caption, unstated, folded=True, css_class="text compact"))
    return Section("deviations", "What was different from the paper", intro, tables)


def _cost(study: config.Study, finished: StudyRuns) -> Section:
    runs, records = finished.runs, finished.records
    several = bool(study.finetune_variants)
    ratio = (
        " The column `time / finetune` has the mean time of a finetune run, divided by that of the section `finetune`. "
        "It also contains differences in the number of epochs and in the load of the machines."
    ) * several
    limit = f" The first {MAX_LISTED_RUNS} of {len(runs)} runs." if len(runs) > MAX_LISTED_RUNS else ""
    return Section(
        "cost",
        "Cost",
        "",
        [
            CaptionedTable(
                "Cost of each stage",
                f"For each stage{' and finetuning' * several}: time of all attempts of all runs, images per second of "
                "all processes of a run, and the share of the time that training waited for data (medians over runs, "
                "measured in the last attempt). GPU time is the time multiplied by the number of GPUs. An attempt that "
                f"was killed counts until its last log message.{ratio}",
                cost_by_stage(runs, records),
            ),
            CaptionedTable(
                "Cost of each run",
                f"Time of all attempts, speed and memory.{limit}",
                cost_by_run(runs, records),
                folded=True,
            ),
        ],
    )
