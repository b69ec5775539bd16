"""Export folders and the models in them.

export.json            architecture, classes, groups, image preparation, and the runs that the model is based on
backbone.safetensors   backbone weights
head.json, head.safetensors
program.pt2            complete model as a torch.export program, which requires only torch; accepts prepared images
mlflow/                complete model as an MLflow model; accepts images of any size

A folder can also contain the network in timm's form (see `mem.export.timm_folder`) and model.onnx (see
`mem.export.onnx_model`).
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import mem
from mem import config, files
from mem.errors import UserError
from mem.export.described_model import FORMAT, ExportedModel, build_model, check_format, describing
from mem.export.frozen_backbone import frozen_settings
from mem.export.lineage import Lineage, lineage
from mem.export.onnx_model import FILE as ONNX
from mem.export.other_forms import load_onnx, load_timm_folder
from mem.export.publish import ABOUT, MEM, PROGRAM, check_destination
from mem.export.timm_folder import CONFIG
from mem.heads.build import load_head
from mem.models.weights.tensors import load_weights, save_weights
from mem.runs.folder import read_record
from mem.runs.image_settings import finetuned_backbone, finetuned_classifier, normalisation_of
from mem.runs.keys import CROPS

__all__ = [
    "ABOUT",
    "FORMAT",
    "ONNX",
    "PROGRAM",
    "ExportedModel",
    "describe",
    "export_head",
    "is_export",
    "load_export",
    "open_model",
]

_COPIED = ("head.json", "head.safetensors")


def export_head(folder: Path, out: Path) -> ExportedModel:
    """Write a head and its backbone to a folder, without `program.pt2` and `mlflow/`.

    Args:
        folder: Run folder of a train_head or evaluate run.
        out: Output folder. An earlier export in this folder is replaced.

    Raises:
        UserError: `out` exists and is not an export, or a run is missing or unsuitable (see `lineage`).
    """
    runs = lineage(folder)
    check_destination(out, [MEM] if is_export(out) else [], [MEM], overwrite=True)
    about = describe(runs)
    out.mkdir(parents=True, exist_ok=True)
    (out / ABOUT).unlink(missing_ok=True)  # written last, so that an incomplete folder is not recognised as an export
    (out / PROGRAM).unlink(missing_ok=True)
    shutil.rmtree(out / "mlflow", ignore_errors=True)
    for name in _COPIED:
        shutil.copyfile(runs.head / name, out / name)
    if runs.updated_batch_norm or runs.frozen:
        key = about["made_of"]["features" if runs.frozen else "finetune"]
        save_weights(out / "backbone.safetensors", runs.backbone_weights(), {"key": key})
    else:
        shutil.copyfile(runs.backbone / "model.safetensors", out / "backbone.safetensors")
    files.write_text(out / ABOUT, json.dumps(about, indent=2, ensure_ascii=False) + "\n")
    return load_export(out)


def describe(runs: Lineage) -> dict[str, Any]:
    """Return the content of export.json for a head."""
    record = read_record(runs.head)
    features = read_record(runs.features)["settings"]
    mean, std = normalisation_of(features, runs.images)
    manifest = json.loads((runs.images / "dataset.json").read_text())
    backbone = frozen_settings(runs.features) if runs.frozen else finetuned_backbone(runs.backbone, features)
    parts = (("features", runs.features), ("finetune", runs.backbone), ("convert", runs.images))
    return {
        "format": FORMAT,
        "mem": mem.__version__,
        "dataset": record["dataset"],
        "labels": record["labels"],
        **({"transductive": True} if record["results"].get("transductive") else {}),
        **({} if runs.crops is None else {CROPS: runs.crops.model_dump()}),
        "key": record["key"],
        "made_of": {name: read_record(path)["key"] for name, path in parts if not (runs.frozen and name == "finetune")},
        "git": record["git"],
        "classes": manifest["classes"],
        "images": {
            "pixel_mean": mean,
            "pixel_std": std,
            "storage": manifest["kept"]["storage"],
            "jpeg_quality": manifest["kept"].get("jpeg_quality", 100),
            "short_side": manifest["kept"]["short_side"],
            "resample": manifest["kept"]["resample"],
        },
        "backbone": backbone.model_dump(mode="json"),
        **({"frozen": True} if runs.frozen else _classifier_settings(runs.backbone)),
    }


def _classifier_settings(finetune: Path) -> dict[str, Any]:
    """Return the settings of the classifiers and the tuner of a finetune run that are not the defaults."""
    found = finetuned_classifier(finetune)
    is_tuned = not isinstance(found.tuner, config.AllParameters)
    return {
        **({} if found.cosine_scale is None else {"cosine_scale": found.cosine_scale}),
        **({} if found.experts is None else {"experts": found.experts.model_dump(mode="json")}),
        **({"tuner": found.tuner.model_dump(mode="json")} if is_tuned else {}),
    }


def load_export(folder: Path) -> ExportedModel:
    """Load the model from an exported folder.

    Raises:
        UserError: The folder is not an export, has a different format, or a file is missing or damaged.
    """
    with describing(folder / ABOUT):
        try:
            about = _read_about(folder / ABOUT)
        except FileNotFoundError:
            raise UserError(f"{folder}: not an exported model (it has no {ABOUT}). `mem export` writes one.") from None
        check_format(about, folder)
        return build_model(about, load_weights(folder / "backbone.safetensors"), load_head(folder))


def is_export(folder: Path) -> bool:
    """Return whether a folder contains an export.json that mem wrote, in any version of the format."""
    try:
        about = _read_about(folder / ABOUT)
    except (OSError, ValueError, RecursionError):
        return False
    return {"format", "mem"} <= about.keys()


def _read_about(path: Path) -> dict[str, Any]:
    """Return the content of an export.json. A class name that is not valid UTF-8 is read as `export_head` wrote it.

    Raises:
        ValueError: The file is not JSON, or not a mapping with a list of class names.
    """
    about = json.loads(path.read_text(encoding="utf-8", errors="surrogateescape"))
    if not isinstance(about, dict):
        raise ValueError("expected a mapping")
    classes = about.get("classes")
    if about.get("format") == FORMAT and not (
        isinstance(classes, list) and all(isinstance(name, str) for name in classes)
    ):
        raise ValueError("`classes` is not a list of class names")
    return about


def open_model(path: Path) -> ExportedModel:
    """Load a model from an exported folder, an MLflow model, an ONNX model, or the run folder of a head.

    A folder may contain several formats. Then the first of these is loaded: mem's, timm's, ONNX.

    Raises:
        UserError: The path is none of these.
    """
    if (path / ABOUT).is_file():
        return load_export(path)
    if (path / "MLmodel").is_file() and (inner := next(path.glob(f"data/*/{ABOUT}"), None)):
        return load_export(inner.parent)
    if path.suffix == ".onnx" and path.is_file():
        return load_onnx(path)
    if (path / CONFIG).is_file():
        return load_timm_folder(path)
    if (path / ONNX).is_file():
        return load_onnx(path / ONNX)
    if not path.is_dir():
        raise UserError(
            f"{path}: no such folder. Pass the run folder of a head, an exported folder, or models:/NAME@ALIAS."
        )
    if (path / "run.json").is_file():
        runs = lineage(path)
        return build_model(describe(runs), runs.backbone_weights(), load_head(runs.head))
    raise UserError(
        f"{path}: neither the run folder of a finished head (it has no run.json) nor an exported folder (it has no "
        f"{ABOUT}). Pass one of these."
    )
