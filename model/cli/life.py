"""The commands that move a model's aliases, and the one that prints every move."""

from __future__ import annotations

import argparse
import json
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta

from model import Artifact, ModelError, NotInStoreError, Store
from model.cli.arguments import LOG, REFERENCE, Commands, add_reasons, count, days_away, print_table, store_of
from model.cli.compare import STATUS, add_judging, judge
from model.cli.diff import golden, name_of, print_answers, rows_of
from model.cli.reading import add_dialect
from model.cli.sign import add_trusted_keys, print_verified, trusted
from model.errors import MovedError
from model.store import differences, life
from model.store.differences import Answers
from model.store.history import Move, check_aliases
from model.store.versions import CHAMPION, listed

_MAX_LOGGED = 10_000  # rows, of which a million take a minute


def add_promote(commands: Commands) -> None:
    """Declare the command `promote`."""
    promote = commands.add_parser(
        "promote",
        help="verify a version, say how many answers change, and make it the champion",
        description="Verifies the version as a server does, answers the golden rows and the last logged "
        "requests by both versions, and says how many answers change and by how much at most. Then it moves the alias "
        "in one step.",
    )
    promote.add_argument("model", help=REFERENCE)
    promote.add_argument(
        "--log", metavar="URL", help=f"a prediction log that keeps features (default: {LOG}, if it can be read)"
    )
    promote.add_argument("--days", type=days_away, default=7, help="how far back in the log (default: %(default)s)")
    promote.add_argument(
        "--if-better",
        action="store_true",
        help="only if compare says that it is better than the champion, by --data or --log; else the exit status is "
        "compare's: 3 worse, 4 practically equal, 5 undecided",
    )
    promote.add_argument(
        "--data",
        metavar="TABLE",
        help="with --if-better, a table with the target; rows that one of both was fitted on are left out",
    )
    add_judging(promote)
    add_dialect(promote, "the table's file, where it is not found out rightly")
    promote.add_argument("--dry-run", action="store_true", help="say what changes, and move nothing")
    add_trusted_keys(promote)
    add_reasons(promote)
    promote.set_defaults(run=_promote)


def _promote(options: argparse.Namespace) -> int:
    if options.if_better and not (options.data or options.log):
        raise ValueError("--if-better needs true values: name a table by --data, or the prediction log by --log")
    if options.data and not options.if_better:
        raise ValueError("--data is of --if-better; add it, or leave out the table")
    store = store_of(options)
    after = store.last_move(options.model.partition("@")[0])
    signed = trusted(options)
    model = store.load(options.model, signed=signed)
    print_verified(model, is_signed=signed is not None)
    _warn_of_history(store, model.name)
    version = after.versions.get(CHAMPION) if after else None
    if version == model.version:
        print(f"champion {name_of(model)} is the champion already")
        return 0
    if version is None:
        print(f"champion {model.name} has none, so no answer changes")
    else:
        _print_changes(store, f"{model.name}@{version}", model, options)
    why = options.why
    if options.if_better and version is not None:
        from model.train import checklist

        decision, sentence, details = judge(store, model.name, version, model.version, options)
        checklist.print_under("compare", [sentence, *details])
        if status := STATUS[decision]:
            print(f"moved    nothing: version {version} stays the champion")
            return status
        why = why or f"--if-better: {sentence}"
    if options.dry_run:
        print("moved    nothing: this is a dry run")
        return 0
    print_moved(model.name, life.promote(store, model, after=after, why=why, by=options.by))
    return 0


def _warn_of_history(store: Store, name: str) -> None:
    """Print what is wrong with the history, behind which a move can still be made."""
    try:
        store.history(name)
    except ModelError as error:
        print(f"mind     {error}")


def _print_changes(store: Store, reference: str, new: Artifact, options: argparse.Namespace) -> None:
    """Print how the schema and the answers change from the champion to another version."""
    try:
        old = store.load(reference)
    except ModelError as error:  # a reason to promote another one
        print(f"answers  not compared: the champion does not load: {error}")
        return
    for part, line in differences.facts(old.manifest.document, new.manifest.document):
        if part == "schema":
            print(f"schema   {line}")
    print_answers(golden(old, new))
    since = datetime.now(UTC) - timedelta(days=options.days)
    try:
        logged = _logged(old, new, options.log or LOG, since)
    except ModelError as error:
        if options.log:
            raise
        logged = f"not compared: {error} (--log)"
    print_answers({f"the log's last {options.days} days": logged})


def _logged(old: Artifact, new: Artifact, url: str, since: datetime) -> Answers | str:
    """Return how the answers to the champion's last logged rows change."""
    from model.live.prediction_log import PredictionLog

    with closing(PredictionLog(url, read_only=True)) as log:
        rows = log.read(
            old.name,
            old.version,
            features=old.schema.names,
            since=since,
            from_log=[kind.from_log for kind in old.schema.cells],
            n_classes=len(old.manifest.classes),
        )
    X = rows.X[rows.with_features][-_MAX_LOGGED:]
    if not len(X):
        return f"not compared: it has no row of {name_of(old)} with its features"
    return rows_of(X, old, old, new)


