"""Objects behind a URL that fsspec knows, such as s3://bucket/models: read, created once, written, listed, removed.

Every request is bounded in time, and every failure is a `StoreError` that names the URL without its credentials and
says what to do. Knows nothing of what the objects are.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import fsspec
from fsspec.asyn import sync

from model.errors import StoreError, first_line, one_line
from model.store.urls import EXTRAS, missing_package, shown

_REQUEST_SECONDS = 60.0  # with all tries; a transfer has as much for each _PIECE_BYTES on top
_CONNECT_SECONDS = 5
_READ_SECONDS = 15
_PIECE_BYTES = 2**24
_TRIES = 3  # to create an object, after replies that were lost
_QUERY = re.compile(r"\?\S+?(?=[\"')\]>.,;:]*(?:\s|$))")
_MAX_SHOWN = 300  # characters of a provider's message
_MAKE_IT = "make it, or correct the URL"

# Where the creation of an object fails if there is one, in one step on the provider's side. Others are only read.
_CREATES = {*EXTRAS, "memory"}
_OPTIONS: dict[str, dict[str, Any]] = {
    scheme: {
        "config_kwargs": {
            "connect_timeout": _CONNECT_SECONDS,
            "read_timeout": _READ_SECONDS,
            "retries": {"mode": "standard", "total_max_attempts": 3},
        }
    }
    for scheme in ("s3", "s3a")
}


class _PastEndError(OSError):
    """An object ends before what was asked for begins."""


class Objects:
    """The objects below one URL; their names are paths relative to it. Not to be used across a fork."""

    def __init__(self, url: str) -> None:
        self.url = shown(url)
        self._scheme = url.partition("://")[0]
        if self._scheme in ("gs", "gcs"):
            _set_up_gcsfs()
        try:
            self._fs, self._root = fsspec.core.url_to_fs(
                url, skip_instance_cache=True, use_listings_cache=False, **_OPTIONS.get(self._scheme, {})
            )
        except ImportError:
            raise missing_package(url) from None
        except Exception as error:  # whatever a provider raises for a URL, or for settings that it cannot use
            raise StoreError(self.url, f"cannot be opened: {_reason(error)}") from None

    def read(self, name: str, *, max_bytes: int) -> bytes | None:
        """Return the bytes of an object, at most `max_bytes` and one more; None if there is none."""
        try:
            return bytes(self._call("cat_file", self._path(name), start=0, end=max_bytes + 1))
        except FileNotFoundError:
            return None
        except _PastEndError:  # it is empty
            return b""
        except OSError as error:
            raise self._failed(error) from None

    def read_many(self, names: Sequence[str], *, max_bytes: int) -> dict[str, bytes]:
        """Return the bytes of those of these objects that exist, by name, in order, each as `read` does."""
        found = self._guarded("cat_ranges", [self._path(name) for name in names], 0, max_bytes + 1, on_error="return")
        contents: dict[str, bytes] = {}
        for name, content in zip(names, found):
            if isinstance(content, FileNotFoundError):
                continue
            again = self.read(name, max_bytes=max_bytes) if isinstance(content, Exception) else bytes(content)
            if again is not None:
                contents[name] = again
        return contents

    def download(self, name: str, file: Path, size: int) -> None:
        """Write the first `size` bytes of an object to a new file, or all if there are fewer.

        Raises `StoreError`, and `OSError` if the file cannot be written.
        """
        with file.open("xb") as output:
            for start in range(0, size, _PIECE_BYTES):
                end = min(start + _PIECE_BYTES, size)
                try:
                    piece = self._call("cat_file", self._path(name), start=start, end=end)
                except FileNotFoundError:
                    raise StoreError(f"{self.url}/{name}", "is missing; add it again, or another version") from None
                except _PastEndError:
                    break
                except OSError as error:
                    raise self._failed(error) from None
                output.write(piece)
            output.flush()
            os.fsync(output.fileno())

    def create(self, name: str, content: bytes) -> None:
        """Create an object that does not exist, in one step. Raises `FileExistsError` if there is another one.

        A reply that was lost does not count as another one: what exists is compared with the content.
        """
        self.check_creates()
        failure: OSError | StoreError | None = None
        for _ in range(_TRIES):
            try:
                self._call("pipe_file", self._path(name), content, mode="create")
                return
            except (OSError, StoreError) as error:
                failure = error
            found = self.read(name, max_bytes=len(content))
            if found == content:
                return
            if found is not None:
                raise FileExistsError(name) from None
        raise failure if isinstance(failure, StoreError) else self._failed(failure)

    def check_refuses(self, name: str, content: bytes) -> None:
        """Raise `StoreError` if the store lets an object be created again, given one that exists with this content.

        Such a store does not know conditional writes, so that of two writers at once the second would win unnoticed.
        """
        try:
            self._call("pipe_file", self._path(name), content, mode="create")
        except (OSError, StoreError):
            return  # refused, or not answered: then what comes next is not answered either
        raise StoreError(
            self.url,
            "does not refuse to write over an object, so two writers at once would not notice each "
            "other; use a newer version of the storage server, or write to a folder and copy it",
        )

    def check_creates(self) -> None:
        """Raise `StoreError` if this kind of URL has no way to create an object only if there is none."""
        if self._scheme not in _CREATES:
            raise StoreError(
                self.url, f"can only be read: {self._scheme} cannot refuse a second writer; use {', '.join(_CREATES)}"
            )

    def upload(self, name: str, file: Path) -> None:
        """Write an object from a file."""
        seconds = _REQUEST_SECONDS * (1 + file.stat().st_size / _PIECE_BYTES)
        self._guarded("put_file", str(file), self._path(name), seconds=seconds)

    def write(self, name: str, content: bytes) -> None:
        """Write an object, over one that there may be."""
        self._guarded("pipe_file", self._path(name), content)

    def folders(self) -> list[str]:
        """Return the names before the first slash of all objects; a listing may be late.

        Raises `StoreError` if the bucket or container does not exist.
        """
        try:
            found = self._call("ls", self._root, detail=True)
        except FileNotFoundError:
            self.check_bucket()
            return []
        except OSError as error:
            raise self._failed(error) from None
        return sorted(each["name"].rstrip("/").rpartition("/")[2] for each in found if each["type"] == "directory")

    def files(self, folder: str) -> list[str]:
        """Return the names of the objects directly in a folder, without it; a listing may be late."""
        try:
            found = self._call("ls", self._path(folder), detail=True)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise self._failed(error) from None
        return sorted(each["name"].rpartition("/")[2] for each in found if each["type"] == "file")

    def remove(self, name: str) -> None:
        """Remove an object, or every object of a folder that is listed."""
        try:
            self._call("rm", self._path(name), recursive=True)
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._failed(error) from None

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    def check_bucket(self) -> None:
        """Raise `StoreError` if the bucket or container does not exist; that it may not be listed says nothing."""
        if self._scheme in EXTRAS:
            bucket = self._root.partition("/")[0]
            try:
                self._call("ls", bucket)
            except FileNotFoundError:
                raise StoreError(self.url, f"there is no bucket or container {bucket}; {_MAKE_IT}") from None
            except PermissionError:
                return
            except OSError as error:
                raise self._failed(error) from None

    def _guarded(self, method: str, *arguments: Any, **named: Any) -> Any:
        try:
            return self._call(method, *arguments, **named)
        except OSError as error:
            raise self._failed(error) from None

    def _call(self, method: str, *arguments: Any, seconds: float = _REQUEST_SECONDS, **named: Any) -> Any:
        """Call a method of the file system within a time. Raises `OSError`, or `StoreError` for any other failure."""
        try:
            if self._fs.async_impl:
                call: Callable[..., Any] = getattr(self._fs, f"_{method}")
                return sync(self._fs.loop, call, *arguments, timeout=seconds, **named)
            return getattr(self._fs, method)(*arguments, **named)
        except TimeoutError:
            raise TimeoutError(f"no reply within {seconds:.0f} seconds") from None
        except Exception as error:  # each provider's own: no credentials, a connection that was lost
            raise _known(error) or self._failed(error) from None

    def _failed(self, error: BaseException | None) -> StoreError:
        if isinstance(error, PermissionError):
            reason = "access is denied"
            remedy = (
                "check the credentials, and that they may list and read the store, and to change it write and delete"
            )
        elif isinstance(error, FileNotFoundError):
            reason, remedy = "does not exist", _MAKE_IT
        elif type(error).__name__ in ("NoCredentialsError", "DefaultCredentialsError", "ClientAuthenticationError"):
            reason, remedy = "no credentials were found", "set those of the provider, as its own tools read them"
        elif isinstance(error, TimeoutError):
            reason, remedy = "it did not answer in time", "check the network and try again"
        else:
            reason, remedy = "it did not answer", "check the network and the URL, and try again"
        return StoreError(self.url, f"{reason} ({_reason(error)}); {remedy}")


def _set_up_gcsfs() -> None:
    """Have gcsfs use only the API whose creations are conditional, and log nothing of what it raises."""
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # read when gcsfs is imported
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)


def _known(error: Exception) -> OSError | None:
    """Return a provider's error as the one of Python that says the same, None if there is none."""
    status = _status(error)
    if status == 416:
        return _PastEndError(_reason(error))
    if str(error).startswith("Forbidden: "):  # gcsfs: the request, and what the provider says in the next line
        return PermissionError(str(error).partition("\n")[2])
    if isinstance(error, OSError):
        return error
    if status in (401, 403):
        return PermissionError(_reason(error))
    return FileNotFoundError(_reason(error)) if status == 404 else None


def _status(error: Exception) -> int | None:
    """Return the status of a reply of HTTP that a provider's error is about, None if it is about something else."""
    reply = getattr(error.__cause__, "response", None)  # botocore's, behind an error of s3fs
    if isinstance(reply, dict):
        return int(reply["ResponseMetadata"]["HTTPStatusCode"])
    for name in ("status_code", "code"):  # azure-core's and gcsfs'
        if isinstance(status := getattr(error, name, None), int):
            return status
    return None


def _reason(error: BaseException | None) -> str:
    """Return what a provider says in one line, without what follows the path in a URL, which may be a signature.

    What closes a quotation or a sentence stays.
    """
    text = one_line(first_line(error)) if isinstance(error, Exception) else "no reason"
    return _QUERY.sub("", text)[:_MAX_SHOWN]
