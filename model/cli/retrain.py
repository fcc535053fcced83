"""The command that repeats the training of a version on new rows."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from model import Artifact, ModelError, Store
from model.cli.arguments import LOG, REFERENCE, Commands, count, days_away, given, seconds, store_of
from model.cli.life import add_new_tag, check_tag, promote_new, tag_new
from model.cli.reading import add_dialect, reading
from model.cli.sign import add_signing, sign_new, signing_key
from model.cli.train import IF_BETTER, NEVER, POLICIES
from model.live import alerts
from model.store import runs
from model.store.runs import Recording
from model.store.versions import CHAMPION

if TYPE_CHECKING:
    from model.live.verdict import Comparison
    from model.store.signature import PrivateKey
    from model.table.description import Description
    from model.table.join import Joined
    from model.train.recipe import Trained


@dataclass(frozen=True, slots=True)
class _Rows:
    """The joined table: where it is, where its rows come from in words, and how many there are of each kind."""

    path: Path
    source: str
    joined: Joined


def add_retrain(commands: Commands) -> None:
    """Declare the command `retrain`."""
    retrain = commands.add_parser(
        "retrain",
        help="repeat the training of a version on new rows, and compare the new version with the champion",
        description="Repeats the recipe of a version: its learner, parameters, columns, derived features, target and "
        "split. Checks the new rows, trains, compares on held-out new rows that neither version was fitted on, and "
        "writes the candidate. The exit status is 0 if a version was written, promoted or not, and also if --if-alert "
        "finds nothing to do; 1 is an error, after which nothing is written. docs/retraining.md explains it.",
    )
    retrain.add_argument("model", help=f"whose recipe: {REFERENCE[11:]}")
    source = retrain.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", metavar="SOURCE", help="the new rows: a file, a pattern of files, or a URL")
    source.add_argument(
        "--from-log",
        nargs="?",
        const=LOG,
        metavar="URL",
        help="the new rows: those of the prediction log with features and true values: sqlite:///FILE or "
        f"postgresql://USER:PASSWORD@HOST/NAME (default: {LOG})",
    )
    retrain.add_argument("--days", type=days_away, default=30, help="how far back in the log (default: %(default)s)")
    retrain.add_argument("--with", dest="old", metavar="SOURCE", help="the old rows, which are trained on, too")
    retrain.add_argument(
        "--key",
        action="append",
        default=[],
        metavar="COLUMN",
        help="names a row: a new row replaces the old one with the same cell; several times for several columns "
        "(default: all rows are kept)",
    )
    retrain.add_argument("--search", action="store_true", help="compare learners again, as train does")
    retrain.add_argument("--budget", type=seconds, metavar="TIME", help="with --search, the time for all (default: 2m)")
    retrain.add_argument("--trials", type=count, metavar="COUNT", help="with --search, how many models to compare")
    retrain.add_argument(
        "--promote",
        choices=POLICIES,
        default=NEVER,
        help="make it the champion: always, or if it is better than the champion by more than the margin, as compare "
        "says it (default: %(default)s)",
    )
    retrain.add_argument("--margin", default="1%", help="the difference that matters, as in compare (default: 1%%)")
    retrain.add_argument(
        "--if-alert", metavar="URL", help="do nothing unless an alert of the model fires in the Prometheus at this URL"
    )
    retrain.add_argument(
        "--alert",
        action="append",
        metavar="NAME",
        help=f"with --if-alert, which one; several times (default: {' and '.join(alerts.ALERTS)})",
    )
    retrain.add_argument(
        "--if-older",
        type=seconds,
        metavar="TIME",
        help="do nothing unless the last version is so old, such as 168h, or an alert of --if-alert fires",
    )
    retrain.add_argument(
        "--cool-down",
        type=seconds,
        default=86_400.0,
        metavar="TIME",
        help="with --if-alert, do nothing so long after the last version was written, such as 12h (default: 24h)",
    )
    add_signing(retrain)
    add_new_tag(retrain)
    add_dialect(retrain, "the file of the new rows, where it is not written as the recipe says")
    retrain.set_defaults(run=_retrain)


def _retrain(options: argparse.Namespace) -> None:
    from model.cli.compare import margin_of

    margin_of(options.margin)  # refuses what is none, before the work
    check_tag(options.tag)
    if not options.search and (options.budget or options.trials):
        raise ValueError("--budget and --trials are of a search; add --search, or leave them out")
    key = signing_key(options.sign, promotes=options.promote != NEVER)
    store = store_of(options)
    model = store.load(options.model)
    store.check_takes(model.name)  # before the work
    with runs.recording(store, model.name, runs.RETRAIN, parameters=given(options)) as run:
        if (options.if_alert or options.if_older) and not _is_due(store, model, options):
            run.is_kept = False
            return
        _run(store, model, options, key, run)


def _is_due(store: Store, model: Artifact, options: argparse.Namespace) -> bool:
    """Print and return whether it is time: the last version is old, or an alert fires and it is not too new."""
    newest = store.load(f"{model.name}@{store.versions(model.name)[-1]}")
    age = datetime.now(UTC) - datetime.fromisoformat(newest.manifest.created_at)
    written = f"version {newest.version} was written {_duration(age)} ago"
    if options.if_older and age >= timedelta(seconds=options.if_older):
        print(f"due      {written}")
        return True
    found: list[str] = []
    if options.if_alert:
        champion = store.load(model.name)
        found = alerts.firing(options.if_alert, model.name, champion.version, options.alert or alerts.ALERTS)
    cool_down = timedelta(seconds=options.cool_down)
    if found and age >= cool_down:
        print(f"due      {' and '.join(found)} fires")
        return True
    why = f"{' and '.join(found)} fires, and --cool-down is {_duration(cool_down)}" if found else "no alert fires"
    print(f"due      nothing: {written}; {why if options.if_alert else 'no alert is asked for'}")
    return False


def _duration(length: timedelta) -> str:
    hours, rest = divmod(int(length.total_seconds()), 3600)
    return f"{hours} h {rest // 60} min" if hours else f"{rest // 60} min {rest % 60} s"


def _run(store: Store, model: Artifact, options: argparse.Namespace, key: PrivateKey | None, run: Recording) -> None:
    from model.train import checklist, findings, recipe, recipe_file
    from model.train.learners import AUTO
    from model.train.search.trials import steps

    known = recipe_file.read(model)
    run.add(learner=AUTO if options.search else known.learner)
    print(f"recipe   {_named(model)}: {known.learner}{_settings(known.options)}")
    with TemporaryDirectory(prefix="tabserve-retrain-") as temporary:
        rows = _rows(store, model, known, options, Path(temporary))
        plan = _plan(model, known, rows, options, Path(temporary))
        loaded = recipe.load(plan, tell=run.add)
        run.add(data={"source": rows.source})
        findings.print_loaded(loaded, source=rows.source)
        trained = recipe.train(loaded, runs=None)
        findings.print_trained(trained)
        checklist.print_comparing()
        draft = recipe.draft(trained, written_as=known)
        if trained.search:
            run.add(search=steps(trained.search.trials, draft.manifest["search"]))
    why = f"retrain of {_named(model)} on {rows.source}"
    made = store.load(f"{model.name}@{store.add(model.name, draft, why=_line(why)).name}")
    run.add_version(made.manifest.document)
    sign_new(store, made, key)
    tag_new(store, made, options.tag)
    checklist.print_version(made, store)
    _promote(store, made, trained, rows, options)
    checklist.print_use(made, store)


def _named(model: Artifact) -> str:
    return f"{model.name}@{model.version}"


def _settings(parameters: Mapping[str, Any]) -> str:
    return f" ({', '.join(f'{name} {value}' for name, value in parameters.items())})" if parameters else ""


def _line(text: str) -> str:
    """Return a text as the history takes it: a line of at most 500 characters."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)[:500]


