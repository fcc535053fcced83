"""The command about the runs that made versions: lists, shows, compares, draws and removes them."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model import ModelError, NotInStoreError, Store, short
from model.cli.arguments import Commands, count, print_table, store_of
from model.errors import counted, one_line
from model.store import runs
from model.store.runs import FINISHED, Run

if TYPE_CHECKING:
    from model.plots.runs import Point

_MAX_SHOWN = 64  # characters of a value
_MAX_TRIALS = 20  # that are shown


def add_runs(commands: Commands) -> None:
    """Declare the command `runs`."""
    command = commands.add_parser(
        "runs",
        help="list every training, import and export with its outcome; show one, compare two, plot all",
        description="Lists what was run to make versions, failed runs too. A run is named by its id, by the beginning "
        "of it, or by its version, such as @3 or @champion. docs/runs.md says what is kept.",
    )
    command.add_argument("name", nargs="?", help="only this model")
    what = command.add_mutually_exclusive_group()
    what.add_argument("--show", metavar="RUN", help="print all that is known of one run, with the trials of its search")
    what.add_argument("--compare", nargs=2, metavar="RUN", help="print what two runs say differently")
    what.add_argument("--plot", type=Path, metavar="FILE", help="draw the metrics over the runs into a PNG file")
    what.add_argument(
        "--keep",
        type=count,
        metavar="N",
        help="remove all but the N newest runs; those that wrote a version of the store stay",
    )
    add_mlflow(what, "send the runs, versions and aliases that are not there yet to an MLflow server")
    command.add_argument("--json", action="store_true", help="print JSON instead")
    command.set_defaults(run=_runs)


def add_mlflow(parser: argparse._ActionsContainer, help: str) -> None:
    """Declare the option that names an MLflow server."""
    parser.add_argument(
        "--mlflow", nargs="?", const="", metavar="URI", help=f"{help} (default: the one in MLFLOW_TRACKING_URI)"
    )


def _runs(options: argparse.Namespace) -> None:
    store = store_of(options)
    if options.plot and options.plot.suffix.lower() != ".png":
        raise ValueError(f"--plot writes a PNG, and {options.plot} is none by its name; name a file that ends in .png")
    if options.plot and options.json:
        raise ValueError("--plot draws a picture, which is no JSON; leave out --plot or --json")
    one = options.show or options.compare or options.keep
    if one and not options.name:
        raise ValueError("name the model, too: --show, --compare and --keep are about the runs of one")
    names = [options.name] if options.name else store.listed()
    found: dict[str, list[Run]] = {}
    for name in names:
        found[name], damaged = runs.read(store, name)
        for error in damaged:
            print(f"damaged  {one_line(str(error))}", file=sys.stderr)
        if not found[name] and not damaged and options.name:
            if not store.versions(name):
                store.find(name)  # an unknown model has its own message
            if options.mlflow is None:  # which takes versions without runs, too
                raise NotInStoreError(f"no run of the model {name!r} was recorded in the store {store.place}")
    if options.show:
        _show(_find(store, found[options.name], options.show), as_json=options.json)
    elif options.compare:
        _compare(*(_find(store, found[options.name], each) for each in options.compare), as_json=options.json)
    elif options.keep:
        _keep(store, options.name, options.keep)
    elif options.mlflow is not None:
        for name in dict.fromkeys([*found, *([] if options.name else store.names())]):
            if found.get(name) or store.versions(name):
                send(store, name, options.mlflow)
    elif options.plot:
        _plot(found, options.plot)
    else:
        _list([run for each in found.values() for run in each], store, as_json=options.json)


def _find(store: Store, found: Sequence[Run], wanted: str) -> Run:
    """Return the run that a person names; an alias is that of its version."""
    alias = wanted.removeprefix("@")
    if wanted.startswith("@") and not alias.isdecimal() and found:
        wanted = f"@{store.version(f'{found[0].model}@{alias}')}"
    return runs.find(found, wanted)


def _list(found: Sequence[Run], store: Store, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps([run.to_document() for run in found], indent=1, ensure_ascii=False))
    elif found:
        head = ("run", "model", "kind", "outcome", "learner", "rows", "result", "seconds")
        print_table([head, *map(_row, found)])
    else:
        print(f"no run was recorded in the store {store.place}", file=sys.stderr)


def _row(run: Run) -> tuple[str, ...]:
    metric, part, value = runs.headline(run.part("metrics"))
    result = f"{metric.replace('_', ' ')} {value:.4g} ({part})" if value is not None else _text(run.error)
    rows = run.part("data").get("rows")
    return (
        run.id,
        f"{run.model}@{run.version}" if run.version else run.model,
        run.kind,
        run.outcome,
        _text(run.learner),
        f"{rows:,}" if type(rows) is int else "",
        result,
        f"{run.seconds:.1f}",
    )


def _show(run: Run, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(run.to_document(), indent=1, ensure_ascii=False))
        return
    wrote = f", wrote {run.model}@{run.version}" if run.version else ""
    print(f"run      {run.id} of {run.model}: {run.kind}, {run.outcome}{wrote}")
    print(f"time     {run.started_at}, {run.seconds:.1f} s, by {one_line(run.by)}")
    if run.error:
        for line in run.error.split("\n"):
            print(f"error    {one_line(line)}")
    rest = {"model": run.part("hyperparameters"), "metrics": run.part("metrics")}
    parts = {"asked": run.parameters, "data": run.part("data"), "code": run.code, "machine": run.environment, **rest}
    for word, part in parts.items():
        for name, value in runs.flat(part):
            print(f"{word:<8} {one_line(name)}: {_text(value)}")
    _show_search(run.part("search"))


def _show_search(search: Mapping[str, Any]) -> None:
    """Print the leaderboard of a search, if it came to its end, and the best of its trials."""
    board, trials = search.get("leaderboard", []), search.get("trials", [])
    if board:
        print()
        rows = [
            (each["learner"], _text(each["mean"]), _interval(each), str(each["trial"]), str(each["trials"]))
            for each in board
        ]
        print_table([("learner", str(search.get("metric")), "95 % interval", "best trial", "trials"), *rows])
    if trials:
        print()
        print_table([("trial", "learner", "state", "score", "seconds", "parameters"), *map(_trial_row, _best(trials))])
    n_trials = search.get("n_trials", 0)
    if n_trials > min(len(trials), _MAX_TRIALS):
        print(f"these are the best of {n_trials} trials; --json has all that are kept")


def _best(trials: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the trials with the lowest scores, those that did not end last."""
    return sorted(trials, key=lambda trial: (trial["state"] != "complete", _mean(trial)))[:_MAX_TRIALS]


