"""The command that trains a model on a table."""

from __future__ import annotations

import argparse
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from model import Artifact, ModelError, Store
from model.cli.arguments import Commands, add_words, count, days, given, seconds, store_of
from model.cli.life import add_new_tag, check_tag, promote_new, tag_new
from model.cli.reading import add_reading, reading
from model.cli.runs import add_mlflow, send
from model.cli.sign import add_signing, sign_new, signing_key
from model.store import differences, runs
from model.store.runs import Recording
from model.store.versions import CHAMPION
from model.train.learners import LEARNER_NAMES, LEARNERS

if TYPE_CHECKING:
    from model.store.signature import PrivateKey
    from model.train.recipe import Plan, Trained


POLICIES = ALWAYS, IF_BETTER, NEVER = "always", "if-better", "never"


def add_train(commands: Commands) -> None:
    """Declare the command `train`, with the options of every learner."""
    train = commands.add_parser(
        "train",
        help="search for the best model of a table, prove it, and write it as the candidate",
        description="Reads and checks the table, compares learners within a time, and writes the best one that is "
        "served exactly: python -m model train prices --data houses.csv --target price. The first version of a model "
        "is its champion, which a server loads; a later one is the candidate until it is promoted. docs/training.md "
        "says more.",
    )
    train.add_argument(
        "name", help="the model's name; boston-housing and height-weight come with a table, a target and a learner"
    )
    train.add_argument(
        "--data",
        default="",
        metavar="SOURCE",
        help="the table: a file, a pattern of files, a URL, or - for standard input",
    )
    train.add_argument("--target", default="", metavar="COLUMN", help="the column to predict")
    train.add_argument(
        "--task",
        default="",
        choices=("regression", "classification"),
        help="what to predict of the target, where it could be numbers or labels (default: as its type says)",
    )
    train.add_argument(
        "--group", default="", metavar="COLUMN", help="rows of a group are never on both sides of a split"
    )
    train.add_argument(
        "--time",
        default="",
        metavar="COLUMN",
        help="a column of dates or numbers: later rows judge a model of earlier ones",
    )
    train.add_argument(
        "--date",
        default="",
        metavar="COLUMN",
        help="the dates of the rows, by which --max-age is judged",
    )
    train.add_argument(
        "--max-age",
        type=days,
        metavar="DAYS",
        help="how old the newest row may be by --date, such as 30d (default: any age)",
    )
    train.add_argument(
        "--feature",
        action="append",
        default=[],
        metavar="FEATURE",
        help="a derived feature, such as 'per_room = price / rooms', or the name of a shared one; several times",
    )
    train.add_argument(
        "--features", default="", metavar="FILE", help="the TOML file of shared ones that --feature names"
    )
    train.add_argument(
        "--learner", default="", choices=LEARNER_NAMES, help="what to fit (default: auto, which compares them all)"
    )
    train.add_argument(
        "--budget", type=seconds, metavar="TIME", help="time for all, such as 90s, 10m or 2h (default: 2m)"
    )
    train.add_argument(
        "--trials", type=count, metavar="COUNT", help="compare so many models instead, the same ones each time"
    )
    train.add_argument(
        "--backend",
        default="",
        choices=("spark",),
        help="fit the folds of each trial side by side on a cluster, with the same model; needs requirements-spark.txt",
    )
    train.add_argument(
        "--max-rows",
        type=count,
        default=1_000_000,
        metavar="COUNT",
        help="use so many rows of a larger table, drawn at random (default: %(default)s)",
    )
    train.add_argument(
        "--random-state", type=_seed, default=7, metavar="SEED", help="seed of splits, search and fits (default: 7)"
    )
    add_words(train)
    train.add_argument("--notebook", action="store_true", help="train through a notebook, which the artifact keeps")
    train.add_argument(
        "--promote",
        choices=POLICIES,
        default=NEVER,
        help="make it the champion where there is one: always, or if it is better on the held-out rows beyond the "
        "95 %% interval of the difference (default: %(default)s)",
    )
    add_mlflow(train, "then send what is new of the model to an MLflow server")
    add_signing(train)
    add_new_tag(train)
    add_reading(train)
    for name, learner in LEARNERS.items():
        if learner.options:
            group = train.add_argument_group(f"{name}, {learner.title}")
            for option, details in learner.options.items():
                group.add_argument(f"--{option.replace('_', '-')}", default=argparse.SUPPRESS, **details)
    train.set_defaults(run=_train)


def _seed(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 10 and int(text) < 2**32):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to {2**32 - 1}")
    return int(text)


def _plan(options: argparse.Namespace) -> Plan:
    from model.train.recipe import Plan

    plan = Plan(
        name=options.name,
        data=options.data,
        schema=str(options.schema or ""),
        reading=reading(options),
        types=dict(options.types),
        missing=tuple(options.missing),
        target=options.target,
        task=options.task,
        group=options.group,
        time=options.time,
        date=options.date,
        max_age_days=options.max_age,
        features=tuple(options.feature),
        shared=options.features,
        learner=options.learner,
        budget_seconds=options.budget,
        trials=options.trials,
        max_rows=options.max_rows,
        random_state=options.random_state,
        backend=options.backend,
        title=options.title,
        unit=options.unit,
        purpose=options.purpose,
        limits=options.limits,
        owner=options.owner,
        license=options.license,
    )
    return _with_options(plan, vars(options))


