"""Archives of models: pack one version into a `.tar.gz`, and pull such an archive by URL into a store.

An archive is not trusted: its size is limited during the download, it is unpacked into a temporary folder and verified
as a server would, and only then moved into the store. Knows nothing about the layout of a store.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import re
import shutil
import tarfile
import uuid
import zlib
from pathlib import Path, PurePosixPath

from model.errors import ArchiveError, ArtifactError
from model.store import artifact
from model.store.artifact import Artifact
from model.store.download import download, parse_url
from model.store.history import check_aliases
from model.store.mounts import find_store
from model.store.signed import SIGNATURE, read_signature
from model.store.versions import CANDIDATE, CHAMPION, Store

MAX_DOWNLOAD_BYTES = 2**30  # about 3,000 times the example's archive
MAX_UNPACKED_BYTES = 2**31
MAX_SECONDS = 900.0
STALL_SECONDS = 30.0

_MAX_SHOWN = 500  # characters of a URL
_MAX_MEMBERS = 10_000  # an artifact has about a dozen files
_CHUNK_BYTES = 2**16
# tarfile reads chunks of files, or headers with long names, which it keeps in memory.
_MAX_READ_BYTES = 2**20


def files_of(model: Artifact) -> dict[str, bytes]:
    """Return what is packed of a version, by name: its files, its manifest and, if it is signed, its signature."""
    contents = {**artifact.read(model.path)[1], artifact.MANIFEST: artifact.manifest_content(model)}
    signature = read_signature(model.path)
    return contents if signature is None else {**contents, SIGNATURE: signature}


def pack(store: Store, reference: str, file: Path) -> str:
    """Verify a version, write it with its signature to `file` and return the SHA-256 of the file.

    The bytes depend only on the artifact, its signature and the version of zlib.
    """
    model = store.load(reference)
    contents = files_of(model)
    incoming = file.with_name(f".{file.name}.{uuid.uuid4().hex}")
    try:
        with (
            incoming.open("xb") as output,
            gzip.GzipFile("", "wb", fileobj=output, mtime=0) as packed,
            tarfile.open(fileobj=packed, mode="w:", format=tarfile.PAX_FORMAT) as archive,
        ):
            for name, content in sorted(contents.items()):
                member = tarfile.TarInfo(name)  # mode 0644, no owner, time 0
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        with incoming.open("rb") as finished:
            sha256 = hashlib.file_digest(finished, "sha256").hexdigest()
        incoming.replace(file)
    finally:
        incoming.unlink(missing_ok=True)
    return sha256


def pull(
    store: Store,
    url: str,
    *,
    sha256: str | None = None,
    alias: str | None = None,
    max_download_bytes: int = MAX_DOWNLOAD_BYTES,
    max_unpacked_bytes: int = MAX_UNPACKED_BYTES,
    max_seconds: float = MAX_SECONDS,
    stall_seconds: float = STALL_SECONDS,
) -> dict[Path, bool]:
    """Add the models of a `.tar.gz` to the store; return each version's folder, and whether it is new.

    The archive holds one artifact, which gets `alias` (default: champion), or a store with its own aliases. The history
    has the URL and the SHA-256 of the archive. A version that the store has already takes the signature that comes with
    it. Raises `ArchiveError` or `ArtifactError` and leaves the store unchanged.
    """
    if alias:
        try:
            check_aliases([alias])
        except ValueError as error:
            raise ArchiveError(str(error)) from None
        if alias == CANDIDATE:
            raise ArchiveError(f"the alias {alias} is that of the version that was trained last; choose another one")
    if sha256 and not re.fullmatch("[0-9a-fA-F]{64}", sha256):
        raise ArchiveError("the expected SHA-256 is not 64 hexadecimal digits")
    request, source = parse_url(url)
    with store.incoming() as folder:
        archive, unpacked = folder / "archive.tar.gz", folder / "unpacked"
        try:
            actual = download(
                request, archive, max_bytes=max_download_bytes, max_seconds=max_seconds, stall_seconds=stall_seconds
            )
            if sha256 and actual != sha256.lower():
                raise ArchiveError(f"has the SHA-256 {actual} where {sha256.lower()} is expected")
            _unpack(archive, unpacked, max_bytes=max_unpacked_bytes)
            root = find_store([unpacked])
            if root is None:
                raise ArchiveError("is neither an artifact nor a store with a model")
            downloaded = Store(root)
            if root.joinpath(artifact.MANIFEST).is_file():
                alias = alias or CHAMPION
            elif alias:
                raise ArchiveError("is a store, which has its own aliases; leave out the alias")
            _verify(downloaded)
        except ArchiveError as error:
            raise ArchiveError(f"{source}: {error}") from None
        except ArtifactError as error:
            path = error.path.relative_to(unpacked)
            raise ArchiveError(f"{source}: {path}: {error.reason}; {error.remedy}") from None
        versions = store.merge(downloaded, alias=alias, why=f"{_shown(source)} with the SHA-256 {actual}")
        for path, is_new in versions.items():
            if not is_new:
                _take_signature(downloaded.find(f"{path.parent.name}@{path.name}"), path)
                store.share_signature(path)
        return versions


def _take_signature(source: Path, target: Path) -> None:
    """Give a version that the store has the signature that came with it, if that is of the same manifest."""
    signature = read_signature(source)
    manifests = [(folder / artifact.MANIFEST).read_bytes() for folder in (source, target)]
    if signature is not None and signature != read_signature(target) and manifests[0] == manifests[1]:
        artifact.write_signature(target, signature)


def _shown(source: str) -> str:
    """Return a URL as a history takes it."""
    return "".join(letter if letter.isprintable() else "?" for letter in source[:_MAX_SHOWN])


def _verify(store: Store) -> None:
    """Load every version, check the aliases and their history, and remove every file that is neither listed nor a
    signature.
    """
    for name in store.names():
        versions = store.versions(name)
        for version in versions:
            _strip(store.load(f"{name}@{version}"))
        store.history(name)
        for alias, version in store.aliases(name).items():
            if version not in versions:
                raise ArtifactError(
                    store.root / name, f"has an alias {alias!r} to version {version}, which does not exist", "add it"
                )


def _strip(model: Artifact) -> None:
    listed = {model.path / name for name in (artifact.MANIFEST, SIGNATURE, *model.manifest.files)}
    for path in model.path.rglob("*"):
        if path.is_file() and path not in listed:
            path.unlink()


class _Decompressed(gzip.GzipFile):
    """The contents of a gzip file for tarfile: read forward only, in limited pieces, up to `max_bytes`."""

    def __init__(self, file: Path, *, max_bytes: int) -> None:
        super().__init__(file, "rb")
        self._max_bytes = max_bytes
        self._position = 0

    def read(self, size: int | None = -1) -> bytes:
        if size is None or not 0 <= size <= _MAX_READ_BYTES:
            raise ArchiveError(f"has a header of more than {_MAX_READ_BYTES} bytes")
        content = super().read(size)
        self._position += len(content)
        if self._position > self._max_bytes:
            raise ArchiveError(f"unpacks to more than {self._max_bytes} bytes")
        return content

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if offset < self._position:  # a negative size in a header would cause an endless loop
            raise ArchiveError("is not a complete .tar.gz: it points back")
        while self._position < offset and self.read(min(offset - self._position, _CHUNK_BYTES)):
            pass
        return self._position


def _unpack(archive: Path, folder: Path, *, max_bytes: int) -> None:
    """Unpack the folders and regular files of a `.tar.gz` into a new folder. Raises `ArchiveError` for the rest."""
    folder.mkdir()
    try:
        with _Decompressed(archive, max_bytes=max_bytes) as stream:
            with tarfile.open(fileobj=stream, mode="r:") as members:
                for number, member in enumerate(members, start=1):
                    if number > _MAX_MEMBERS:
                        raise ArchiveError(f"has more than {_MAX_MEMBERS} files")
                    _write(members, member, folder)
            while stream.read(_CHUNK_BYTES):  # to the end, where gzip checks its checksum
                pass
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, ValueError, RecursionError) as error:
        raise ArchiveError(f"is not a complete .tar.gz: {error}") from None


def _write(members: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    """Write one member. tarfile's own extraction would also make links and set owners and modes."""
    name = PurePosixPath(member.name)
    quoted = repr(member.name[:200])
    if name.is_absolute() or ".." in name.parts:
        raise ArchiveError(f"has a file outside its folder: {quoted}")
    path = folder / name
    try:
        if member.isdir():
            path.mkdir(parents=True, exist_ok=True)
            return
        content = None if member.issparse() or not member.isreg() else members.extractfile(member)
        if content is None:
            raise ArchiveError(f"has something that is neither a folder nor a regular file: {quoted}")
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as output:
            shutil.copyfileobj(content, output, _CHUNK_BYTES)
            output.flush()
            os.fsync(output.fileno())
    except (FileExistsError, NotADirectoryError, IsADirectoryError):
        raise ArchiveError(f"has a file name twice: {quoted}") from None
