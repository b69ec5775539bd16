"""The classifier as a torch.export program: one file that runs with torch alone, whatever the batch."""

from __future__ import annotations

from pathlib import Path

import torch

from mem.errors import UserError
from mem.export.folder import PROGRAM, Exported


def write_program(exported: Exported, folder: Path) -> Path:
    """Write `program.pt2`: uint8 (samples, side, side, 3) in, a dictionary as of `ImageClassifier.forward` out.

    Raises:
        UserError: torch.export cannot trace the network.
    """
    path = folder / PROGRAM
    # Two images: a batch of one would be taken for a constant.
    example = torch.zeros(2, exported.side, exported.side, 3, dtype=torch.uint8)
    try:
        program = torch.export.export(
            exported.classifier, (example,), dynamic_shapes=({0: torch.export.Dim("samples", min=1)},)
        )
    except Exception as error:  # torch.export fails in many ways, all of which come from the network's code
        raise UserError(
            f"{folder}: torch.export cannot trace this network: {' '.join(str(error).split())[:400]}\n"
            "The folder is complete without the program: give --no-program."
        ) from None
    partial = path.with_name(f".{PROGRAM}.tmp.pt2")
    torch.export.save(program, partial)
    partial.replace(path)
    return path
