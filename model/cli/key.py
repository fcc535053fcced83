"""The commands of access keys: key new, key list, key revoke. A server reads the file that `TABSERVE_KEYS` names."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime, timedelta
from pathlib import Path

from model.cli.arguments import Commands, count, days_away, print_table
from model.keys import (
    KEY_NAME,
    SCOPE,
    SCOPES,
    AccessKey,
    add_key,
    digest_of,
    new_key,
    parse_rate,
    read_keys,
    revoke_keys,
)

_SHOWN_DIGITS = 12  # of a SHA-256, enough to tell keys apart


def add_keys(commands: Commands) -> None:
    """Declare the command `key` with its three actions."""
    key = commands.add_parser("key", help="make, list and revoke the keys that clients of a server send")
    actions = key.add_subparsers(required=True, metavar="ACTION")
    new = actions.add_parser("new", help="print a new key once, and add its hash to the file")
    new.add_argument("name", type=_name, help="who gets it; several keys may have one name while one replaces another")
    new.add_argument(
        "--scope", type=_scope, action="append", required=True, help=f"what it may do: {SCOPES}; several times for more"
    )
    new.add_argument("--expires", type=days_away, metavar="DAYS", help="such as 90d (default: never)")
    new.add_argument("--rate", type=_rate, help="most requests, such as 100/s, 6000/m or 500/h (default: as set)")
    new.add_argument("--burst", type=count, help="how many of them may come at once (default: those of a second)")
    _add_file(new)
    new.set_defaults(run=_new)
    shown = actions.add_parser("list", help="the keys of the file: names, scopes, expiry, the start of each SHA-256")
    _add_file(shown)
    shown.set_defaults(run=_list)
    revoke = actions.add_parser("revoke", help="remove the keys of a name from the file")
    revoke.add_argument("name", type=_name, help="whose keys")
    revoke.add_argument("--sha256", default="", metavar="START", help="only the key whose SHA-256 starts so (see list)")
    _add_file(revoke)
    revoke.set_defaults(run=_revoke)


def _add_file(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--file",
        type=Path,
        default=Path("access-keys.jsonl"),
        metavar="FILE",
        help="the file of keys that TABSERVE_KEYS names (default: %(default)s)",
    )


def _name(text: str) -> str:
    if not KEY_NAME.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not 1 to 64 letters, digits, dots, dashes and underscores")
    return text


def _scope(text: str) -> str:
    if not SCOPE.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not {SCOPES}")
    return text


def _rate(text: str) -> float:
    try:
        return parse_rate(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is {error}") from None


def _new(options: argparse.Namespace) -> None:
    if options.burst and not options.rate:
        raise ValueError("--burst needs --rate")
    key = new_key()
    expires = datetime.now(UTC) + timedelta(days=options.expires) if options.expires else None
    scopes = tuple(dict.fromkeys(options.scope))
    add_key(options.file, AccessKey(options.name, digest_of(key), scopes, expires, options.rate, options.burst))
    until = f"until {expires:%Y-%m-%d %H:%M} UTC" if expires else "until it is revoked"
    print(key)
    print(f"This is the key of {options.name}, {until}, for {', '.join(scopes)}. It is shown only now:")
    print(f"{options.file} has its SHA-256. A running server accepts it after SIGHUP.")


def _list(options: argparse.Namespace) -> None:
    now = datetime.now(UTC)
    rows = [("name", "scopes", "expires", "rate", "sha256")]
    for key in read_keys(options.file):
        expires = f"{key.expires:%Y-%m-%d %H:%M}" if key.expires else "never"
        expires += " (expired)" if key.expires and key.expires <= now else ""
        rate = f"{key.rate:g}/s" if key.rate else ""
        rows.append((key.name, ", ".join(key.scopes), expires, rate, key.sha256[:_SHOWN_DIGITS]))
    print_table(rows)


def _revoke(options: argparse.Namespace) -> None:
    gone = revoke_keys(options.file, options.name, options.sha256.lower())
    if not gone:
        raise ValueError(f"{options.file} has no such key of {options.name}; see key list")
    for key in gone:
        print(f"revoked {key.name} {key.sha256[:_SHOWN_DIGITS]}; a running server accepts it until SIGHUP")
