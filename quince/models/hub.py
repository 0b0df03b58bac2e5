"""Downloads from a Hugging Face hub, by huggingface_hub's session, tokens and endpoint (HF_TOKEN, HF_ENDPOINT, ...).

Files are fetched here rather than by its ``snapshot_download``, which drops a broken-off file and compares sizes only:
here a file goes on where it stopped, in whichever process, and stands under its name once its checksum is right.
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NoReturn, Protocol

import httpx2
from huggingface_hub import HfApi, constants, get_session, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    SafetensorsParsingError,
)
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

from quince.errors import AccessDenied, DiskFull, InvalidModel, PullCancelled, PullError, RepositoryNotFound
from quince.models import description

PARTIAL = ".part"
RETRIES = 4  # in a row, without a byte in between
RETRY_DELAY = 0.5  # seconds, doubling
_FULL = (errno.ENOSPC, errno.EDQUOT)
_BLOCK = 2**20
# huggingface_hub's own errors are of these kinds.
_ERRORS = (OSError, ValueError, httpx2.HTTPError, httpx2.StreamError)

# What a model needs besides its weights; no code: it would not be run.
_WANTED = ("*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken", "README.md", "LICENSE*", description.WEIGHTS)


@dataclass(frozen=True)
class RemoteFile:
    """``size`` is in bytes; one of the checksums is there (large files have sha256, others git's)."""

    name: str
    size: int
    sha256: str | None
    git_sha1: str | None


@dataclass(frozen=True)
class Repository:
    """A repository at one commit, with the files that a model needs."""

    repo_id: str
    revision: str
    files: tuple[RemoteFile, ...]

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)


class OnBytes(Protocol):
    """Told how many bytes more there are of the file; negative if the server made the download start again."""

    def __call__(self, count: int, /) -> None: ...


