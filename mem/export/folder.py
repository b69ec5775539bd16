"""The folder that a head is exported to, and the classifier that it holds.

export.json            architecture, classes, groups, how images are prepared, where it comes from
backbone.safetensors   weights of the backbone
head.json, head.safetensors
program.pt2            the whole as a torch.export program: runs with torch alone, on prepared squares
mlflow/                the whole as an MLflow model, where it was asked for
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

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
from mem.models.weights import load_into, load_weights
from mem.runs.folder import read_record
from mem.runs.run_config import read_config

FORMAT = 1
"""Raised when the folder's files mean something else."""
ABOUT = "export.json"
PROGRAM = "program.pt2"
_COPIED = ("head.json", "head.safetensors")


@dataclass(frozen=True)
class Exported:
    """A classifier, with what its numbers mean and what its images must look like."""

    classifier: ImageClassifier
    classes: tuple[str, ...]
    groups: tuple[str, ...]
    """Names of MEM's groups; none for other heads."""
    encoding: Encoding
    """How the data set keeps images."""
    side: int
    """Height and width of what the classifier sees."""
    center_crop: float
    about: dict[str, Any]
    """All of export.json."""


def export_head(folder: Path, out: Path) -> Exported:
    """Write a head with its backbone to `out`; see the module's docstring (`program.pt2` and `mlflow/` come apart).

    Args:
        folder: Run folder of a train_head run.
        out: The folder; what it holds of an earlier export is replaced.

    Raises:
        UserError: See `lineage`; or `out` holds something else.
    """
    made_of = lineage(folder)
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / ABOUT).is_file())):
        raise UserError(f"{out}: is there already and is no export; choose another folder")
    about = _about(made_of)
    out.mkdir(parents=True, exist_ok=True)
    (out / ABOUT).unlink(missing_ok=True)  # until all is written, it is no export
    (out / PROGRAM).unlink(missing_ok=True)
    shutil.rmtree(out / "mlflow", ignore_errors=True)
    for name in _COPIED:
        shutil.copyfile(folder / name, out / name)
    shutil.copyfile(made_of.backbone / "model.safetensors", out / "backbone.safetensors")
    files.write_text(out / ABOUT, json.dumps(about, indent=2, ensure_ascii=False) + "\n")
    return load_export(out)


def _about(made_of: Lineage) -> dict[str, Any]:
    record = read_record(made_of.head)
    dataset = read_record(made_of.images)["settings"]["dataset"]
    manifest = json.loads((made_of.images / "dataset.json").read_text())
    backbone = read_config(made_of.backbone, "finetune").union("backbone", config.ImageBackbone)
    return {
        "format": FORMAT,
        "mem": mem.__version__,
        "dataset": record["dataset"],
        "labels": record["labels"],
        "key": record["key"],
        "made_of": {
            name: read_record(path)["key"]
            for name, path in (
                ("features", made_of.features),
                ("finetune", made_of.backbone),
                ("convert", made_of.images),
            )
        },
        "git": record["git"],
        "classes": manifest["classes"],
        "images": {
            "pixel_mean": dataset["pixel_mean"],
            "pixel_std": dataset["pixel_std"],
            "storage": manifest["kept"]["storage"],
            "jpeg_quality": manifest["kept"].get("jpeg_quality", 100),
            "short_side": manifest["kept"]["short_side"],
            "resample": manifest["kept"]["resample"],
        },
        "backbone": backbone.model_dump(mode="json"),
    }


def load_export(folder: Path) -> Exported:
    """Rebuild the classifier of an exported folder.

    Raises:
        UserError: It is no such folder, of another version, or a file is missing or damaged.
    """
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        if about["format"] != FORMAT:
            raise UserError(
                f"{folder}: was exported in format {about['format']} by mem {about['mem']}; this is mem "
                f"{mem.__version__}, which reads format {FORMAT}. Export the head again."
            )
        return _assembled(about, folder / "backbone.safetensors", folder)
    except FileNotFoundError:
        raise UserError(f"{folder}: no exported model (it has no {ABOUT}); `mem export` writes one") from None
    except (KeyError, TypeError, ValueError, ValidationError) as error:
        raise UserError(f"{folder}/{ABOUT}: cannot be read: {error}") from None


def _assembled(about: dict[str, Any], backbone_weights: Path, head_folder: Path) -> Exported:
    images, classes = about["images"], tuple(about["classes"])
    backbone = TypeAdapter(config.ImageBackbone).validate_python(about["backbone"])
    model = build(backbone, len(classes))
    load_into(model.backbone, load_weights(backbone_weights))
    head = load_head(head_folder)
    return Exported(
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


def opened(path: Path) -> Exported:
    """A classifier from an exported folder, an MLflow model that holds one, or the run folder of a head.

    Raises:
        UserError: It is none of these.
    """
    if (path / ABOUT).is_file():
        return load_export(path)
    if (path / "MLmodel").is_file() and (inner := next(path.glob(f"data/*/{ABOUT}"), None)):
        return load_export(inner.parent)
    if not path.is_dir():
        raise UserError(
            f"{path}: no such folder; expected the run folder of a head, an exported folder, or models:/NAME@ALIAS"
        )
    if (path / "run.json").is_file():
        made_of = lineage(path)
        return _assembled(_about(made_of), made_of.backbone / "model.safetensors", path)
    raise UserError(
        f"{path}: is neither the run folder of a finished head (it has no run.json) nor an exported folder (no {ABOUT})"
    )
