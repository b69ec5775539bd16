"""The Hugging Face hub: information about repositories, downloads into the library's cache, and its errors as messages.

All traffic and the cache are those of the library huggingface_hub. Its environment variables apply: HF_HOME,
HF_HUB_CACHE, HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE. The library is imported in the functions, because commands that
do not use the hub need not wait for the import, and because the workflow process may lack it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import mem
from mem.errors import UserError
from mem.files import DISK_FULL_ERRORS, USER_ERRORS, describe_os_error
from mem.models.weights.licences import Licence, licence_of_metadata

if TYPE_CHECKING:
    from huggingface_hub import HfApi

TIMEOUT_SECONDS = 30


@dataclass(frozen=True)
class HubFile:
    """A file of a repository, as the hub describes it."""

    name: str
    size: int | None
    sha256: str | None
    """SHA-256 of a file that is stored with Git LFS, 64 hexadecimal digits. The hub publishes none of other files."""
    git_id: str | None
    """Git's id of a file that is not stored with Git LFS: SHA-1 of its size and content."""

    @property
    def checksum(self) -> str | None:
        """The published checksum: `sha256:` or `git:` with the digits."""
        return f"sha256:{self.sha256}" if self.sha256 else f"git:{self.git_id}" if self.git_id else None


@dataclass(frozen=True)
class Repository:
    """A repository of the hub at one commit."""

    name: str
    commit: str
    gated: bool
    """Whether users have to accept conditions on the repository's page before they can download its files."""
    licence: Licence
    files: Mapping[str, HubFile]


def repository_at(name: str, revision: str | None) -> Repository:
    """Ask the hub about a repository.

    Args:
        name: OWNER/REPOSITORY.
        revision: A commit, a branch or a tag. Default: the newest commit of the branch main.

    Raises:
        UserError: The hub cannot be reached, or it does not know the repository or the revision, or denies access.
    """
    with _hub_errors(name, revision):
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError

        try:
            info = _api().model_info(name, revision=revision, files_metadata=True, timeout=TIMEOUT_SECONDS)
        except (HfHubHTTPError, HFValidationError):
            raise  # some of these are also ValueErrors
        except (KeyError, TypeError, ValueError):
            info = None
        if info is None or info.sha is None:
            raise UserError(f"{address(name)}: the server's response is not that of a hub. {_CHECK_ENDPOINT}")
    files = {
        each.rfilename: HubFile(
            each.rfilename,
            each.size,
            each.lfs.sha256 if each.lfs is not None else None,
            each.blob_id if each.lfs is None else None,
        )
        for each in info.siblings or ()
    }
    card = info.card_data.to_dict() if info.card_data is not None else {}
    return Repository(name, info.sha, bool(info.gated), licence_of_metadata(card), files)


def download_file(repository: str, commit: str, file: str, *, again: bool = False) -> Path:
    """Download a file of a repository into the library's cache, unless the cache contains it, and return its path.

    The library resumes a download when the connection is lost, as long as the server sends further bytes.

    Args:
        repository: OWNER/REPOSITORY.
        commit: Commit of the repository.
        file: Name of the file.
        again: Whether to replace the file in the cache.

    Raises:
        UserError: The file cannot be downloaded or stored.
    """
    with _hub_errors(repository, commit):
        return Path(_api().hf_hub_download(repository, file, revision=commit, force_download=again))


def cached_file(repository: str, revision: str, file: str) -> Path | None:
    """Return the path of a file in the library's cache, or None. The hub is not contacted.

    Raises:
        UserError: The library huggingface_hub is missing.
    """
    with _hub_errors(repository, revision):
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(repository, file, revision=revision)
    return Path(found) if isinstance(found, str) else None


def cache_folder() -> Path:
    """Return the folder of the library's cache."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE).expanduser()


def address(repository: str) -> str:
    """Return the address of a repository's page."""
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/{repository}"


_CHECK_ENDPOINT = "Check HF_ENDPOINT, the firewall and the proxy."


