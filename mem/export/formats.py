"""The command `mem export`: a head and its backbone in one or several formats."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from mem import files
from mem.errors import UserError
from mem.export.classifier import ImageClassifier
from mem.export.described_model import backbone_settings
from mem.export.exported_model import ExportedModel, export_head, is_export, open_model
from mem.export.lineage import Lineage, lineage
from mem.export.model_card import model_card
from mem.export.model_facts import facts_of
from mem.export.onnx_model import FILE as ONNX_FILE
from mem.export.onnx_model import is_onnx_of_mem, require_onnx, write_onnx
from mem.export.program import write_program
from mem.export.publish import MEM, MLFLOW, ONNX, TIMM, check_destination, published
from mem.export.served import example_input, output_columns
from mem.export.timm_equivalent import timm_equivalent
from mem.export.timm_folder import CARD, read_timm_about, timm_config, write_timm_folder

SERVED_PACKAGES = ("torch", "timm", "numpy", "pandas", "opencv-python", "pillow", "safetensors", "pydantic")
"""Packages on which the predictions or the interface of a served model depend."""


class ExportOptions(NamedTuple):
    """What `mem export` writes."""

    formats: Sequence[str] = (MEM,)
    program: bool = True
    """Whether the format `mem` contains a torch.export program."""
    mlflow: bool = True
    """Whether the format `mem` contains an MLflow model."""
    licence: str | None = None
    """Licence of the weights in timm's form, as an identifier of the Hugging Face Hub, for example `cc-by-nc-4.0`. None
    means that of the initial weights, if it is known."""
    overwrite: bool = False
    """Whether an earlier export is replaced. An export of the format `mem` alone always replaces an earlier one."""


def export(run: Path, out: Path, options: ExportOptions = ExportOptions()) -> None:  # noqa: B008  immutable
    """Write a head and its backbone to a folder, completely or not at all.

    Raises:
        UserError: The run cannot be exported, a format cannot express the head, or the folder may not be written. If
            only the torch program cannot be written, the folder contains the other files.
    """
    if options.licence is not None and TIMM not in options.formats:
        raise UserError("--license: applies only to the format timm. Leave it out, or add --format timm.")
    runs = lineage(run)
    if TIMM in options.formats and runs.crops is not None:
        raise UserError(
            f"{run}: this evaluation averages logits over {runs.crops}, which timm's form cannot express. Export the "
            "head itself, which then classifies one central crop, or use --format mem or onnx."
        )
    earlier = _earlier_formats(out)
    is_mem = tuple(options.formats) == (MEM,)
    check_destination(out, earlier, options.formats, overwrite=options.overwrite or is_mem)
    if ONNX in options.formats:
        require_onnx()
    failure: UserError | None = None
    with published(out, earlier) as stage:
        model = export_head(run, stage) if MEM in options.formats else open_model(run)
        assert isinstance(model.classifier, ImageClassifier)
        if MEM in options.formats and options.mlflow:
            write_mlflow(model, stage, stage / MLFLOW)
        if TIMM in options.formats:
            _write_timm(model, runs, stage, options.licence)
        if ONNX in options.formats:
            write_onnx(model.classifier, model.about, model.groups, stage / ONNX_FILE)
        if MEM in options.formats and options.program:
            try:
                write_program(model, stage)
            except UserError as error:
                failure = error
    if failure is not None:
        raise failure


def _earlier_formats(out: Path) -> list[str]:
    """Return the formats of the export in a folder. Files that mem did not write, or that are damaged, are none."""
    found = [MEM] if is_export(out) else []
    with suppress(OSError, ValueError, RecursionError):
        found += [TIMM] if read_timm_about(out) is not None else []
    return [*found, ONNX] if is_onnx_of_mem(out / ONNX_FILE) else found


def _write_timm(model: ExportedModel, runs: Lineage, folder: Path, licence: str | None) -> None:
    assert isinstance(model.classifier, ImageClassifier)
    equivalent = timm_equivalent(model.classifier, backbone_settings(model.about))
    facts = facts_of(runs, model.about)
    configuration = timm_config(equivalent, model.about, licence or facts.licence)
    write_timm_folder(folder, equivalent, configuration, model.classifier)
    files.write_text(folder / CARD, model_card(facts, configuration))


def write_mlflow(model: ExportedModel, folder: Path, out: Path) -> None:
    """Write an exported folder as an MLflow model."""
    from mem.tracking.mlflow_models import ModelInterface, write_model

    names = ("dataset", "labels", "key", "mem", "transductive", "crops")
    about = {name: model.about[name] for name in names if name in model.about}
    interface = ModelInterface(output_columns(model), example_input())
    write_model(folder, out, _served_requirements(), about, interface)


def _served_requirements() -> list[str]:
    """Return the installed versions of the packages that a served model uses, as pip requirements.

    mem itself is not part of the list, because it is not published in a package index: a user would install another
    package that somebody publishes under its name. The model's metadata contain the version of mem.
    """
    found: list[str] = []
    for name in SERVED_PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            public_version, _, _ = metadata.version(name).partition("+")  # `+cpu` exists in no package index
            found.append(f"{name}=={public_version}")
    return found
