"""The commands that move a version: pack and pull."""

from __future__ import annotations

import argparse
from pathlib import Path

from model.cli.arguments import REFERENCE, Commands, store_of
from model.store import archive, oci


def add_pack(commands: Commands) -> None:
    """Declare the command `pack`."""
    pack = commands.add_parser(
        "pack", help="write one version to an archive or an OCI layout, and print its SHA-256 or digest"
    )
    pack.add_argument("model", help=REFERENCE)
    pack.add_argument(
        "file", type=Path, nargs="?", help="the archive, a .tar.gz; the same version gives the same bytes"
    )
    pack.add_argument(
        "--oci", type=Path, metavar="FOLDER", help="write an OCI layout with a ModelPack to a new folder, in its place"
    )
    pack.add_argument(
        "--image", action="store_true", help="with --oci: an image with the files in /models, as KServe asks for"
    )
    pack.set_defaults(run=_pack)


def _pack(options: argparse.Namespace) -> None:
    if (options.file is None) == (options.oci is None):
        raise ValueError("name either the archive, or a folder with --oci")
    if options.oci is None:
        if options.image:
            raise ValueError("--image is a form of --oci; name its folder")
        print(f"{archive.pack(store_of(options), options.model, options.file)}  {options.file}")
        return
    digest = oci.pack(store_of(options), options.model, options.oci, is_image=options.image)
    print(f"{digest}  {options.oci}")


def add_pull(commands: Commands) -> None:
    """Declare the command `pull`."""
    pull = commands.add_parser("pull", help="download an archive, verify it and add its models to the store")
    pull.add_argument("url", help="a .tar.gz of one version or of a store: http, https or file")
    pull.add_argument("--sha256", metavar="HEX", help="expected SHA-256 of the archive; empty: not checked")
    pull.add_argument("--alias", help="alias of the version (default: champion; an archive of a store has its own)")
    pull.add_argument(
        "--max-bytes",
        type=int,
        default=archive.MAX_DOWNLOAD_BYTES,
        help="largest archive that is downloaded (default: %(default)s)",
    )
    pull.add_argument(
        "--max-unpacked-bytes",
        type=int,
        default=archive.MAX_UNPACKED_BYTES,
        help="largest size that it may unpack to (default: %(default)s)",
    )
    pull.add_argument(
        "--max-seconds",
        type=float,
        default=archive.MAX_SECONDS,
        help="longest time for the whole download, DNS included (default: %(default)s)",
    )
    pull.set_defaults(run=_pull)


def _pull(options: argparse.Namespace) -> None:
    store = store_of(options)
    versions = archive.pull(
        store,
        options.url,
        sha256=options.sha256,
        alias=options.alias,
        max_download_bytes=options.max_bytes,
        max_unpacked_bytes=options.max_unpacked_bytes,
        max_seconds=options.max_seconds,
    )
    for path, is_new in versions.items():
        state = "verified, now" if is_new else "already"
        print(f"{path.parent.name} version {path.name}: {state} in {store.place_of(path)}")
