"""One run of bulk scoring: every part of a table in, the same with answers out, and what there is to say of it."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import orjson

from model.errors import DataError, ExplanationError, counted, one_line
from model.score import outputs
from model.score.answered import packed, to_json
from model.score.cells import Written
from model.score.inputs import Dialect, Part, Table, open_part, parts_of
from model.score.outputs import STANDARD_OUTPUT, Output, Rejects, format_of, has_tabs, open_output, says_format
from model.score.plan import ARROW, CSV, JSON, PREDICTION, Plan, Reject
from model.score.pool import Pool, n_cores
from model.score.text import quoted_text
from model.store.artifact import Artifact
from model.table.source import COMPRESSED, shown
from model.version import VERSION

_MAX_SHOWN = 10  # rejected rows in a message
_DONE = "_done"  # the folder with a file for each part that is done


class Progress(Protocol):
    """Is told how far a run is."""

    def __call__(self, n_rows: int, n_bytes: int, size: int | None, part: str) -> None:
        """Note that so many rows and bytes of all parts were answered, of which there are `size` bytes, if known."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a person wants of a run.

    `given` says how the table is written, where it is not as the model's own. `format` is that of the output, where no
    name says it. Rows that cannot be answered end the run, or go to `rejects`. With `resume` the parts of a folder that
    are done are not answered again.
    """

    only: tuple[str, ...] = ()
    prediction: str = PREDICTION
    version: bool = False
    probabilities: bool = False
    interval: float | None = None
    explain: str = ""
    plain: bool = False
    given: Mapping[str, Any] = field(default_factory=dict)
    format: str = ""
    rejects: str = ""
    resume: bool = False
    n_jobs: int = field(default_factory=n_cores)


@dataclass(frozen=True, slots=True)
class Done:
    """One part that was answered: its name, its hash, its output, and its rows."""

    name: str
    sha256: str
    output: str
    rows: int
    rejected: int
    resumed: bool = False


@dataclass(frozen=True, slots=True)
class Report:
    """What a run did; `as_document` is its manifest."""

    model: Artifact
    started: datetime
    seconds: float
    parts: tuple[Done, ...]
    wanted: Wanted

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts)

    @property
    def rejected(self) -> int:
        return sum(part.rejected for part in self.parts)

    @property
    def sha256(self) -> str:
        """The hash of the input: that of its file, or of what `sha256sum` lists for its files."""
        if len(self.parts) == 1:
            return self.parts[0].sha256
        return hashlib.sha256("".join(f"{part.sha256}  {part.name}\n" for part in self.parts).encode()).hexdigest()

    def line(self) -> str:
        """Return the run in one line."""
        answered = sum(part.rows for part in self.parts if not part.resumed)
        rate = answered / self.seconds if self.seconds else 0
        return (
            f"{counted(self.rows, 'row')}, {self.rejected:,} rejected, {self.seconds:.1f} s ({rate:,.0f} rows/s); "
            f"{self.model.name}@{self.model.version} {self.model.manifest.digest}, input sha256:{self.sha256}"
        )

    def as_document(self) -> dict[str, Any]:
        """Return the manifest of the run."""
        return {
            "model": self.model.name,
            "version": self.model.version,
            "digest": self.model.manifest.digest,
            "tabserve": VERSION,
            "started_at": self.started.isoformat(timespec="seconds"),
            "seconds": round(self.seconds, 3),
            "rows": self.rows,
            "rejected": self.rejected,
            "input_sha256": self.sha256,
            "options": _options(self.wanted),
            "parts": [asdict(part) for part in self.parts],
        }


def score(model: Artifact, source: str, target: str, wanted: Wanted, progress: Progress) -> Report:
    """Answer the rows of a table and write them to `target`: a file, `-`, or a folder for the parts of a folder.

    Raises `DataError` for a table, a row or an output that cannot be used. An output is then not there; those of parts
    before it are, and `Wanted.resume` goes on behind them.
    """
    started, clock = datetime.now(UTC), time.monotonic()
    run = _Run(model, wanted, progress, parts_of(source))
    is_folder = target.endswith("/") or ("://" not in target and Path(target).is_dir())
    if wanted.resume and not is_folder:
        raise DataError("--resume goes on with the files of a folder; name a folder as the output, with / at its end")
    run.check_apart(source, target)
    with Pool(model, n_jobs=wanted.n_jobs) as pool:
        done = run.into_folder(target, pool) if is_folder else run.into_file(target, pool)
        return Report(model, started, time.monotonic() - clock, tuple(done), wanted)


class _Run:
    """The parts of one run, and what they have in common."""

    def __init__(self, model: Artifact, wanted: Wanted, progress: Progress, parts: Sequence[Part]) -> None:
        self._model, self._wanted, self._progress, self._parts = model, wanted, progress, parts
        reading = model.manifest.reading
        said = {} if wanted.plain else {**reading.dialect, **wanted.given}
        self._dialect = Dialect.of(said)
        self._written = Written() if wanted.plain else Written.of(reading, wanted.given)
        self._format = wanted.given.get("format")
        sizes = [Path(part.source).stat().st_size if Path(part.source).is_file() else None for part in parts]
        self._size = None if None in sizes else sum(filter(None, sizes))
        self._n_rows = self._n_bytes = 0
        _check(model, wanted)

    def check_apart(self, source: str, target: str) -> None:
        """Raise `DataError` if an output or the rejected rows would replace the table, or be a part of it later."""
        sources = {_place(each) for each in (source, *(part.source for part in self._parts))}
        folder = _place(source) if "://" in source or Path(source).is_dir() else None
        for name in filter(None, (target, self._wanted.rejects)):
            place = _place(name)
            if name != STANDARD_OUTPUT and (place in sources or (folder and folder in place.parents)):
                raise DataError(f"{_shown(name)} is the table, or in its folder; name an output in another place")

    def into_file(self, target: str, pool: Pool) -> list[Done]:
        """Write all parts to one file, one after the other."""
        done = []
        names: tuple[str, ...] | None = None
        with ExitStack() as files:
            rejects = self._rejects(self._wanted.rejects, files)
            output: Output | None = None
            for part in self._parts:
                with open_part(part, self._dialect, format=self._format) as table:
                    format, compression = self._target(target, table)
                    plan, pieces = self._plan(table, format, compression)
                    if output is None:
                        output = files.enter_context(open_output(target, format))
                        self._write_head(output, plan, table)
                    elif plan.names != names:
                        raise DataError(
                            f"{part.name} has other columns than {self._parts[0].name}; name a folder with /"
                        )
                    names = plan.names
                    n_rows, n_rejected = self._write(pool, plan, table, pieces, output, rejects)
                    done.append(Done(part.name, table.sha256(), _shown(target), n_rows, n_rejected))
        return done

    def into_folder(self, target: str, pool: Pool) -> list[Done]:
        """Write each part to a file of its own, with its folders and its name."""
        names = [self._renamed(part.name) for part in self._parts]
        if repeated := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
            raise DataError(f"more than one file would be written to {_listed(repeated)}; rename all but one")
        return [self._part_into(target.rstrip("/"), part, pool) for part in self._parts]

    def _part_into(self, folder: str, part: Part, pool: Pool) -> Done:
        name = self._renamed(part.name)
        marker = f"{folder}/{_DONE}/{part.name}.json"
        facts = {"digest": self._model.manifest.digest, "options": _options(self._wanted), **_state_of(part)}
        if (
            self._wanted.resume
            and (found := _parse(outputs.read(marker)))
            and found.get("facts") == facts
            and outputs.exists(f"{folder}/{name}")
        ):
            return Done(**{**found["part"], "resumed": True})
        outputs.remove(marker)
        with ExitStack() as files:
            rejects_name = f"{self._wanted.rejects.rstrip('/')}/{part.name}.csv" if self._wanted.rejects else ""
            rejects = self._rejects(rejects_name, files)
            with open_part(part, self._dialect, format=self._format) as table:
                format, compression = self._target(name, table)
                plan, pieces = self._plan(table, format, compression)
                output = files.enter_context(open_output(f"{folder}/{name}", format))
                self._write_head(output, plan, table)
                n_rows, n_rejected = self._write(pool, plan, table, pieces, output, rejects)
                done = Done(part.name, table.sha256(), _shown(f"{folder}/{name}"), n_rows, n_rejected)
        with outputs.whole(marker) as file:
            file.write(to_json({"facts": facts, "part": asdict(done)}))
        return done

    def _renamed(self, name: str) -> str:
        """Return the name of a part's output: that of the part, with the suffix of the format that is wanted."""
        if not self._wanted.format:
            return name
        path = Path(name)
        if path.suffix.lower() in COMPRESSED:
            path = path.with_suffix("")
        return f"{path.with_suffix('')}.{self._wanted.format}"

    def _target(self, name: str, table: Table) -> tuple[str, str]:
        """Return the format and the compression of an output."""
        wanted = format_of(f"table.{self._wanted.format}") if self._wanted.format else None
        if name == STANDARD_OUTPUT:
            return wanted or ((JSON if table.format == JSON else CSV), "")
        if wanted and not says_format(name):
            return wanted
        if wanted and wanted != format_of(name):
            raise DataError(f"{name} is no name for {self._wanted.format}; end it in .{self._wanted.format}")
        if has_tabs(name) and table.marks.separator != b"\t":
            raise DataError(f"{name} would have other separators than tabs; end it in .csv")
        return format_of(name)

    def _rejects(self, name: str, files: ExitStack) -> Rejects | None:
        if not name:
            return None
        format, compression = format_of(name)
        if format not in (CSV, JSON) or compression:
            raise DataError(f"{name}: rejected rows are written as .csv or .jsonl")
        return Rejects(files.enter_context(open_output(name, format)), format)

    def _plan(self, table: Table, format: str, compression: str) -> tuple[Plan, Iterator[bytes]]:
        """Return how a table is answered, and its pieces. Raises `DataError` if the model cannot answer it."""
        wanted, pieces = self._wanted, table.pieces
        target = format if format in (CSV, JSON) else ARROW
        columns = table.names
        if table.form == JSON:
            first = next(pieces)
            pieces = chain([first], pieces)
            columns = _keys(first)
            if missing := [each for each in self._model.schema.names if columns and each not in columns]:
                raise DataError(
                    f"{table.part.name} has no record with {_listed(missing)}; the first have {_listed(columns)}"
                )
        plan = Plan(
            form=table.form,
            target=target,
            names=() if table.form == target == JSON else columns,
            marks=table.marks,
            written=self._written,
            line_end=table.line_end,
            only=wanted.only,
            prediction=wanted.prediction,
            version=wanted.version,
            probabilities=wanted.probabilities,
            interval=wanted.interval,
            explain=wanted.explain,
            compression=compression,
        )
        self._check_columns(table, plan, columns)
        return plan, pieces

    def _check_columns(self, table: Table, plan: Plan, names: Sequence[str]) -> None:
        schema, name = self._model.schema, table.part.name
        answers = plan.answers(self._model.manifest)
        if taken := [each for each in answers if each in names or answers.count(each) > 1]:
            raise DataError(
                f"{name} has a column {taken[0]!r} already; give that of the answers another name by --column, or "
                "leave the other one out"
            )
        if table.form == JSON:
            return
        missing = [each for each in schema.names if each not in table.names]
        if len(missing) == len(schema.names):
            how = ""
            if table.form == CSV:
                separator = table.marks.separator.decode()
                how = f"; it was read with the separator {separator!r}: say --separator if it has another one"
            raise DataError(f"{name} has none of the model's columns; its own are {_listed(table.names)}{how}")
        if missing:
            raise DataError(f"{name} has no column {_listed(missing)}; its own are {_listed(table.names)}")
        is_copied = table.form == CSV and plan.target == CSV and not plan.only
        unique = schema.names if is_copied else table.names
        if repeated := [each for each in dict.fromkeys(table.names) if each in unique and table.names.count(each) > 1]:
            raise DataError(f"{name} has more than one column {_listed(repeated)}; rename all but one")
        if unknown := [each for each in plan.only if each not in {*table.names, *answers}]:
            raise DataError(
                f"{name} has no column {_listed(unknown)} for --only; there are {_listed([*table.names, *answers])}"
            )

    def _write_head(self, output: Output, plan: Plan, table: Table) -> None:
        """Write the header of an output in CSV, unless the table has none."""
        if plan.target != CSV or (table.form == CSV and not self._dialect.header):
            return
        names = plan.only or (*plan.names, *plan.answers(self._model.manifest))
        cells = [quoted_text(name, plan.marks).encode() for name in names]
        output.write(packed(plan.marks.separator.join(cells) + plan.line_end, plan.compression))

    def _write(
        self,
        pool: Pool,
        plan: Plan,
        table: Table,
        pieces: Iterator[bytes],
        output: Output,
        rejects: Rejects | None,
    ) -> tuple[int, int]:
        """Write the answers to a table; return how many rows it had, and how many were rejected."""
        n_rows = n_rejected = 0
        # Lines are counted from 1; those of text that were read before the first piece are above it.
        n_lines = table.first_line
        n_bytes = self._n_bytes
        for scored in pool.scored(plan, pieces):
            found = [
                Reject(n_rows + row, n_lines + line if line >= 0 else 0, reason, record)
                for row, line, reason, record in scored.rejects
            ]
            if found and rejects is None:
                raise _refused(table.part.name, found)
            if found and rejects:
                rejects.add(table.part.name, found)
            output.write(scored.content)
            n_rows, n_lines = n_rows + scored.n_rows, n_lines + scored.n_lines
            n_rejected += len(found)
            self._n_rows += scored.n_rows
            self._n_bytes = n_bytes + table.progress()
            self._progress(self._n_rows, self._n_bytes, self._size, table.part.name)
        return n_rows, n_rejected


