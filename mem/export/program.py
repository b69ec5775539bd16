"""Write the classifier as a torch.export program: one file that requires only torch and accepts any batch size."""

from __future__ import annotations

from pathlib import Path

import torch

from mem.errors import UserError
from mem.export.classifier import ImageClassifier
from mem.export.described_model import ExportedModel
from mem.export.publish import PROGRAM


def write_program(model: ExportedModel, folder: Path) -> Path:
    """Write `program.pt2`.

    The program's input is a uint8 tensor (samples, side, side, 3). The output is the dictionary that
    `ImageClassifier.forward` returns.

    Raises:
        UserError: torch.export cannot trace the network.
    """
    path = folder / PROGRAM
    assert isinstance(model.classifier, ImageClassifier)
    # Trace with two images, because torch.export would treat a batch size of one as a constant.
    example = torch.zeros(2, model.side, model.side, 3, dtype=torch.uint8)
    try:
        program = torch.export.export(
            model.classifier, (example,), dynamic_shapes=({0: torch.export.Dim("samples", min=1)},)
        )
    except Exception as error:  # torch.export raises many types of exceptions, all caused by the network's code
        raise UserError(
            f"torch.export cannot trace this network: {' '.join(str(error).split())[:400]}\n"
            "The other files of the folder are complete. Pass --no-program to omit the program."
        ) from None
    partial = path.with_name(f".{PROGRAM}.tmp.pt2")
    torch.export.save(program, partial)
    partial.replace(path)
    return path
