"""The HTML page of a report."""

from __future__ import annotations

import pytest
from markupsafe import Markup

from mem.report.page import (
    LONG_TABLE_LINES,
    Answer,
    CaptionedTable,
    Page,
    Section,
    breakable,
    interval_html,
    nonbreaking,
    table_page,
)
from mem.report.table_formats import latex_table

ANSWER = Answer([Markup("<strong>a</strong> & b")], [], "")


def page_of(*sections: Section, answer: Answer = ANSWER) -> Page:
    return Page(
        title="digits",
        study_name="digits_lt",
        description="",
        answer=answer,
        facts={"date": "2026-01-02"},
        sections=sections,
        provenance={},
        runs=[["stage"]],
        study="",
    )


def test_a_folded_table_shows_its_title_and_hides_its_cells_until_clicked():
    page = table_page(CaptionedTable("Cost", "Time per stage.", [["stage", "time"], ["convert", "<1"]], folded=True))
    assert "<details><summary>Cost</summary>" in page
    assert "<td>&lt;1</td>" in page
    assert '<th scope="col">stage</th><th scope="col">time</th>' in page


def test_the_table_of_contents_links_to_every_section_with_content():
    table = CaptionedTable("Scores", "", [["method"], ["ce"]])
    html = page_of(
        Section("scores", "Scores", "Text.", [table]),
        Section("nothing", "Nothing", "Text.", []),
        Section("worst", "Worst <classes>", "", [table]),
    ).html()
    contents = html.partition("<nav")[2].partition("</nav>")[0]
    assert [line.partition('"')[2].partition("</a>")[0] for line in contents.splitlines() if "href" in line] == [
        '#top">Answer',
        '#scores">Scores',
        '#worst">Worst &lt;classes&gt;',
        '#provenance">Provenance',
    ]
    assert "Nothing" not in html
    # The title of a section is not repeated above its first element.
    assert html.count("Scores</h2>") == 1
    assert html.count("Scores</h3>") == 1  # in the section `worst`
    assert "mem track ui digits_lt" in html


def test_two_sections_with_the_same_anchor_are_refused():
    table = CaptionedTable("Scores", "", [["method"]])
    with pytest.raises(ValueError, match="unique"):
        page_of(Section("a", "A", "", [table]), Section("a", "B", "", [table])).html()


def test_a_long_table_gets_its_own_scroll_bar():
    lines = [["method"], *[["ce"]] * LONG_TABLE_LINES]
    assert '<div class="scroll long">' in table_page(CaptionedTable("", "", lines))
    assert '<div class="scroll">' in table_page(CaptionedTable("", "", lines[:-1]))


def test_cells_wrap_before_an_interval_and_not_before_a_unit():
    space = "\N{NO-BREAK SPACE}"
    cells = ["90.94 ± 1.30", "−2.67 (−5.64 to −0.57)", "1.2 %", "0.93 GB", "14 min", "2.2 s", "3.1 h", "ours, 3 runs"]
    assert [nonbreaking(cell) for cell in cells] == [
        f"90.94 ±{space}1.30",
        f"−2.67 (−5.64{space}to{space}−0.57)",
        f"1.2{space}%",
        f"0.93{space}GB",
        f"14{space}min",
        f"2.2{space}s",
        f"3.1{space}h",
        "ours, 3 runs",
    ]


@pytest.mark.parametrize(
    "interval",
    ["±\N{NO-BREAK SPACE}1.30", "[94.6–97.8]", "(SE 0.57)", "(+0.1\N{NO-BREAK SPACE}to\N{NO-BREAK SPACE}+2.0)"],
)
def test_intervals_are_smaller_than_their_number(interval):
    assert interval_html(f"90.94 {interval}") == f'<span class="number">90.94</span> <small>{interval}</small>'


@pytest.mark.parametrize("cell", ["96.4", "10 (table 5)", "mem (transductive)", "<0.001"])
def test_other_cells_stay_as_they_are(cell):
    assert interval_html(cell) == cell.replace("<", "&lt;")


def test_long_names_may_wrap_after_dots_and_underscores():
    assert breakable("mem_on_crt") == "mem_on_crt"
    assert breakable("mem.free.xi_is_20") == "mem.<wbr>free.<wbr>xi_<wbr>is_<wbr>20"
    assert breakable("a<b>_and_a_long_name") == "a&lt;b&gt;_<wbr>and_<wbr>a_<wbr>long_<wbr>name"


def test_emphasised_cells_are_marked_on_the_page_and_in_latex():
    table = CaptionedTable(
        "Accuracy",
        "In percent.",
        [["method", "all"], ["mem_1", "96.60 ± 0.40"], ["ce", "96.40 ± 0.50"], ["tau", "90.00 ± 0.10"]],
        emphasis={(1, 1): "best", (2, 1): "near"},
    )
    page = table_page(table)
    assert '<td class="best"><span class="number">96.60</span>' in page
    assert '<td class="near"><span class="number">96.40</span>' in page
    assert '<td><span class="number">90.00</span>' in page
    assert table.latex.splitlines() == [
        r"\begin{table}",
        r"  \centering",
        r"  \caption{Accuracy. In percent.}",
        r"  \begin{tabular}{lr}",
        r"    \toprule",
        r"    method & all \\",
        r"    \midrule",
        r"    mem\_1 & \textbf{96.60} $\pm$ 0.40 \\",
        r"    ce & \underline{96.40} $\pm$ 0.50 \\",
        r"    tau & 90.00 $\pm$ 0.10 \\",
        r"    \bottomrule",
        r"  \end{tabular}",
        r"\end{table}",
    ]


def test_special_characters_are_escaped_in_latex():
    latex = latex_table([["a & b", "50 %"], [r"x_1 {y} #2 $3 \z ~^", "−1 <2 >3 → 4"]], "100 %")
    assert r"\caption{100 \%}" in latex
    assert r"    a \& b & 50 \% \\" in latex
    first = r"x\_1 \{y\} \#2 \$3 \textbackslash{}z \textasciitilde{}\textasciicircum{}"
    assert rf"    {first} & $-$1 $<$2 $>$3 $\rightarrow$ 4 \\" in latex
