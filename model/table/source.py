"""Brings a table onto the local disk as plain files, whatever it is and wherever it comes from, in bounded memory.

Knows files, standard input, URLs and compression. Knows nothing of what a table's cells are.
"""

from __future__ import annotations

import bz2
import glob
import gzip
import hashlib
import io
import lzma
import shutil
import sys
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import urlsplit

from model.errors import URL_CHAIN, DataError, first_line
from model.table.description import CSV, JSON, PARQUET

STANDARD_INPUT = "-"
UNPACKING = (EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError)
"""What is raised for a compressed file that is not whole."""
_CHUNK_BYTES = 2**20
_TIMEOUT_SECONDS = 60
FORMATS = {
    **dict.fromkeys((".csv", ".tsv", ".tab", ".txt"), CSV),
    **dict.fromkeys((".jsonl", ".ndjson", ".json"), JSON),
    **dict.fromkeys((".parquet", ".pq"), PARQUET),
}


def _zstandard(file: BinaryIO) -> Any:
    import pyarrow as pa

    return pa.CompressedInputStream(pa.PythonFile(file, "r"), "zstd")


_COMPRESSIONS: dict[bytes, Callable[[BinaryIO], Any]] = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\x00": lzma.LZMAFile,
    b"\x28\xb5\x2f\xfd": _zstandard,
}
COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
# How files begin that are no table, and what to do with each.
_OTHERS = {
    b"PK\x03\x04": "a zip archive or a workbook of a spreadsheet; unpack it, or save its table as CSV",
    b"\xd0\xcf\x11\xe0": "a workbook of an old spreadsheet; save its table as CSV",
    b"\x89PNG": "an image",
    b"\xff\xd8\xff": "an image",
    b"GIF8": "an image",
    b"%PDF": "a PDF; export its table as CSV",
    b"SQLite format 3": "an SQLite database; export its table as CSV",
    b"ARROW1": "a file of Arrow; write it as Parquet or CSV",
    b"\x89HDF": "a file of HDF5; write it as Parquet or CSV",
    b"\x7fELF": "a program",
    b"\x80\x04": "a pickle, which is never opened here; write it as Parquet or CSV",
    b"\x80\x05": "a pickle, which is never opened here; write it as Parquet or CSV",
    b"<!doctype html": "a web page, not the file behind it; use the address of the raw file",
    b"<html": "a web page, not the file behind it; use the address of the raw file",
    b"<?xml": "XML; export its table as CSV",
}


@dataclass(frozen=True, slots=True)
class Plain:
    """One file of a table, local and uncompressed: its path, its name for people, and its format."""

    path: Path
    name: str
    format: str


class Hashed(io.RawIOBase):
    """A stream that adds all bytes that are read to a hash, and counts them."""

    def __init__(self, stream: Any, digest: Any) -> None:
        self._stream = stream
        self._digest = digest
        self._n_bytes = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        chunk = self._stream.read(len(buffer))
        self._digest.update(chunk)
        self._n_bytes += len(chunk)
        buffer[: len(chunk)] = chunk
        return len(chunk)

    def position(self) -> int:
        """Return how many bytes were read."""
        return self._n_bytes

    def hexdigest(self) -> str:
        """Return the hash of what was read."""
        found: str = self._digest.hexdigest()
        return found


def fetch(source: str, folder: Path, *, format: str | None = None) -> tuple[list[Plain], str]:
    """Return the files of a table and the SHA-256 of their bytes as they came.

    `source` is a path, a pattern of paths such as `2026-*.csv`, `-` for standard input, or a URL. What is remote or
    compressed is written to `folder`. Raises `DataError` for what cannot be read or is no table.
    """
    digest = hashlib.sha256()
    try:
        names = _expanded(source)
        return [_plain(name, folder / f"part{number}", digest, format) for number, name in enumerate(names)], (
            digest.hexdigest()
        )
    except UNPACKING as error:
        raise DataError(f"{shown(source)} cannot be unpacked: {first_line(error)}; it may be cut off") from None
    except urllib.error.HTTPError as error:
        error.close()
        raise DataError(f"{shown(source)} was answered with status {error.code}") from None
    except OSError as error:
        reason = getattr(error, "reason", None) or error.strerror or error
        name = shown(source) if "://" in source else source
        raise DataError(f"{name} cannot be read: {reason}") from None


def shown(source: str) -> str:
    """Return a source for messages and manifests: the name of a file, or a URL without credentials and query."""
    if source == STANDARD_INPUT:
        return "standard input"
    if "://" not in source:
        return Path(source).name or source
    try:
        chain = [urlsplit(url) for url in URL_CHAIN.split(source)]
    except ValueError:
        return "the URL"
    bare = [parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="") for parts in chain]
    return "::".join(parts.geturl() for parts in bare)


