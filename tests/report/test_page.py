"""The HTML page of a report."""

from __future__ import annotations

from mem.report.page import CaptionedTable, nonbreaking, table_page


def test_a_folded_table_shows_its_title_and_hides_its_cells_until_clicked():
    page = table_page(CaptionedTable("Cost", "Hours per stage.", [["stage", "hours"], ["convert", "<1"]], folded=True))
    assert "<details><summary>Cost</summary>" in page
    assert "<td>&lt;1</td>" in page


def test_cells_wrap_before_an_interval_and_not_before_a_unit():
    space = "\N{NO-BREAK SPACE}"
    cells = ["90.94 ± 1.30", "−2.67 (−5.64 to −0.57)", "1.2 %", "0.93 GB", "ours, 3 runs"]
    assert [nonbreaking(cell) for cell in cells] == [
        f"90.94 ±{space}1.30",
        f"−2.67 (−5.64{space}to{space}−0.57)",
        f"1.2{space}%",
        f"0.93{space}GB",
        "ours, 3 runs",
    ]