def _rows(store: Store, model: Artifact, known: Description, options: argparse.Namespace, folder: Path) -> _Rows:
    """Check the new rows, join them with the old ones, and print how many there are. Raises `DataError`."""
    from model.table import join
    from model.table.source import shown
    from model.train import checklist

    new, old = folder / "new.parquet", folder / "old.parquet" if options.old else None
    if options.data:
        source = shown(options.data)
        _write(options.data, known, reading(options), new)
    else:
        source = f"the prediction log's last {options.days} days"
        _write_log(store, model, known, options, new)
    if old:
        _write(options.old, known, {}, old, is_checked=False)
    joined = join.join(old, new, folder / "rows.parquet", known, key=options.key)
    lines = [f"{joined.n_new:,} of {source}"]
    if joined.n_repeated:
        lines[0] += f", without {joined.n_repeated:,} that a later row with the same key replaces"
    if options.old:
        lines.append(f"{joined.n_old:,} of {shown(options.old)}")
        rule = f"a new row replaced those with the same {', '.join(options.key)}" if options.key else "all are kept"
        lines[1] += f", without {joined.n_replaced:,}: {rule}"
        source = f"{source} with {shown(options.old)}"
    checklist.print_under("rows", lines)
    return _Rows(folder / "rows.parquet", source, joined)


def _write(source: str, known: Description, given: Mapping[str, Any], path: Path, *, is_checked: bool = True) -> None:
    """Write a table in the form in which it is joined. Raises `DataError` if its check finds an error."""
    from model.table import checks, join
    from model.table.reader import open_table
    from model.train import checklist

    with open_table(source, **join.arguments(known, given)) as relation:
        written = join.as_written(relation, known, given)
        if is_checked:
            found = checks.check(relation, written)
            if found.errors:
                raise ModelError(checks.report(relation.source, found.findings))
            checklist.print_under("check", [f"new rows: {finding}" for finding in found.findings])
        join.write(relation, written, known, path)