def unpacker(head: bytes) -> Callable[[BinaryIO], Any] | None:
    """Return what unpacks a compressed file that begins so, None for one that is not compressed."""
    return next((found for magic, found in _COMPRESSIONS.items() if head.startswith(magic)), None)


def _expanded(source: str) -> list[str]:
    if "://" in source or source == STANDARD_INPUT or Path(source).exists() or not glob.has_magic(source):
        return [source]
    found = sorted(path for path in glob.glob(source, recursive=True) if Path(path).is_file())
    if not found:
        raise DataError(f"no file is called {source}; quote the pattern, and check the folder")
    return found


def _plain(source: str, target: Path, digest: Any, format: str | None) -> Plain:
    """Return one file in the form that DuckDB reads."""
    name = shown(source)
    with opened(source) as stream:
        hashed = io.BufferedReader(Hashed(stream, digest), _CHUNK_BYTES)
        head = hashed.peek(_CHUNK_BYTES)
        compression = unpacker(head)
        is_local = "://" not in source and source != STANDARD_INPUT and Path(source).is_file()
        if compression:
            with compression(cast(BinaryIO, hashed)) as unpacked, target.open("xb") as output:
                shutil.copyfileobj(unpacked, output, _CHUNK_BYTES)
                _read_rest(hashed)
        elif is_local:
            if glob.has_magic(source):  # DuckDB would take it for a pattern
                target.symlink_to(Path(source).resolve())
            else:
                target = Path(source)
            _read_rest(hashed)
        else:
            with target.open("xb") as output:
                shutil.copyfileobj(hashed, output, _CHUNK_BYTES)
    with target.open("rb") as file:
        start = file.read(4096)
    return Plain(target, name, format_of(name, start, format))


def _read_rest(stream: Any) -> None:
    """Read a stream to its end, for its hash."""
    while stream.read(_CHUNK_BYTES):
        pass


def format_of(name: str, start: bytes, wanted: str | None = None) -> str:
    """Return the format of a file by its first bytes, and, where they do not tell, as wanted or by its suffix.

    Raises `DataError` for what is no table.
    """
    wanted = wanted or FORMATS.get(_suffix(name))
    if not start:
        raise DataError(f"{name} is empty")
    if start.startswith(b"PAR1"):
        return PARQUET
    if wanted == PARQUET:
        raise DataError(f"{name} is not Parquet: it does not begin with PAR1")
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for magic, what in _OTHERS.items():
        if start.startswith(magic) or (magic.startswith(b"<") and text.startswith(magic)):
            raise DataError(f"{name} is not a table: it is {what}")
    if wanted:
        return wanted
    return JSON if text.startswith((b"{", b"[{", b"[\n", b"[ ", b"[\r\n")) else CSV


def has_suffix(name: str, others: Sequence[str] = ()) -> bool:
    """Return whether the name of a file, compressed or not, says a format, or has one of other suffixes."""
    return _suffix(name) in {*FORMATS, *others}


def _suffix(name: str) -> str:
    """Return the suffix of a name, or the one before that of a compression, in lower case."""
    suffixes = [suffix.lower() for suffix in Path(name).suffixes]
    return next((suffix for suffix in reversed(suffixes) if suffix not in COMPRESSED), "")


@contextmanager
def opened(source: str) -> Iterator[Any]:
    """Open a file, standard input or a URL, and yield its bytes as a stream. Raises `DataError` or `OSError`."""
    if source == STANDARD_INPUT:
        yield sys.stdin.buffer
    elif source.startswith(("http://", "https://")):
        with urllib.request.urlopen(source, timeout=_TIMEOUT_SECONDS) as reply:
            yield reply
    elif "://" in source:
        try:
            import fsspec

            file = fsspec.open(source, "rb").open()
        except ImportError as error:
            package = first_line(error)
            raise DataError(f"{shown(source)} needs a package that is not installed: {package}") from None
        except ValueError as error:
            raise DataError(f"{shown(source)} cannot be read: {first_line(error)}") from None
        with file as stream:
            yield stream
    else:
        if Path(source).is_dir():
            raise DataError(f"{shown(source)} is a folder; name a file in it, or a pattern such as '{source}/*.csv'")
        with open(source, "rb") as stream:
            yield stream


def quoted(text: str | Path) -> str:
    """Return a text as a literal of SQL."""
    return "'" + str(text).replace("'", "''") + "'"
