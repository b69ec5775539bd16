"""The commands `mem register` and `mem predict`."""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from mem import files
from mem.config.load import load_study
from mem.data.codecs.suffixes import IMAGE_SUFFIXES, is_image_name
from mem.errors import UserError
from mem.export.best_head import best_head
from mem.export.exported_model import ExportedModel, export_head, open_model
from mem.export.formats import write_mlflow
from mem.export.predict import predict_files
from mem.export.prediction_writers import CsvWriter, JsonWriter, TextFile
from mem.export.publish import MLFLOW
from mem.runs.folder import RunFolder
from mem.tracking.log import JsonLines

SCHEME = "models:/"
"""Address prefix of registered models."""


def register(study_files: Sequence[Path], name: str | None, alias: str, variant: str | None, root: Path) -> int:
    """Export the best head of a study and register it through the mirror. If no mirror is running, run one once."""
    study = load_study(list(study_files))
    selected = best_head(study, root, variant)
    name = name or study.study
    out = Path("results", study.study, "model")
    model = export_head(root / selected.evaluation.folder, root / out)
    write_mlflow(model, root / out, root / out / MLFLOW)
    labels = {key: str(value) for key, value in model.about["labels"].items()}
    tags = {**labels, "study": study.study, "chosen": selected.reason}
    with JsonLines(RunFolder(root / selected.run.folder).log) as log:
        log.event("model", path=str(out / "mlflow"), name=name, alias=alias, key=selected.run.key, tags=tags)
    print(f"{name}@{alias}: {selected.run.folder} ({selected.reason})")
    from mem.tracking import server
    from mem.tracking.commands import sync

    with server.sole_writer(root, 0) as no_mirror_is_running:
        pass
    if no_mirror_is_running:
        sync(root)
    else:
        print("The running mirror registers it within seconds.")
    # If the user has set the variable, its value can contain a password, and the user's shell knows it.
    is_set = "MLFLOW_TRACKING_URI" in os.environ
    setting = "" if is_set else f"MLFLOW_TRACKING_URI={shlex.quote(server.tracking_uri(root))} "
    print(f"Serve it: {setting}mlflow models serve -m {SCHEME}{name}@{alias} \\")
    print("            --env-manager local --port 5001")
    return 0


def predict(
    inputs: Sequence[str], model: str, kind: str, out: Path | None, batch: int, root: Path, stdin: Iterable[str]
) -> int:
    """Write a prediction for each image, and report unreadable images on standard error.

    Args:
        inputs: Files, folders, or `-` for a list of files on `stdin`.
        model: Folder of a model, or models:/NAME@ALIAS.
        kind: `csv` or `json`.
        out: Output file; None for standard output.
        batch: Number of images per batch.
        root: Parent folder of `runs/`.
        stdin: Lines of standard input.

    Returns:
        The exit status: 1 if any image was unreadable, otherwise 0.
    """
    names = list(_file_names(inputs, stdin))
    if not names:
        raise UserError("There are no images. Pass files, folders, or `-` for a list of files on standard input.")
    with _open_any(model, root) as opened, _destination(out) as file:
        writer = CsvWriter(file, opened) if kind == "csv" else JsonWriter(file)
        unreadable = 0
        for prediction in predict_files(opened, names, batch):
            if prediction.error:
                unreadable += 1
                print(f"{prediction.name}: {prediction.error}", file=sys.stderr)
            writer.write(prediction)
        writer.finish()
    if unreadable:
        print(f"{unreadable:,} of {len(names):,} files could not be read.", file=sys.stderr)
    return 1 if unreadable else 0


def _file_names(inputs: Sequence[str], stdin: Iterable[str]) -> Iterator[str]:
    """Yield the names of the images to classify. Files that are listed explicitly may have any suffix."""
    for given in inputs:
        if given == "-":
            yield from (line for raw in stdin if (line := raw.rstrip("\n")))
        elif Path(given).is_dir():
            found = sorted(str(path) for path in _images_in(Path(given)))
            if not found:
                raise UserError(
                    f"{given}: this folder contains no image files ({', '.join(IMAGE_SUFFIXES)}). Pass another folder."
                )
            yield from found
        else:
            yield given


def _images_in(folder: Path) -> Iterator[Path]:
    """Yield the image files below a folder. Hidden files and folders are skipped, as in the dataset reader."""
    for path in folder.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if not hidden and is_image_name(path.name) and path.is_file():
            yield path


@contextmanager
def _open_any(name: str, root: Path) -> Iterator[ExportedModel]:
    """Open a model from a folder or from MLflow's registry."""
    if not name.startswith(SCHEME):
        yield open_model(Path(name))
        return
    from mem.tracking.mlflow_models import fetch

    with tempfile.TemporaryDirectory() as temporary:
        yield open_model(fetch(name, root, Path(temporary)))


@contextmanager
def _destination(out: Path | None) -> Iterator[TextFile]:
    if out is None:
        yield sys.stdout
    else:
        with files.atomic(out) as file:
            yield file
