"""From a person's table to the draft of an artifact, in steps: load, train, draft; or through a notebook of these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from model.engine.formula_syntax import nearest
from model.engine.formulas import Derived
from model.errors import DataError, FormulaError
from model.plots import table as table_plots
from model.plots import training as plots
from model.schema import reading
from model.schema.features import Matrix
from model.store import artifact, fitted_rows
from model.store.artifact import Draft
from model.store.manifest import Data, Split
from model.store.runs import Tell
from model.store.versions import Store
from model.table import checks, infer, recipes
from model.table.checks import Quality
from model.table.description import Description
from model.table.frame import Table, prepare
from model.table.infer import Described
from model.table.own_reading import reading_of
from model.table.reader import open_table
from model.task import TASKS, Task
from model.train import export, feature_file, labels, recipe_file
from model.train.candidate import Candidate
from model.train.derive import Formulas
from model.train.frames import Frames
from model.train.learners import AUTO, LEARNER_NAMES, LEARNERS, clocks_of, fitted, options_of
from model.train.search.one import Fit, fit_one
from model.train.search.rows import HELD_OUT
from model.train.search.run import Search, search
from model.train.subject import Subject, title_of
from model.train.table_frames import frames_of

MAX_ROWS = 1_000_000
RANDOM_STATE = 7
TEMPLATE = Path(__file__).parents[2] / "notebooks" / "train.ipynb"


@dataclass(frozen=True, slots=True)
class Plan:
    """What a person asks for: which table, what to predict, and how; what is empty is found out or a default.

    `name` is the model's, and may be that of a table that comes with the project. `schema` is a schema file. `reading`
    are arguments of `open_table`, `types` corrections of columns, `missing` texts that mean a missing value. `features`
    are derived features as `NAME = FORMULA`, or names of those in the file `shared`. `learner` is one of
    `LEARNER_NAMES`, and `options` are its own; a fixed learner is fitted without a search unless a budget or a number
    of trials is named. At most `max_rows` rows are used. `backend` is joblib's, by which a search fits on a cluster.
    """

    name: str
    data: str = ""
    schema: str = ""
    reading: Mapping[str, Any] = field(default_factory=dict)
    types: Mapping[str, str] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    target: str = ""
    task: str = ""
    group: str = ""
    time: str = ""
    date: str = ""
    max_age_days: int | None = None
    features: tuple[str, ...] = ()
    shared: str = ""
    learner: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    budget_seconds: float | None = None
    trials: int | None = None
    max_rows: int = MAX_ROWS
    random_state: int = RANDOM_STATE
    backend: str = ""
    title: str = ""
    unit: str = ""
    purpose: str = ""
    limits: str = ""
    owner: str = ""
    license: str = ""

    def resolved(self) -> Plan:
        """Return the plan with what a schema file, or the project's own of that name, says of learner and words.

        Raises `DataError` without a table, for a learner that does not exist, and for an option of it that cannot be.
        """
        known = self.known()
        plan = self
        if known:
            said = {name: getattr(known, name) for name in ("data", "learner", "title", "purpose", "limits", "license")}
            plan = replace(self, **{name: value for name, value in said.items() if value and not getattr(self, name)})
            if plan.learner == known.learner and not plan.is_search:
                own_options = options_of(plan.learner, known.options) if plan.learner in LEARNERS else {}
                plan = replace(plan, options={**own_options, **plan.options})
        if not plan.data:
            own = ", ".join(recipes.names())
            raise DataError(f"there is no table for the model {self.name!r}; name it by --data, or train {own}")
        learner = plan.learner or AUTO
        if learner not in LEARNER_NAMES:
            raise DataError(f"there is no learner {learner!r}; choose one of {', '.join(LEARNER_NAMES)}")
        return replace(plan, learner=learner, title=plan.title or title_of(self.name))

    @property
    def is_search(self) -> bool:
        """Return whether learners are compared, or the settings of one."""
        return self.learner == AUTO or bool(self.budget_seconds or self.trials)

    def known(self) -> Description | None:
        """Return what is known of the table before it is read."""
        if self.schema:
            return recipes.find(self.schema)
        return recipes.find(self.name) if self.name in recipes.names() else None


@dataclass(frozen=True, slots=True)
class Loaded:
    """A table that can be trained on: what each column is, the quality of its rows, and the frame of learners.

    It took `seconds` to read and check.
    """

    plan: Plan
    described: Described
    quality: Quality
    table: Table
    derived: tuple[Derived, ...]
    seconds: float

    @property
    def warnings(self) -> list[str]:
        """Return what a person should know before trusting a model of this table."""
        return [*map(str, self.quality.findings), *map(str, self.table.problems)]

    def figures(self) -> dict[str, Figure]:
        """Draw the table: its columns, how they go together, and what is missing."""
        frame = self.table.frame
        units = {column.name: column.unit for column in self.table.columns}
        target = self.table.description.column(self.table.description.target)
        if not self.table.labels:
            frame, units = frame.assign(**{target.name: self.table.target}), {**units, target.name: target.unit}
        drawn = {
            "distributions": table_plots.distributions(frame, units=units),
            "correlations": table_plots.correlations(frame),
        }
        return {**drawn, "missing": table_plots.missing(frame)} if frame.isna().any(axis=None) else drawn


@dataclass(frozen=True, slots=True)
class Trained:
    """A fitted model with its compiled form.

    `X` `(n_rows, n_features)` and `y` `(n_rows,)` are the frame's rows. A row that was left out, since no row to fit on
    has its label, has NaN in `y`.
    """

    loaded: Loaded
    fit: Fit
    frames: Frames
    X: Matrix
    y: NDArray[np.float64]
    candidate: Candidate

    @property
    def search(self) -> Search | None:
        """Return the search that the model is from, if there was one."""
        return self.fit if isinstance(self.fit, Search) else None

    def figures(self) -> dict[str, Figure]:
        """Draw how the model was found: the trials of a search, or the losses of a network."""
        if self.search:
            return {"trials": self.search.figure()}
        epochs = getattr(self.fit.pipeline[-1], "epochs_", ())
        if not epochs:
            return {}
        target = self.loaded.table.description.column(self.loaded.table.description.target)
        losses = plots.losses(
            [epoch.loss for epoch in epochs],
            [epoch.validation_loss for epoch in epochs],
            best_epoch=self.fit.pipeline[-1].best_epoch_,
            unit=target.unit,
        )
        return {"losses": losses}


def load(plan: Plan, *, today: date | None = None, tell: Tell | None = None) -> Loaded:
    """Read and check the table. Raises `DataError` with a report of all that prevents training on it.

    `tell` takes what becomes known of the table for the record of a run, before it is checked.
    """
    started = monotonic()
    plan = plan.resolved()
    known = plan.known()
    if tell:
        tell(data={"source": plan.data})
    with open_table(plan.data, **recipes.reading(known, plan.reading)) as relation:
        if tell:
            tell(data={"sha256": relation.sha256, "rows": relation.n_rows})
        described = infer.describe(
            relation,
            target=plan.target,
            task=plan.task,
            group=plan.group,
            time=plan.time,
            types=plan.types,
            missing=plan.missing,
            known=known,
        )
        description = _completed(plan, known, described.description)
        quality = checks.check(relation, description, today=today)
        if quality.errors:
            raise DataError(checks.report(relation.source, quality.findings))
        table = prepare(relation, description, max_rows=plan.max_rows, seed=plan.random_state)
    described = replace(described, description=description)
    derived = _derived(plan, description)
    _check_derived(derived, table)
    return Loaded(plan, described, quality, table, derived, monotonic() - started)


def train(loaded: Loaded, *, runs: Path | None = None, progress: bool | None = None) -> Trained:
    """Search for the best model, or fit the learner that is named. `runs` is a folder in which a search goes on.

    Without `progress` said, a bar is shown if standard error is a terminal, and else a search prints lines there.

    Raises `ModelError` if the learner needs a package that is not installed.
    """
    plan, table = loaded.plan, loaded.table
    seen = frames_of(table, loaded.quality.profiles)
    common: dict[str, Any] = {
        "task": TASKS[table.task],
        "labels": table.labels,
        "derived": loaded.derived,
        "groups": table.groups,
        "times": table.times,
        "seed": plan.random_state,
    }
    fit: Fit
    if plan.is_search:
        if plan.options:
            raise DataError(f"{', '.join(plan.options)}: a search chooses these itself; leave them out, or the budget")
        fit = search(
            table.frame,
            seen,
            table.target,
            **common,
            budget_s=plan.budget_seconds,
            spent_s=loaded.seconds,
            trials=plan.trials,
            backend=plan.backend,
            families=None if plan.learner == AUTO else [plan.learner],
            journal=runs,
            progress=progress,
        )
    elif plan.backend:
        raise DataError(
            f"the {plan.learner} is fitted without a search; leave out --backend, or name a number of --trials"
        )
    else:
        with clocks_of(plan.options) as options:
            fit = fit_one(
                table.frame, seen, table.target, **common, family=plan.learner, parameters=options, progress=progress
            )
    X = seen.matrix(table.frame)
    y = np.full(table.n_rows, np.nan)
    parted = np.concatenate([fit.rows.training, fit.rows.validation])
    y[parted] = labels.positions(table.target[parted], fit.labels) if fit.labels else table.target[parted]
    candidate = fitted.candidate(fit.pipeline, seen, X[fit.rows.training])
    return Trained(loaded, fit, seen, X, y, _described(loaded, seen, candidate))


def subject_of(trained: Trained) -> Subject:
    """Return what the model is about: its target, its table, and the rows that it is judged by."""
    loaded, fit = trained.loaded, trained.fit
    plan, table = loaded.plan, loaded.table
    target = table.description.column(table.description.target)
    task: Task = TASKS[table.task]
    predicted = labels.target_of(fit.labels, target.name, "" if fit.labels else plan.unit or target.unit)
    warnings = [*loaded.warnings, *(trained.search.warnings if trained.search else ())]
    training, validation = fit.rows.training, fit.rows.validation
    return Subject(
        name=plan.name,
        title=plan.title,
        task=task,
        target=replace(predicted, description=target.description),
        purpose=plan.purpose,
        limits=plan.limits,
        tags={"dataset": plan.name, "task": task.name, "owner": plan.owner, "license": plan.license},
        data=Data(
            source=table.description.source or Path(table.source).name,
            sha256=table.sha256,
            rows=table.n_rows,
            warnings=warnings,
            split=Split(validation_share=HELD_OUT, random_state=plan.random_state),
        ),
        was_checked=True,
        X=trained.X,
        training=(trained.X[training], trained.y[training]),
        validation=(trained.X[validation], trained.y[validation]),
    )


def draft(trained: Trained, *, notebook: str | None = None, written_as: Description | None = None) -> Draft:
    """Prove the model equal to its compiled form, and collect the contents of the artifact.

    `written_as` says how people write such a table, where the one that was trained on was put into another form.
    """
    loaded, table = trained.loaded, trained.loaded.table
    description = written_as or table.description
    rows = {
        "read": table.n_rows_read,
        "set_aside": dict(table.set_aside),
        "used": table.n_rows,
        "parted": trained.fit.rows.how,
    }
    read = reading.to_document(reading_of(description))
    facts: dict[str, Any] = {**trained.candidate.facts, "rows": rows, "reading": read}
    if trained.search:
        facts["search"] = trained.search.to_facts()
    candidate = replace(trained.candidate, facts=facts)
    made = export.draft_of(
        subject_of(trained), candidate, figures={**loaded.figures(), **trained.figures()}, notebook=notebook
    )
    measured = trained.search.leaderboard.measured() if trained.search else {}
    fitted_on = trained.fit.rows.training
    files = {
        recipe_file.FILE: _recipe(trained, description),
        fitted_rows.FILE: fitted_rows.pack(trained.X[fitted_on]),
    }
    return replace(made, files={**made.files, **files}, observed={"leaderboard": measured} if measured else {})


def _recipe(trained: Trained, description: Description) -> bytes:
    """Return what repeats the training on other rows."""
    loaded, plan = trained.loaded, trained.loaded.plan
    return recipe_file.render(
        description,
        name=plan.name,
        learner=trained.fit.family,
        parameters=trained.fit.parameters,
        derived=loaded.derived,
        task=loaded.table.task,
        title=plan.title,
        limits=plan.limits,
        unit=plan.unit or description.column(description.target).unit,
    )


def draft_from_notebook(plan: Plan, *, runs: Path | None = None) -> Draft:
    """Run the notebook of a plan's schema file, and add the executed notebook to the artifact.

    The template is run where the schema file names none, or the plan another learner than the file; what it prints is
    printed. Raises `NotebookError` if a cell fails, and `DataError` for a table that only this process can read.
    """
    from model.train import notebook  # whose packages take half a second to import

    known, resolved = plan.known(), plan.resolved()
    if resolved.data == "-":
        raise DataError("a notebook cannot read standard input; name a file by --data, or leave out --notebook")
    if resolved.learner != AUTO:
        LEARNERS[resolved.learner].check_installed()
    is_own = known is not None and known.notebook and resolved.learner == (known.learner or AUTO)
    with clocks_of(plan.options) as options, TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        options = {name: value.resolve() if isinstance(value, Path) else value for name, value in options.items()}
        asked = {**asdict(plan), "options": options}
        for name in ("data", "schema", "shared"):  # the notebook runs in another folder
            if asked[name] and "://" not in asked[name]:
                asked[name] = Path(asked[name]).resolve()
        executed = notebook.run(
            Path(known.notebook) if known is not None and is_own else TEMPLATE,
            parameters={"store": store, "plan": asked, "runs": runs.resolve() if runs else ""},
            prints=not is_own,
        )
        made = artifact.read_draft(Store(store).find(plan.name))
    return replace(made, files={**made.files, "notebook.ipynb": executed})


def _completed(plan: Plan, known: Description | None, description: Description) -> Description:
    """Return the description with what the plan says beside columns."""
    description = infer.restricted(description, known, plan.types)
    asked = {name: getattr(plan, name) for name in ("target", "task", "group", "time", "date")}
    description = replace(description, **{name: value for name, value in asked.items() if value})
    if plan.max_age_days is not None:
        description = replace(description, max_age_days=plan.max_age_days)
    return description


def _derived(plan: Plan, description: Description) -> tuple[Derived, ...]:
    """Return the parts of dates, the features of the schema file, and those of the plan, which replace these."""
    shared = feature_file.read(Path(plan.shared)) if plan.shared else {}
    found = [*description.parts, *description.features, *feature_file.resolve(plan.features, shared)]
    return tuple({each.name: each for each in found}.values())


def _check_derived(derived: Sequence[Derived], table: Table) -> None:
    """Raise `FormulaError` for a derived feature that cannot be computed of the table, or has a column's name."""
    names = list(table.frame.columns)
    for each in derived:
        if each.name in names:
            raise FormulaError(each.formula, f"{each.name!r} is the name of a column; give the feature another one")
        for absent in (name for name in each.parsed.names if name not in names):
            known = nearest(absent, names)
            raise FormulaError(each.formula, f"there is no column {absent!r} among those that the model gets{known}")
    if derived:
        Formulas(derived).fit(table.frame.head(0))


def _described(loaded: Loaded, seen: Frames, candidate: Candidate) -> Candidate:
    """Return the candidate with units and words; a column without a gap in the table takes no missing value."""
    has_gaps = {column.name: column.has_gaps for column in seen.columns}
    said = {column.name: column for column in loaded.table.columns}
    features = tuple(
        replace(
            feature,
            unit=said[feature.name].unit,
            description=said[feature.name].description,
            missing=feature.missing and has_gaps[feature.name],
        )
        for feature in candidate.features
    )
    is_full = np.array([not feature.missing for feature in features])
    is_refused = np.isnan(candidate.split_rows[:, is_full]).any(axis=1)
    return replace(candidate, features=features, split_rows=candidate.split_rows[~is_refused])