class Hub:
    """``endpoint`` and ``token``: None for what huggingface_hub finds in the environment or the user's files."""

    def __init__(self, endpoint: str | None = None, token: str | None = None) -> None:
        self._token = token
        self.endpoint = endpoint or constants.ENDPOINT
        self._api = HfApi(endpoint=self.endpoint, token=token, library_name="quince")

    def repository(self, repo_id: str, revision: str | None = None) -> Repository:
        """Ask what the repository has. Raises PullError and its kinds; InvalidModel if it holds no model."""
        try:
            info = self._api.model_info(
                repo_id, revision=revision, files_metadata=True, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT
            )
        except _ERRORS as error:
            self._explain(error, repo_id)
        siblings = info.siblings or []
        if missing := description.missing_files({one.rfilename for one in siblings}):
            raise InvalidModel(f"{repo_id} is not a whole model: missing {', '.join(missing)}")
        files = [
            RemoteFile(
                name=one.rfilename,
                size=(one.lfs.size if one.lfs else one.size) or 0,
                sha256=one.lfs.sha256 if one.lfs else None,
                git_sha1=one.blob_id,
            )
            for one in siblings
            if _is_wanted(one.rfilename)
        ]
        return Repository(repo_id, str(info.sha), tuple(files))

    def is_mlx(self, repository: Repository) -> bool:
        """Whether the weights are MLX's already, by the header of one of their files."""
        weights = next(file for file in repository.files if Path(file.name).match(description.WEIGHTS))
        try:
            header = self._api.parse_safetensors_file_metadata(
                repository.repo_id, weights.name, revision=repository.revision
            )
        except SafetensorsParsingError:
            raise InvalidModel(f"{weights.name} of {repository.repo_id} is not a safetensors file") from None
        except _ERRORS as error:
            self._explain(error, repository.repo_id)
        return dict(header.metadata).get("format") == "mlx"

    def fetch(
        self,
        repository: Repository,
        file: RemoteFile,
        directory: Path,
        on_bytes: OnBytes,
        cancelled: threading.Event,
    ) -> None:
        """Have ``file`` in ``directory``, whole and checked, going on with what an earlier call left.

        Raises PullError and its kinds. What is there of the file stays, unless its checksum is wrong.
        """
        target = directory / file.name
        if target.is_file():
            on_bytes(file.size)
            return
        partial = target.with_name(target.name + PARTIAL)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("ab") as output:
                on_bytes(output.tell())
                self._fill(repository, file, output, on_bytes, cancelled)
            self._verify(file, partial)
            partial.rename(target)
        except _ERRORS as error:
            self._explain(error, repository.repo_id)

    # One file

    def _fill(
        self, repository: Repository, file: RemoteFile, output: BinaryIO, on_bytes: OnBytes, cancelled: threading.Event
    ) -> None:
        """Append until the size is right, over cut connections."""
        url = hf_hub_url(repository.repo_id, file.name, revision=repository.revision, endpoint=self.endpoint)
        failures = 0
        while output.tell() < file.size or not file.size:
            before = output.tell()
            try:
                self._stream(url, output, on_bytes, cancelled)
            except (httpx2.TransportError, httpx2.StreamError) as error:
                failures = failures + 1 if output.tell() == before else 1
                if failures > RETRIES:
                    self._explain(error, repository.repo_id)
                if cancelled.wait(RETRY_DELAY * 2 ** (failures - 1)):
                    raise PullCancelled() from None
                continue
            if output.tell() != file.size:
                size = output.tell()
                _restart(output)
                raise PullError(f"{file.name}: the server sent {size} bytes instead of {file.size}; pull again")
            return

    def _stream(self, url: str, output: BinaryIO, on_bytes: OnBytes, cancelled: threading.Event) -> None:
        start = output.tell()
        headers = {**build_hf_headers(token=self._token, library_name="quince"), "Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
        with get_session().stream("GET", url, headers=headers, timeout=timeout) as response:
            if response.status_code == 416 or (start and response.status_code == 200):
                _restart(output)
                on_bytes(-start)
            if response.status_code == 416:
                raise httpx2.RemoteProtocolError("the server has less of the file than is here")
            if response.is_error:
                response.read()
            hf_raise_for_status(response)
            for chunk in response.iter_bytes():
                if cancelled.is_set():
                    raise PullCancelled()
                output.write(chunk)
                on_bytes(len(chunk))

    def _verify(self, file: RemoteFile, path: Path) -> None:
        if file.sha256:
            expected, digest = file.sha256, hashlib.sha256()
        elif file.git_sha1:
            expected, digest = file.git_sha1, hashlib.sha1(f"blob {file.size}\0".encode(), usedforsecurity=False)
        else:
            return
        with path.open("rb") as content:
            while block := content.read(_BLOCK):
                digest.update(block)
        if digest.hexdigest() != expected:
            path.unlink()
            raise PullError(f"{file.name} came with a wrong checksum, so it was dropped: pull again to fetch it anew")

    # Errors

    def _explain(self, error: Exception, repo_id: str) -> NoReturn:
        """Raise what went wrong as one sentence for the user."""
        raise (
            self._of_hub(error, repo_id)
            or _of_machine(error)
            or PullError(
                f"{self.endpoint} cannot be reached, or the connection broke off ({_reason(error)}): "
                "pull again to go on where it stopped"
            )
        ) from error

    def _of_hub(self, error: Exception, repo_id: str) -> PullError | None:
        """What the hub answered, if it did."""
        match error:
            case GatedRepoError():
                return AccessDenied(
                    f"{repo_id} is gated: ask for access at {self.endpoint}/{repo_id}, "
                    "and give the token of an account that has it (`hf auth login`, or HF_TOKEN)"
                )
            case RevisionNotFoundError():
                return RepositoryNotFound(f"{repo_id} has no such revision")
            case RepositoryNotFoundError():
                return RepositoryNotFound(
                    f"there is no model repository {repo_id} on {self.endpoint}, "
                    "or it is private and no token was given that may read it"
                )
            case HfHubHTTPError():
                return _of_status(error.response.status_code, self.endpoint)
            case HFValidationError():
                return RepositoryNotFound(f"'{repo_id}' is not a repository's name (owner/name)")
        return None


def _restart(output: BinaryIO) -> None:
    output.truncate(0)
    output.seek(0)


def _of_machine(error: Exception) -> PullError | None:
    """What went wrong between here and the hub, if it did."""
    if isinstance(error, ValueError):  # no JSON: a captive portal, say
        return PullError(f"what answered is not a Hugging Face hub: {_reason(error)}")
    if isinstance(error, OfflineModeIsEnabled):
        return PullError("HF_HUB_OFFLINE is set, so nothing can be pulled")
    if not isinstance(error, OSError):
        return None
    if error.errno in _FULL:
        return DiskFull("the disk is full: free some space and pull again to go on")
    return PullError(f"the download cannot be written: {error.strerror or error}")


def _of_status(status: int, endpoint: str) -> PullError:
    if status == 401:
        return AccessDenied(f"{endpoint} does not accept the token: it is wrong or has expired (see `hf auth login`)")
    if status == 403:
        return AccessDenied("the token may not read this repository")
    if status == 429:
        return PullError(f"{endpoint} gets too many requests from here: try again later")
    reason = http.client.responses.get(status, "unknown status")
    return PullError(f"{endpoint} answered {status} ({reason}): try again later")


def _reason(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _is_wanted(name: str) -> bool:
    """Files at the top, and the modules that sentence-transformers keeps in folders, some with weights of their own
    (1_Pooling/config.json, 2_Dense/model.safetensors)."""
    folder, _, last = name.rpartition("/")
    if folder:
        return folder[:1].isdigit() and "/" not in folder and Path(last).suffix in (".json", ".safetensors")
    return any(Path(name).match(pattern) for pattern in _WANTED)
