"""The commands `mem export`, `mem register` and `mem predict`."""

from __future__ import annotations

import csv
import json
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, runtime_checkable

import mem
from mem import files
from mem.config.load import load_study
from mem.data.codecs.suffixes import IMAGE_SUFFIXES, is_image_name
from mem.errors import UserError
from mem.export.choice import best_head
from mem.export.folder import Exported, export_head, opened
from mem.export.predict import TOP, ImagePrediction, predict_files
from mem.export.program import write_program
from mem.runs.folder import RunFolder
from mem.tracking.log import JsonLines

SCHEME = "models:/"


@runtime_checkable
class _Text(Protocol):
    """Where lines go."""

    def write(self, text: str, /) -> int:
        """Write a part of them."""
        ...


def export(run: Path, out: Path, *, program: bool = True, mlflow: bool = True) -> None:
    """Write a head with its backbone as weights, torch.export program and MLflow model."""
    exported = export_head(run, out)
    if mlflow:
        _write_mlflow(exported, out, out / "mlflow")
    if program:
        write_program(exported, out)


def register(study_files: Sequence[Path], name: str | None, alias: str, variant: str | None, root: Path) -> int:
    """Export the best head of a study, ask the mirror to register it, and be the mirror if there is none."""
    study = load_study(list(study_files))
    choice = best_head(study, root, variant)
    name = name or study.study
    out = Path("results", study.study, "model")
    exported = export_head(root / choice.run.folder, root / out)
    _write_mlflow(exported, root / out, root / out / "mlflow")
    labels = {key: str(value) for key, value in exported.about["labels"].items()}
    tags = {**labels, "study": study.study, "chosen": choice.reason}
    with JsonLines(RunFolder(root / choice.run.folder).log) as log:
        log.event("model", path=str(out / "mlflow"), name=name, alias=alias, key=choice.run.key, tags=tags)
    print(f"{name}@{alias} is {choice.run.folder} ({choice.reason})")
    from mem.tracking import server
    from mem.tracking.commands import sync

    with server.sole_writer(root, 0) as alone:
        pass
    if alone:
        sync(root)
    else:
        print("The mirror at work here registers it within seconds.")
    print(f"Serve it: MLFLOW_TRACKING_URI={server.tracking_uri(root)} mlflow models serve -m {SCHEME}{name}@{alias} \\")
    print("            --env-manager local --port 5001")
    return 0


def _write_mlflow(exported: Exported, folder: Path, out: Path) -> None:
    from mem.tracking.mlflow_models import write_model

    about = {name: exported.about[name] for name in ("dataset", "labels", "key")}
    write_model(folder, out, [f"mem-longtail=={mem.__version__}"], about)


def predict(
    inputs: Sequence[str], model: str, kind: str, out: Path | None, batch: int, root: Path, stdin: Iterable[str]
) -> int:
    """Write the answer for each image; returns 1 where some were unreadable, and tells of each on standard error."""
    names = list(_files(inputs, stdin))
    if not names:
        raise UserError("No images: give files, folders, or `-` for a list of files on standard input")
    with _model(model, root) as exported, _destination(out) as file:
        unreadable = 0
        write = _csv(file, exported) if kind == "csv" else _json(file)
        for answer in predict_files(exported, names, batch):
            if answer.error:
                unreadable += 1
                print(f"{answer.name}: {answer.error}", file=sys.stderr)
            write(answer)
        if kind == "json":
            file.write("\n]\n")
    if unreadable:
        print(f"{unreadable:,} of {len(names):,} files could not be read.", file=sys.stderr)
    return 1 if unreadable else 0


def _files(inputs: Sequence[str], stdin: Iterable[str]) -> Iterator[str]:
    for given in inputs:
        if given == "-":
            yield from (line for raw in stdin if (line := raw.rstrip("\n")))
        elif Path(given).is_dir():
            inside = sorted(str(p) for p in Path(given).rglob("*") if is_image_name(p.name) and p.is_file())
            if not inside:
                raise UserError(f"{given}: this folder holds no image files ({', '.join(IMAGE_SUFFIXES)})")
            yield from inside
        else:
            yield given


@contextmanager
def _model(name: str, root: Path) -> Iterator[Exported]:
    if not name.startswith(SCHEME):
        yield opened(Path(name))
        return
    from mem.tracking.mlflow_models import fetch

    with tempfile.TemporaryDirectory() as temporary:
        yield opened(fetch(name, root, Path(temporary)))


@contextmanager
def _destination(out: Path | None) -> Iterator[_Text]:
    if out is None:
        yield sys.stdout
    else:
        with files.atomic(out) as file:
            yield file


def _csv(file: _Text, exported: Exported) -> Callable[[ImagePrediction], None]:
    top = range(2, 1 + min(TOP, len(exported.classes)))
    columns = ["path", "class", "probability"]
    columns += [f"{what}_{i}" for i in top for what in ("class", "probability")]
    columns += [f"{kind}.{group}" for kind in ("group_weight", "group_norm") for group in exported.groups]
    table = csv.DictWriter(file, [*columns, "error"], lineterminator="\n")
    table.writeheader()

    def write(answer: ImagePrediction) -> None:
        row: dict[str, str] = {"path": answer.name, "error": answer.error}
        for i, (name, probability) in enumerate(answer.classes, 1):
            row |= {f"class_{i}" if i > 1 else "class": name}
            row |= {f"probability_{i}" if i > 1 else "probability": f"{probability:.6f}"}
        for kind, values in (("group_weight", answer.group_weights), ("group_norm", answer.group_norms)):
            row |= {f"{kind}.{group}": f"{value:.6g}" for group, value in (values or {}).items()}
        table.writerow(row)

    return write


def _json(file: _Text) -> Callable[[ImagePrediction], None]:
    begun: list[bool] = []

    def write(answer: ImagePrediction) -> None:
        file.write(",\n" if begun else "[\n")
        begun.append(True)
        content: dict[str, object] = {"path": answer.name}
        if answer.error:
            content["error"] = answer.error
        else:
            content |= {"class": answer.classes[0][0], "probability": answer.classes[0][1]}
            content["top"] = [{"class": name, "probability": probability} for name, probability in answer.classes]
            if answer.group_weights is not None:
                content |= {"group_weights": answer.group_weights, "group_norms": answer.group_norms}
        file.write(json.dumps(content, ensure_ascii=False))

    return write