def _api() -> HfApi:
    from huggingface_hub import HfApi

    return HfApi(library_name="mem-longtail", library_version=mem.__version__)


@contextmanager
def _hub_errors(repository: str, revision: str | None) -> Iterator[None]:
    """Raise errors of the library huggingface_hub, and those of the operating system in its cache, as `UserError`."""
    try:
        from huggingface_hub import errors
    except ImportError:
        raise UserError(
            "The library huggingface_hub is not installed in this environment. Install it (pip install "
            "huggingface-hub), or run this command in the environment in which the stages run."
        ) from None
    try:
        yield
    except errors.GatedRepoError:
        raise UserError(
            f"{address(repository)}: the repository is gated, and this account has no access. Open the page, log in "
            "and accept its conditions. Then create a token with read access "
            "(https://huggingface.co/settings/tokens), and run `hf auth login` or set HF_TOKEN."
        ) from None
    except errors.RevisionNotFoundError:
        raise UserError(
            f"{address(repository)}: the repository has no revision {revision}. Use a commit that its page lists under "
            "`Files and versions`, or run `mem weights show` without --revision, which prints the newest commit."
        ) from None
    except errors.RepositoryNotFoundError as error:
        raise UserError(_not_found(repository, error)) from None
    except errors.LocalEntryNotFoundError as error:
        raise UserError(_unreachable(repository, error.__cause__ or error)) from None
    except errors.EntryNotFoundError as error:
        raise UserError(f"{address(repository)}: a file is missing at {revision}: {_first_line(error)}") from None
    except errors.HfHubHTTPError as error:
        raise UserError(_refused(repository, error)) from None
    except errors.HFValidationError as error:
        raise UserError(f"{repository}: the name of the repository is invalid: {_first_line(error)}") from None
    except UserError:
        raise
    except OSError as error:
        if error.errno in USER_ERRORS:
            raise UserError(_not_stored(error)) from None
        raise UserError(_unreachable(repository, error)) from None
    except Exception as error:
        # The exceptions of the library's HTTP client depend on the version of the library.
        if not type(error).__module__.startswith(("httpx", "httpcore", "requests", "urllib3")):
            raise
        raise UserError(_unreachable(repository, error)) from None


def _not_found(repository: str, error: Exception) -> str:
    from huggingface_hub import get_token

    hint = "the account of the token has no access to it" if get_token() else "it is private and no token is set"
    return (
        f"{address(repository)}: the hub has no such repository, or {hint}. Check the name (OWNER/REPOSITORY). For a "
        "private repository, run `hf auth login` or set HF_TOKEN."
    )


def _refused(repository: str, error: Exception) -> str:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status == 401:
        return (
            f"{address(repository)}: the hub rejected the token (status 401). It is wrong or has expired. Create a new "
            "one (https://huggingface.co/settings/tokens), and run `hf auth login` or set HF_TOKEN; for public "
            "repositories, `hf auth logout` or an unset HF_TOKEN is enough."
        )
    return (
        f"{address(repository)}: the server responded with status {status}: {_first_line(error)}. Run the same command "
        f"again later. {_CHECK_ENDPOINT}"
    )


def _unreachable(repository: str, error: BaseException) -> str:
    from huggingface_hub import errors

    if isinstance(error, errors.OfflineModeIsEnabled):
        return (
            f"{address(repository)}: the cache {cache_folder()} does not contain the required files, and "
            "HF_HUB_OFFLINE forbids downloads. Unset HF_HUB_OFFLINE, or copy the cache from a machine that has the "
            "files."
        )
    return (
        f"{address(repository)}: the download failed: {_first_line(error)}. Run the same command again. "
        f"{_CHECK_ENDPOINT} Without network access, copy the cache {cache_folder()} from a machine that has the files."
    )


def _not_stored(error: OSError) -> str:
    if error.errno in DISK_FULL_ERRORS:
        return (
            f"{cache_folder()}: the disk is full. No incomplete file was left. Free disk space, or set HF_HOME to a "
            "folder on another disk, and run the same command again."
        )
    return describe_os_error(error, cache_folder())


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__