def _with_options(plan: Plan, said: dict[str, Any]) -> Plan:
    """Return the plan with the options of its learner. Raises `ValueError` for those of another one."""
    from dataclasses import replace

    learner = plan.resolved().learner
    chosen = {}
    for name, each in LEARNERS.items():
        for option in said.keys() & each.options.keys():
            if name != learner:
                flag = f"--{option.replace('_', '-')}"
                raise ValueError(f"{flag} is an option of the {name}; leave it out for the {learner}")
            chosen[option] = said[option]
    return replace(plan, options=chosen)


def _train(options: argparse.Namespace) -> None:
    models = store_of(options)
    models.check_takes(options.name)  # before the work
    is_first = CHAMPION not in models.aliases(options.name)
    key = signing_key(options.sign, promotes=is_first or options.promote != NEVER)
    try:
        with runs.recording(models, options.name, runs.TRAIN, parameters=given(options)) as run:
            _train_recorded(options, models, key, run)
    finally:
        if options.mlflow is not None:
            try:
                send(models, options.name, options.mlflow)
            except ModelError as error:  # the run is kept, and its version is in the store
                print(f"mlflow   not sent: {error}", file=sys.stderr)


def _train_recorded(options: argparse.Namespace, models: Store, key: PrivateKey | None, run: Recording) -> None:
    from model.train import checklist, findings, recipe
    from model.train.search import journal
    from model.train.search.trials import steps

    check_tag(options.tag)
    if options.backend and find_spec("joblibspark") is None:
        raise ValueError(f"--backend {options.backend} needs joblibspark: pip install -r requirements-spark.txt")
    plan = _plan(options)
    run.add(learner=plan.resolved().learner)
    if options.notebook and options.promote == IF_BETTER:
        raise ValueError(
            "--promote if-better needs the held-out rows, which a notebook keeps; leave out one of the two"
        )
    folder = models.root / options.name / runs.RUNS
    before = journal.state(folder)
    trained = None
    try:
        if options.notebook:
            run.add(data={"source": plan.resolved().data})
            made = recipe.draft_from_notebook(plan, runs=folder)
        else:
            loaded = recipe.load(plan, tell=run.add)
            findings.print_loaded(loaded)
            trained = recipe.train(loaded, runs=folder)
            findings.print_trained(trained)
            checklist.print_comparing()
            made = recipe.draft(trained)
    except BaseException as error:
        if journal.state(folder) != before:
            run.add(search=steps(journal.finished_trials(folder), None))
        if isinstance(error, KeyboardInterrupt) and plan.resolved().is_search and journal.finished_trials(folder):
            error.add_note("finished trials are kept, and the same command goes on behind them")
        raise
    if found := made.manifest.get("search"):
        trials = trained.search.trials if trained and trained.search else journal.finished_trials(folder)
        run.add(search=steps(trials[: found["leaderboard"]["trials"]], found))
    model = models.load(f"{options.name}@{models.add(options.name, made).name}")
    run.add_version(model.manifest.document)
    sign_new(models, model, key)
    tag_new(models, model, options.tag)
    checklist.print_version(model, models)
    _promote(models, model, trained, options.promote)
    checklist.print_use(model, models)
    if options.notebook:
        print(f"notebook {model.path / 'notebook.ipynb'} has all of this with figures")
    if "checkpoint" in plan.options:
        plan.options["checkpoint"].unlink(missing_ok=True)  # the artifact has replaced it


def _promote(models: Store, model: Artifact, trained: Trained | None, policy: str) -> None:
    """Make a new version the champion where the policy says so, and print what was decided and why."""
    after = models.last_move(model.name)
    champion = after.versions[CHAMPION] if after else model.version
    if after is None or policy == NEVER or champion == model.version:
        return
    why = f"--promote {policy}"
    if policy == IF_BETTER and trained:
        is_better, verdict = _judge(models, f"{model.name}@{champion}", model, trained)
        print(f"promote  {verdict}")
        if not is_better:
            return
        why = f"{why}: {verdict}"
    promote_new(models, model, after=after, why=why)


def _judge(models: Store, reference: str, model: Artifact, trained: Trained) -> tuple[bool, str]:
    """Return whether a version is better than the champion on the rows that were held out of it, and a sentence."""
    held_out = trained.fit.rows.validation
    try:
        gain = differences.gain(models.load(reference), model, trained.X[held_out], trained.y[held_out])
    except ModelError as error:
        return False, f"no: it cannot be compared with the champion {reference}: {error}"
    if gain.interval[0] > 0:
        return True, f"better than the champion {reference}: {gain}"
    return False, f"no: not better than the champion {reference} beyond the interval: {gain}"
