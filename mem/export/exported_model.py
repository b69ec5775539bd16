"""Export folders and the models in them.

export.json            architecture, classes, groups, image preparation, and the runs that the model is based on
backbone.safetensors   backbone weights
head.json, head.safetensors
program.pt2            complete model as a torch.export program, which requires only torch; accepts prepared images
mlflow/                complete model as an MLflow model; accepts images of any size
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

import mem
from mem import config, files
from mem.data.beton.encoding import Encoding
from mem.errors import UserError
from mem.export.classifier import ImageClassifier
from mem.export.lineage import Lineage, lineage
from mem.heads.build import load_head
from mem.heads.mem.head import MemHead
from mem.longtail import SHOT_NAMES
from mem.models.backbones import build
from mem.models.pixels import Pixels
from mem.models.weights.tensors import load_into, load_weights
from mem.runs.folder import read_record
from mem.runs.image_settings import finetuned_backbone, normalisation_of

FORMAT = 1
"""Version of the folder format. Increase it when the meaning of a file changes."""
ABOUT = "export.json"
PROGRAM = "program.pt2"
_COPIED = ("head.json", "head.safetensors")


@dataclass(frozen=True)
class ExportedModel:
    """An image classifier with its class and group names and its image preparation."""

    classifier: ImageClassifier
    classes: tuple[str, ...]
    groups: tuple[str, ...]
    """Names of MEM's groups; empty for other heads."""
    encoding: Encoding
    """Format in which the dataset stores images."""
    side: int
    """Height and width of the classifier's input, in pixels."""
    center_crop: float
    about: dict[str, Any]
    """Content of export.json."""


def export_head(folder: Path, out: Path) -> ExportedModel:
    """Write a head and its backbone to a folder, without `program.pt2` and `mlflow/`.

    Args:
        folder: Run folder of a train_head run.
        out: Output folder. An earlier export in this folder is replaced.

    Raises:
        UserError: `out` exists and is not an export, or a run is missing or unsuitable (see `lineage`).
    """
    runs = lineage(folder)
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / ABOUT).is_file())):
        raise UserError(f"{out}: this path already exists and is not an export. Choose another folder.")
    about = _about(runs)
    out.mkdir(parents=True, exist_ok=True)
    (out / ABOUT).unlink(missing_ok=True)  # written last, so that an incomplete folder is not recognised as an export
    (out / PROGRAM).unlink(missing_ok=True)
    shutil.rmtree(out / "mlflow", ignore_errors=True)
    for name in _COPIED:
        shutil.copyfile(folder / name, out / name)
    shutil.copyfile(runs.backbone / "model.safetensors", out / "backbone.safetensors")
    files.write_text(out / ABOUT, json.dumps(about, indent=2, ensure_ascii=False) + "\n")
    return load_export(out)


def _about(runs: Lineage) -> dict[str, Any]:
    record = read_record(runs.head)
    features = read_record(runs.features)["settings"]
    mean, std = normalisation_of(features, runs.images)
    manifest = json.loads((runs.images / "dataset.json").read_text())
    backbone = finetuned_backbone(runs.backbone, features)
    return {
        "format": FORMAT,
        "mem": mem.__version__,
        "dataset": record["dataset"],
        "labels": record["labels"],
        "key": record["key"],
        "made_of": {
            name: read_record(path)["key"]
            for name, path in (
                ("features", runs.features),
                ("finetune", runs.backbone),
                ("convert", runs.images),
            )
        },
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
    }


def load_export(folder: Path) -> ExportedModel:
    """Load the model from an exported folder.

    Raises:
        UserError: The folder is not an export, has a different format, or a file is missing or damaged.
    """
    try:
        about = _read_about(folder / ABOUT)
        if about["format"] != FORMAT:
            raise UserError(
                f"{folder}: this export has format {about['format']} (written by mem {about['mem']}), but mem "
                f"{mem.__version__} reads format {FORMAT}. Export the head again."
            )
        return _build(about, folder / "backbone.safetensors", folder)
    except FileNotFoundError:
        raise UserError(f"{folder}: not an exported model (it has no {ABOUT}). `mem export` writes one.") from None
    except (OSError, KeyError, TypeError, ValueError, AttributeError, RuntimeError, MemoryError) as error:
        cause = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise UserError(f"{folder}/{ABOUT}: cannot be read: {cause}. Export the head again.") from None


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


def _build(about: dict[str, Any], backbone_weights: Path, head_folder: Path) -> ExportedModel:
    images, classes = about["images"], tuple(about["classes"])
    backbone = TypeAdapter(config.ImageBackbone).validate_python(about["backbone"])
    model = build(backbone, len(classes))
    load_into(model.backbone, load_weights(backbone_weights))
    head = load_head(head_folder)
    return ExportedModel(
        ImageClassifier(model, head, Pixels(tuple(images["pixel_mean"]), tuple(images["pixel_std"]))),
        classes,
        _groups(head),
        Encoding(images["storage"], images["jpeg_quality"], images["short_side"], images["resample"]),
        backbone.image_size,
        backbone.center_crop,
        about,
    )


def _groups(head: Any) -> tuple[str, ...]:
    if not isinstance(head, MemHead):
        return ()
    if head.settings.partition == "shot":
        return SHOT_NAMES
    return tuple(f"group {g}" for g in range(head.settings.groups))


def open_model(path: Path) -> ExportedModel:
    """Load a model from an exported folder, an MLflow model, or the run folder of a head.

    Raises:
        UserError: The path is none of these.
    """
    if (path / ABOUT).is_file():
        return load_export(path)
    if (path / "MLmodel").is_file() and (inner := next(path.glob(f"data/*/{ABOUT}"), None)):
        return load_export(inner.parent)
    if not path.is_dir():
        raise UserError(
            f"{path}: no such folder. Pass the run folder of a head, an exported folder, or models:/NAME@ALIAS."
        )
    if (path / "run.json").is_file():
        runs = lineage(path)
        return _build(_about(runs), runs.backbone / "model.safetensors", path)
    raise UserError(
        f"{path}: neither the run folder of a finished head (it has no run.json) nor an exported folder (it has no "
        f"{ABOUT}). Pass one of these."
    )