def _write_log(store: Store, model: Artifact, known: Description, options: argparse.Namespace, path: Path) -> None:
    """Write the rows of the log in the form in which tables are joined, and print of which versions they are."""
    from model.live import logged_table
    from model.live.prediction_log import PredictionLog
    from model.table import join
    from model.train import checklist

    since = datetime.now(UTC) - timedelta(days=options.days)
    with closing(PredictionLog(options.from_log, read_only=True)) as log:
        table = logged_table.read(log, store, model, since=since)
    absent = [name for name in (known.group, known.time) if name and name not in table.columns]
    if absent:
        raise ModelError(
            f"the recipe of {_named(model)} parts the rows by {' and '.join(absent)}, which is no feature, so the log "
            "does not have it; name a table by --data"
        )
    rows = [f"{number:,} rows of version {version}" for version, number in table.rows.items()]
    checklist.print_under("log", [*rows, *(f"{number:,} {reason}" for reason, number in table.left_out.items())])
    plain = join.plain(known)
    logged = path.with_name("log.parquet")
    join.write_cells(table.columns, plain, logged)
    _write(str(logged), plain, {}, path)


def _plan(model: Artifact, known: Description, rows: _Rows, options: argparse.Namespace, folder: Path) -> Any:
    """Return the plan of the version's recipe for the joined rows."""
    from model.table import join, schema_file
    from model.train.learners import AUTO
    from model.train.recipe import RANDOM_STATE, Plan

    data = model.manifest.data
    schema_file.write(replace(join.plain(known), source=rows.source), folder / "recipe.toml")
    split = data.split if data else None
    return Plan(
        name=model.name,
        data=str(rows.path),
        schema=str(folder / "recipe.toml"),
        learner=AUTO if options.search else "",
        budget_seconds=options.budget,
        trials=options.trials,
        owner=model.manifest.tags.get("owner", ""),
        random_state=split.random_state if split else RANDOM_STATE,
    )


def _promote(store: Store, made: Artifact, trained: Trained, rows: _Rows, options: argparse.Namespace) -> None:
    """Compare a new version with the champion, print what is known, and promote it where the policy says so."""
    after = store.last_move(made.name)
    version = after.versions[CHAMPION] if after else made.version
    if after is None or version == made.version:
        return
    why = f"retrain --promote {options.promote}"
    try:
        found, sentence = _compare(store.load(f"{made.name}@{version}"), made, trained, rows, options.margin)
    except ModelError as error:
        print(f"compare  not with the champion {made.name}@{version}: {error}")
        found, sentence = None, "it could not be compared"
    else:
        print(f"compare  {sentence}")
    if options.promote == NEVER:
        return
    if options.promote == IF_BETTER:
        from model.live.verdict import Decision

        if found is None or found.decision is not Decision.BETTER:
            print(f"promote  no: version {version} stays the champion")
            return
        why = f"{why}: {sentence}"
    promote_new(store, made, after=after, why=_line(why))


def _compare(champion: Artifact, made: Artifact, trained: Trained, rows: _Rows, margin: str) -> tuple[Comparison, str]:
    """Return the comparison on held-out new rows that neither version was fitted on, and it as a sentence.

    Raises `ModelError` if there is no such row, or if nobody knows.
    """
    from model.cli.compare import margin_of
    from model.live import comparison, verdict
    from model.store import fitted_rows

    held_out = trained.fit.rows.validation
    is_new = trained.loaded.table.row_numbers[held_out] >= rows.joined.n_old
    X, y = trained.X[held_out[is_new]], trained.y[held_out[is_new]]
    seen, doubt = np.zeros(len(X), dtype=bool), ""
    for model in (champion, made):
        if (of_model := fitted_rows.has_seen(model, X, made.schema)) is not None:
            seen |= of_model
        else:
            doubt = "; many rows are equal, so others may be such rows, too"
    print(
        f"unseen   {len(X) - seen.sum():,} rows to compare on: of {len(held_out):,} held-out rows {len(X):,} are new, "
        f"and a version was fitted on {seen.sum():,} of these{doubt}"
    )
    if seen.all():
        raise ModelError("there is no new held-out row that neither was fitted on; bring more new rows")
    judged, loss = comparison.of_versions(champion, made, X[~seen], y[~seen])
    found = verdict.compare(comparison.evidence(judged, is_paired=True).losses, margin=margin_of(margin))
    names = (f"version {champion.version}", f"version {made.version}")
    return found, verdict.sentence(found, *names, loss.name, unit="rows")