def _mean(trial: Mapping[str, Any]) -> float:
    found = runs.score(trial)
    return float("inf") if found is None else found


def _trial_row(trial: Mapping[str, Any]) -> tuple[str, ...]:
    mean = runs.score(trial)
    score = "" if mean is None else short(mean)
    asked = ", ".join(f"{name} {_text(value)}" for name, value in trial["parameters"].items())
    said = one_line(trial.get("reason", "")) or asked
    cut = said if len(said) <= _MAX_SHOWN else f"{said[:_MAX_SHOWN]}…"
    return str(trial["number"]), trial["learner"], trial["state"], score, f"{trial['seconds']:.1f}", cut


def _interval(entry: Mapping[str, Any]) -> str:
    return "one fold: none" if entry["high"] is None else f"{_text(entry['low'])} to {_text(entry['high'])}"


def _compare(old: Run, new: Run, *, as_json: bool) -> None:
    found = runs.differences(old, new)
    if as_json:
        documents = [{"part": part, "name": name, "old": before, "new": after} for part, name, before, after in found]
        print(json.dumps(documents, indent=1, ensure_ascii=False))
        return
    rows = [(part, one_line(name), _text(before), _text(after)) for part, name, before, after in found]
    ends = [f"{run.id} @{run.version}" if run.version else run.id for run in (old, new)]
    print_table([("part", "fact", *ends), *rows])
    if not found:
        print("no difference in parameters, data, code, environment, model and metrics")


def _text(value: Any) -> str:
    text = "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
    text = one_line(text)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"


def _keep(store: Store, name: str, keep: int) -> None:
    gone = runs.removable(store, name, keep=keep)
    runs.remove(store, name, gone)
    for id in gone:
        print(f"{id} is gone")
    if not gone:
        print("nothing to remove: no older run is without a version of the store")


def send(store: Store, name: str, uri: str) -> None:
    """Send the runs, versions and aliases of a model to an MLflow server, and print what was new to it."""
    from model import on_mlflow

    sent = on_mlflow.send(store, name, uri)
    print(f"mlflow   {name}: {sent}")
    for problem in sent.problems:
        print(f"mlflow   {name}: not sent: {one_line(problem)}", file=sys.stderr)


def _points(found: Sequence[Run], metric: str) -> list[Point]:
    """Return the runs that have this metric, or none at all, as the points of a figure."""
    from model.plots.runs import Point

    points: list[Point] = []
    last = None
    for run in found:
        metrics = run.part("metrics")
        if metrics and runs.headline(metrics)[0] != metric:
            continue
        sha256 = run.part("data").get("sha256")
        held_out, training = ((metrics.get(part) or {}).get(metric) for part in ("validation", "training"))
        is_other = last is not None and sha256 is not None and sha256 != last
        points.append(Point(run.started_at[5:16].replace("T", " "), run.version, held_out, training, is_other))
        last = sha256 or last
    return points


def _plot(found: Mapping[str, Sequence[Run]], path: Path) -> None:
    from model.plots import runs as plots
    from model.plots import style

    panels = []
    for name, each in found.items():
        metrics = dict.fromkeys(runs.headline(run.part("metrics"))[0] for run in each if run.outcome == FINISHED)
        panels += [(f"{name}: {metric.replace('_', ' ')}", _points(each, metric)) for metric in metrics]
    if not panels:
        raise NotInStoreError("there is nothing to draw: no run has finished")
    picture = style.to_png(plots.runs(panels))
    try:
        path.write_bytes(picture)
    except OSError as error:
        raise ModelError(f"{path} cannot be written: {error.strerror}; name a file in a folder that exists") from None
    print(f"written  {path}: {counted(sum(map(len, found.values())), 'run')}")
