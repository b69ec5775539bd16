"""Initial weights from every source: the file on this machine, what was verified, and what run.json records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mem.config.initial import OFFICIAL, Initial
from mem.config.weights_files import WEIGHTS_FILES
from mem.errors import UserError
from mem.models.weights.hub import cache_folder
from mem.models.weights.hub_weights import StoredWeights, get_command, location_of, stored_weights, verify_stored
from mem.models.weights.licences import Licence
from mem.models.weights.official import official_file, official_weights, verify_official, weights_folder
from mem.models.weights.prepare import download_command
from mem.models.weights.pretrained_config import PretrainedConfig, config_beside, licence_beside
from mem.models.weights.verification import Verification, sha256_of


def weights_file(initial: Initial) -> Path:
    """Return the weights file that the `initial` section of a study specifies. The hub is not contacted.

    Raises:
        UserError: The file is missing, or a local copy of official weights has another checksum.
    """
    if initial.on_hub:
        return _stored(initial).path
    if initial.folder is not None:
        return _file_in(initial.folder, initial.custom_file)
    if initial.file is not None:
        path = Path(initial.file)
        if not path.is_file():
            raise UserError(f"{path}: weights file not found (initial.file)")
        if initial.weights is not None:
            verify_official(path, initial.weights)
        return path
    assert initial.weights is not None
    return official_file(initial.weights)


def absent_weights(initial: Initial) -> str | None:
    """Return the command that downloads weights with a name that are not on this machine. None if they are here.

    Files of the user are always taken for present; `weights_file` reports a missing one.
    """
    command = download_command(initial)
    if initial.weights is None or not command:
        return None
    if initial.on_hub:
        is_here = stored_weights(initial.weights, initial.revision) is not None
    else:
        is_here = (weights_folder() / official_weights(initial.weights).file).is_file()
    return None if is_here else command


def verify_weights(initial: Initial, path: Path) -> Verification:
    """Verify a file that `weights_file` returned as far as this is possible.

    Raises:
        UserError: A published or recorded digest differs.
    """
    if initial.on_hub:
        return verify_stored(_stored(initial))
    if initial.weights is not None and initial.weights in OFFICIAL:
        return verify_official(path, initial.weights)
    digest = sha256_of(path)
    return Verification(digest, False, f"not authenticated: a file of the user. Its SHA-256: {digest}")


def weights_record(initial: Initial, path: Path, verification: Verification) -> dict[str, Any]:
    """Return what run.json records about initial weights."""
    return {
        "file": str(path),
        "weights": initial.weights,
        "revision": initial.revision,
        "licence": licence_of(initial, path).document(),
        **verification.document(),
    }


def licence_of(initial: Initial, path: Path) -> Licence:
    """Return the licence of weights: that of the publisher, or that which the files next to them state."""
    if initial.weights is not None and initial.weights in OFFICIAL:
        return Licence(OFFICIAL[initial.weights].licence)
    return licence_beside(path) if initial.weights is not None else Licence()


def stated_config(initial: Initial, path: Path) -> tuple[PretrainedConfig, str | None]:
    """Return the statements about weights of the hub or in a folder, and the repository on the hub, if there is one."""
    if initial.on_hub:
        return config_beside(path), location_of(initial.weights or "")[0]
    return (config_beside(path) if initial.folder is not None else PretrainedConfig()), None


def _stored(initial: Initial) -> StoredWeights:
    assert initial.weights is not None
    stored = stored_weights(initial.weights, initial.revision)
    if stored is None:
        raise UserError(
            f"The weights {initial.weights} at the commit {initial.revision} are not in the cache {cache_folder()}. "
            "Stages do not contact the hub. On a machine with internet access and the same cache (HF_HOME), run: "
            f"{get_command(initial.weights, initial.revision)}"
        )
    return stored


def _file_in(folder: Path, file: Path | None) -> Path:
    """Return the weights file in a folder."""
    if not folder.is_dir():
        raise UserError(f"{folder}: folder not found (initial.weights: local-dir:{folder})")
    if file is None:
        raise UserError(
            f"{folder}: contains no weights file (initial.weights); expected one of {', '.join(WEIGHTS_FILES)}"
        )
    return file