def _check(model: Artifact, wanted: Wanted) -> None:
    """Raise `DataError` for answers that the model does not give."""
    manifest = model.manifest
    if wanted.probabilities and not manifest.classes:
        raise DataError(f"{model.name} is a regression, which has no probabilities; leave out --probabilities")
    if wanted.explain:  # what that needs is made here, so that the processes share it
        try:
            model.explanations.explain(model.golden_rows[:1], wanted.explain)
        except ExplanationError as error:
            raise DataError(f"{model.name}@{model.version}: {error}") from None
    if wanted.interval is None:
        return
    if not manifest.intervals:
        raise DataError(f"{model.name}@{model.version} has no prediction intervals; leave out --interval")
    if wanted.interval not in manifest.intervals.levels:
        levels = ", ".join(map(str, manifest.intervals.levels))
        raise DataError(f"{model.name} has no prediction interval of {wanted.interval}; its levels are {levels}")


def _refused(name: str, rejects: Sequence[Reject]) -> DataError:
    """Return the error for rows that cannot be answered."""
    listed = [
        f"row {each.row:,}{f' (line {each.line:,})' if each.line else ''}: {each.reason}"
        for each in rejects[:_MAX_SHOWN]
    ]
    more = ["…"] if len(rejects) > _MAX_SHOWN else []
    return DataError(
        "\n  ".join(
            [
                f"{name} has rows that cannot be answered; --rejects FILE would write them there and go on",
                *listed,
                *more,
            ]
        )
    )