def print_moved(name: str, move: Move) -> None:
    """Print a move, and what makes a server follow it."""
    print(f"moved    {name}, move {move.number}: {move}")
    print(
        "servers  that load it follow within TABSERVE_RELOAD_SECONDS, 10 unless set, and the time to verify it; from a "
        "store behind a URL, that of a download, too"
    )


def add_rollback(commands: Commands) -> None:
    """Declare the command `rollback`."""
    rollback = commands.add_parser("rollback", help="make the champion before the current one the champion again")
    rollback.add_argument("name", help="the model's name")
    add_trusted_keys(rollback)
    add_reasons(rollback)
    rollback.set_defaults(run=_rollback)


def _rollback(options: argparse.Namespace) -> None:
    store, signed = store_of(options), trusted(options)
    print_moved(options.name, life.rollback(store, options.name, signed=signed, why=options.why, by=options.by))


def add_tag(commands: Commands) -> None:
    """Declare the command `tag`."""
    tag = commands.add_parser("tag", help="point an alias, such as challenger, to a version, or take it away")
    tag.add_argument("model", help=f"{REFERENCE}; with --remove, NAME")
    tag.add_argument("alias", help="lower-case letters, digits and dashes; not champion and not candidate")
    tag.add_argument("--remove", action="store_true", help="take the alias away")
    add_reasons(tag)
    tag.set_defaults(run=_tag)


def _tag(options: argparse.Namespace) -> None:
    change = life.untag if options.remove else life.tag
    move = change(store_of(options), options.model, options.alias, why=options.why, by=options.by)
    print_moved(options.model.partition("@")[0], move)


def add_new_tag(command: argparse.ArgumentParser) -> None:
    """Declare the alias that a new version gets."""
    command.add_argument(
        "--tag", default="", metavar="ALIAS", help="point this alias, such as challenger, to the new version, too"
    )


def check_tag(alias: str) -> None:
    """Raise `ValueError` for what cannot be an alias of a new version; empty is none."""
    if alias:
        check_aliases([alias])
        life.check_own(alias)


def tag_new(store: Store, model: Artifact, alias: str) -> None:
    """Point an alias, if there is one, to a version that was just added, whoever else moves aliases meanwhile."""
    while alias:
        with suppress(MovedError):
            life.tag(store, name_of(model), alias)
            return


def promote_new(store: Store, model: Artifact, *, after: Move, why: str) -> None:
    """Make a version that was just added the champion and print the move; `after` is the last one before the decision.

    If another writer moves the champion meanwhile, that is printed, and the new version stays the candidate. Moves of
    other aliases do not count.
    """
    while True:
        try:
            print_moved(model.name, life.promote(store, model, after=after, why=why))
            return
        except MovedError as error:
            last = store.last_move(model.name)
            if last is None or last.aliases.get(CHAMPION) != after.aliases.get(CHAMPION):
                print(f"promote  no: {error}")
                return
            after = last


def add_prune(commands: Commands) -> None:
    """Declare the command `prune`."""
    prune = commands.add_parser("prune", help="take away old versions that have no alias")
    prune.add_argument("name", help="the model's name")
    prune.add_argument(
        "--keep",
        type=count,
        required=True,
        metavar="N",
        help="keep the N newest versions, those with an alias, and the one that a rollback goes back to",
    )
    prune.add_argument("--dry-run", action="store_true", help="say what goes, and take nothing away")
    add_reasons(prune)
    prune.set_defaults(run=_prune)


def _prune(options: argparse.Namespace) -> None:
    store = store_of(options)
    if not store.versions(options.name):
        store.find(options.name)  # raises
    if options.dry_run:
        gone = life.prunable(store, options.name, keep=options.keep)
    else:
        gone = life.prune(store, options.name, keep=options.keep, why=options.why, by=options.by)
    for version in gone:
        print(f"{options.name}@{version} {'would go' if options.dry_run else 'is gone'}")
    if not gone:
        print(f"nothing to take away: {options.name} has the versions {listed(store.versions(options.name))}")


def add_history(commands: Commands) -> None:
    """Declare the command `history`."""
    history = commands.add_parser(
        "history", help="print every move of a model's aliases, after checking that each follows the one before"
    )
    history.add_argument("name", help="the model's name")
    history.add_argument("--json", action="store_true", help="print a list of objects instead")
    history.set_defaults(run=_history)


def _history(options: argparse.Namespace) -> None:
    store = store_of(options)
    moves = store.history(options.name)
    if not moves:
        store.find(options.name)  # an unknown model has its own message
        raise NotInStoreError(
            f"the model {options.name!r} has no history: {store.place} is one artifact and not a store"
        )
    if options.json:
        print(json.dumps([move.to_document() for move in moves], indent=1))
        return
    print_table([("move", "when", "who", "what"), *((str(each.number), each.at, each.by, str(each)) for each in moves)])
    print(f"the last has the SHA-256 {moves[-1].sha256}")
