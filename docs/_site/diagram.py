"""Draw the diagram of the stages, `docs/images/workflow.svg`.

`make tables` runs this script. The text consists of characters and not of paths, so that it can be searched and read
aloud.
"""

from __future__ import annotations

from html import escape
from pathlib import Path

from mem.style import SERIES

DIAGRAM = Path(__file__).parents[1] / "images" / "workflow.svg"
WIDTH, HEIGHT = 460, 424
BLUE, ORANGE, GREEN = SERIES[0], SERIES[1], SERIES[2]
TITLE = (
    "The stages of a study: images, convert, pretrain, finetune, features, train_head, evaluate, report. "
    "Each stage is one Snakemake rule, one command and one kind of run folder."
)
STYLE = """
    text { font: 15px system-ui, "DejaVu Sans", sans-serif; fill: #1b1b1b; text-anchor: middle }
    .stage { font-weight: 600; fill: #ffffff }
    .note { font-size: 13px; fill: #4d4d4d; text-anchor: start }
    .box { fill: #ffffff; stroke: #8a8a8a }
    .arrow { stroke: #4d4d4d; stroke-width: 1.6; fill: none; marker-end: url(#head) }
"""

Box = tuple[int, int, int, int]
"""Left, top, width and height in pixels."""


def file_box(box: Box, text: str) -> str:
    """Return a box for files that a user provides or reads."""
    return _box(box, text, 'class="box" rx="14"', "")


def stage_box(box: Box, text: str, colour: str) -> str:
    """Return a box for a stage."""
    return _box(box, text, f'fill="{colour}" rx="4"', ' class="stage"')


def _box(box: Box, text: str, attributes: str, text_attributes: str) -> str:
    left, top, width, height = box
    rectangle = f'<rect x="{left}" y="{top}" width="{width}" height="{height}" {attributes}/>'
    middle = f'x="{left + width // 2}" y="{top + height // 2 + 5}"'
    return f"{rectangle}<text {middle}{text_attributes}>{escape(text)}</text>"


def arrow(*points: tuple[int, int]) -> str:
    """Return an arrow along the points."""
    path = " L".join(f"{x} {y}" for x, y in points)
    return f'<path class="arrow" d="M{path}"/>'


def note(x: int, y: int, text: str) -> str:
    """Return a line of small text that starts at (x, y)."""
    return f'<text class="note" x="{x}" y="{y}">{escape(text)}</text>'


def diagram() -> str:
    """Return the diagram as SVG."""
    parts = [
        file_box((16, 16, 112, 36), "images"),
        stage_box((16, 80, 112, 36), "convert", BLUE),
        stage_box((16, 144, 112, 36), "pretrain", BLUE),
        stage_box((16, 208, 112, 36), "finetune", BLUE),
        stage_box((16, 272, 112, 36), "features", BLUE),
        stage_box((16, 336, 112, 36), "train_head", ORANGE),
        stage_box((174, 336, 112, 36), "evaluate", ORANGE),
        stage_box((332, 336, 112, 36), "report", GREEN),
        *[arrow((72, top), (72, top + 26)) for top in (52, 116, 180, 244, 308)],
        arrow((128, 354), (172, 354)),
        arrow((286, 354), (330, 354)),
        note(142, 103, "once per dataset: one .beton file per split"),
        note(142, 167, "masked autoencoder, without labels (optional)"),
        note(142, 231, "the complete network, with labels (optional)"),
        note(142, 295, "of every image, computed once and stored"),
        note(16, 394, "CE, τ, cRT, LWS,"),
        note(16, 412, "MEM, and others"),
        note(174, 394, "scores by"),
        note(174, 412, "shot group"),
        note(332, 394, "tables, figures,"),
        note(332, 412, "MLflow"),
    ]
    body = "\n  ".join(parts)
    size = f'viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
    return f"""<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">
  <title>{TITLE}</title>
  <style>{STYLE}  </style>
  <defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto"><path \
d="M0 0 L8 4 L0 8 z" fill="#4d4d4d"/></marker></defs>
  <rect width="{WIDTH}" height="{HEIGHT}" rx="8" fill="#f7f7f7"/>
  {body}
</svg>
"""


if __name__ == "__main__":
    DIAGRAM.write_text(diagram(), encoding="utf-8")