def _keys(piece: bytes) -> tuple[str, ...]:
    """Return the keys of the records in a piece of JSON lines, in the order in which they come."""
    keys: dict[str, None] = {}
    for line in piece.splitlines():
        try:
            record = orjson.loads(line)
        except ValueError:
            continue
        if type(record) is dict:
            keys |= dict.fromkeys(record)
    return tuple(keys)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(one_line(repr(name)) for name in names[:20])
    return f"{shown} and {len(names) - 20} more" if len(names) > 20 else shown


def _shown(target: str) -> str:
    """Return an output for the manifest: a path as it was given, a URL without credentials."""
    return shown(target) if "://" in target else target


def _place(target: str) -> Path:
    """Return what is equal for two names of the same file or folder."""
    return Path(target) if "://" in target else Path(target).resolve()


def _options(wanted: Wanted) -> dict[str, Any]:
    """Return what the content of an output depends on beside the model and the input."""
    facts = asdict(wanted)
    for name in ("resume", "n_jobs"):
        del facts[name]
    options: dict[str, Any] = orjson.loads(to_json({**facts, "rejects": _shown(wanted.rejects)}))
    return options


def _state_of(part: Part) -> dict[str, Any]:
    """Return what changes when a part is written anew."""
    if "://" not in part.source:
        state = Path(part.source).stat()
        return {"size": state.st_size, "changed": state.st_mtime_ns}
    import fsspec

    files, path = fsspec.core.url_to_fs(part.source)
    return {"size": files.size(path), "changed": str(files.ukey(path))}


def _parse(content: bytes | None) -> dict[str, Any]:
    try:
        found = orjson.loads(content or b"{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
