"""Every figure of accuracy in the text of a page is what its source says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mem.metrics import Interval
from tests.conftest import REPOSITORY
from tests.docs.figures import OTHERWISE, Bare, complaints
from tests.docs.sources import PAGES, vocabulary
from tests.docs.tables import lines_that_the_dag_wrote

SPEED = REPOSITORY / "docs" / "performance"
RESULTS = REPOSITORY / "docs" / "results"
IN_TEXT: Bare = "in sentences about accuracy"
KNOWN = {"gain": Interval(1.234, 0.56), "loss": Interval(-0.051, 0.314), "share": 73.449}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(REPOSITORY)))
def test_figures_in_the_text_are_what_the_dag_wrote_or_the_paper_says(page: Path):
    known = lines_that_the_dag_wrote()
    text = "\n".join("" if line in known else line for line in page.read_text().splitlines())
    bare: Bare = (
        "all"
        if page.parent == RESULTS
        # Decimals there are times and ratios.
        else "none"
        if page.parent == SPEED
        else IN_TEXT
    )
    found = complaints(text, vocabulary(page), bare=bare)
    assert not found, "\n".join(f"{page.relative_to(REPOSITORY)}, {complaint}" for complaint in found)


def test_what_is_named_as_no_accuracy_still_stands_on_a_page():
    pages = "\n".join(page.read_text() for page in PAGES)
    assert [phrase for phrase in OTHERWISE if not re.search(phrase, pages)] == []


@pytest.mark.parametrize(
    "text",
    [
        "It gains +1.23 ± 0.56 points. <!-- figures: gain -->",
        "It gains 1.2 ± 0.6 points,\nand ends at 73.4 %. <!-- figures:\ngain\nshare -->",
        "- It is level: −0.05 ± 0.31. <!-- figures: loss -->\n- No figure here.",
        "It gains about one point. <!-- figures: gain -->",
        "It ends at least eleven points above. <!-- figures: 11.4 -->",
        "Fifteen to twenty points are gained. <!-- figures:\n14.9\n20.2 -->",
        "One to two points are gained. <!-- figures:\nmin(gain.mean, 7)\nround(gain.mean + 1) -->",
        "Its 95 % interval, in version 2.14.1 of 0.25 GB, and `0.01` is a setting.",
        "| a source | 73.45% |<!-- figures: share -->",
    ],
)
def test_a_figure_with_its_source_is_accepted(text: str):
    assert complaints(text, KNOWN | {"min": min, "round": round}, bare="all") == []


@pytest.mark.parametrize(
    "text",
    [
        "It gains +1.24 ± 0.56 points. <!-- figures: gain -->",
        "It gains +1.23 ± 0.57 points. <!-- figures: gain -->",
        "It gains −1.23 ± 0.56 points. <!-- figures: gain -->",
        "It gains 0.05 points. <!-- figures: loss -->",
        "It loses +0.05 points. <!-- figures: loss -->",
        "It gains about three points. <!-- figures: gain -->",
        "It ends at 73.4 ± 0.1 %. <!-- figures: share -->",
        "It ends at 73.4 %.",
        "It ends at 73%.",
        "It ends at 73 percent.",
        "It gains +1.23.",
        "It gains half a point.",
        "It gains seven points.",
        "It loses eight to twelve points.",
        "It ends at thirty percent.",
        "On test MEM has 73.4.",
        "No figure here. <!-- figures: gain -->",
        "First 73.4 %.\n\nThen nothing. <!-- figures: share -->",
        "| ours | 73.4 % |",
    ],
)
def test_a_figure_without_a_source_or_unlike_it_is_found(text: str):
    assert len(complaints(text, KNOWN, bare=IN_TEXT)) >= 1


def test_a_complaint_names_the_line_and_the_number():
    (complaint,) = complaints("A title\n\nFirst line,\nthen 73.4 % of all.\n", KNOWN, bare=IN_TEXT)
    assert "'73.4' (line 4)" in complaint
    (complaint,) = complaints("First line,\nthen 73.5 %. <!-- figures: share -->\n", KNOWN, bare=IN_TEXT)
    assert complaint == "line 2: says '73.5', but the source says +73.4490, which is share"


def test_an_expression_that_cannot_be_computed_is_named():
    with pytest.raises(NameError) as caught:
        complaints("It gains 1.2 %. <!-- figures: gains -->", KNOWN, bare=IN_TEXT)
    assert "'1.2' comes from 'gains'" in caught.value.__notes__[0]
