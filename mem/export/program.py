"""The classifier as a torch.export program: one file that needs only torch and takes any batch size."""

from __future__ import annotations

from pathlib import Path

import torch

from mem.errors import UserError
from mem.export.folder import PROGRAM, ExportedModel


def write_program(model: ExportedModel, folder: Path) -> Path:
    """Write `program.pt2`.

    Its input is uint8 (samples, side, side, 3), its output the dictionary of `ImageClassifier.forward`.

    Raises:
        UserError: torch.export cannot trace the network.
    """
    path = folder / PROGRAM
    # Two images, because torch.export would treat a batch size of one as a constant.
    example = torch.zeros(2, model.side, model.side, 3, dtype=torch.uint8)
    try:
        program = torch.export.export(
            model.classifier, (example,), dynamic_shapes=({0: torch.export.Dim("samples", min=1)},)
        )
    except Exception as error:  # torch.export raises many types of exceptions, all caused by the network's code
        raise UserError(
            f"{folder}: torch.export cannot trace this network: {' '.join(str(error).split())[:400]}\n"
            "The other files of the folder are complete. Pass --no-program to omit the program."
        ) from None
    partial = path.with_name(f".{PROGRAM}.tmp.pt2")
    torch.export.save(program, partial)
    partial.replace(path)
    return path
