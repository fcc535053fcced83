"""A version on a cluster of Spark: a DataFrame with its predictions, and the jobs that `spark-submit` runs.

The driver alone reads the store: it finds the version once, so that an alias that moves changes no job that runs, and
ships the version's folder and this package with the job. Each Python worker verifies what it got as a server does, the
golden rows included, before its first answer. The workers need NumPy, ONNX Runtime and PyArrow, and a Python as the
driver's.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import zipfile
from collections.abc import Iterator, Sequence
from functools import cache, partial
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import unquote, urlsplit

import pyarrow as pa
from pyspark import SparkContext, SparkFiles
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, Observation, SparkSession
from pyspark.sql.functions import col, count, lit, when
from pyspark.sql.pandas.types import from_arrow_type
from pyspark.sql.types import BooleanType, DataType, DoubleType, StringType, StructField, StructType

from model import on_arrow
from model.errors import ArtifactError, ModelError, Problem, SchemaError, first_line, one_line
from model.schema.feature import BOOLEAN, CATEGORY, DATE, MISSING, Feature
from model.schema.features import Schema
from model.store import artifact
from model.store.artifact import Artifact
from model.store.location import open_store

STOP, COLUMN = "stop", "column"
_BROKEN = "is no JSON with the types of the features"
_LINE = "rejected_line"  # where Spark keeps a line of JSON that it cannot read
_MAX_REASONS = 10  # in a message
_SHOWN_DIGITS = 16  # of a SHA-256, in names that tell files apart
_MARK = "tabserve: "  # before the reason in the error of a worker, which has a traceback around it


def predict(
    frame: DataFrame,
    reference: str,
    *,
    store: Path | str = "store",
    probabilities: bool = False,
    on_bad_rows: str = STOP,
) -> DataFrame:
    """Return a frame, of a batch or a stream, with the columns of `on_arrow.answer` behind its own.

    `reference` is `name`, `name@alias` or `name@version` in the store at a path or URL. Columns that are no features
    pass through. A row that does not fit ends the job, or with "column" has no prediction, and a reason in `rejected`.

    Raises `ModelError` for a version that cannot be used or a frame without its features, `ValueError` for the rest.
    """
    return _predicted(frame, open_store(store).load(reference), probabilities, on_bad_rows)


def _predicted(frame: DataFrame, model: Artifact, probabilities: bool, on_bad_rows: str) -> DataFrame:
    if on_bad_rows not in (STOP, COLUMN):
        raise ValueError(f"on_bad_rows is {on_bad_rows!r}, not {STOP!r} or {COLUMN!r}")
    wanted = {"probabilities": probabilities, "rejected": on_bad_rows == COLUMN}
    added = on_arrow.columns(model, **wanted)
    _check(frame, model.schema, list(added))
    columns = [*frame.schema.fields, *(StructField(name, from_arrow_type(kind)) for name, kind in added.items())]
    archive = _ship(frame.sparkSession.sparkContext, model)
    return frame.mapInArrow(partial(_answers, archive, model.manifest.digest, wanted), StructType(columns))


def _check(frame: DataFrame, schema: Schema, added: Sequence[str]) -> None:
    """Raise `SchemaError` if a feature has no column, and `ValueError` if a new column's name is taken.

    A feature that may be missing has a column, too: without it, a misspelled name would be missing in every row.
    """
    problems = [Problem(None, name, MISSING) for name in schema.names if name not in frame.columns]
    if problems:
        raise SchemaError(problems, n_rows=0)
    taken = {name.lower() for name in frame.columns} & {*added}  # Spark's names are the same in any case
    if taken:
        raise ValueError(f"the frame has a column {min(taken)!r} already; rename it or leave it out")


def _answers(
    archive: str, digest: str, wanted: dict[str, bool], batches: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """Yield the batches of a partition with the new columns. Runs on the workers."""
    try:
        model = _loaded(archive, digest)
        for batch in batches:
            added = on_arrow.answer(model, batch, **wanted)
            names = [*batch.schema.names, *added]
            yield pa.RecordBatch.from_arrays([*batch.columns, *added.values()], names=names)
    except SchemaError as error:
        raise ValueError(f"{_MARK}{_reasons(error)}") from None
    except ModelError as error:  # whose classes do not survive the way to the driver
        raise ValueError(f"{_MARK}{error}") from None


def _reasons(error: SchemaError) -> str:
    """Return what is wrong with a batch, whose rows have no numbers that a person knows."""
    reasons = dict.fromkeys(f"column {each.feature!r}: {each.reason}" for each in error.problems)
    n_rows = len({each.row for each in error.problems})
    rows = f"{'more than ' if error.more else ''}{n_rows} of the {error.n_rows} rows of a batch do"
    shown = "; ".join(list(reasons)[:_MAX_REASONS])
    return f"{rows} not fit the model: {shown}; to see which, keep them with on_bad_rows={COLUMN!r}"


@cache
def _loaded(archive: str, digest: str) -> Artifact:
    """Return the version that came with the job, once in a worker. Raises `ArtifactError` if it is another one."""
    folder = Path(SparkFiles.get(archive))
    found = artifact.load(folder)
    if found.manifest.digest != digest:
        raise ArtifactError(folder, "is another version than the driver's", "start the job again")
    return found


def _ship(context: SparkContext, model: Artifact) -> str:
    """Send a version and this package to all workers of a job; return the name of the version's archive.

    Spark takes each name once, and the same version has the same name.
    """
    folder = Path(_folder().name)
    archive = f"{model.name}-{model.version}-{model.manifest.digest[:_SHOWN_DIGITS]}.zip"
    if not (folder / archive).exists():
        shutil.make_archive(str(folder / archive.removesuffix(".zip")), "zip", model.path)
    context.addPyFile(_package(folder))
    context.addArchive(str(folder / archive))
    return archive


@cache
def _package(folder: Path) -> str:
    """Write this package as a file that workers import from, with its contents in the name, and return its path."""
    package = Path(__file__).parent
    contents = {
        path.relative_to(package.parent).as_posix(): path.read_bytes() for path in sorted(package.rglob("*.py"))
    }
    digest = sha256(b"".join(contents.values())).hexdigest()
    file = folder / f"tabserve-{digest[:_SHOWN_DIGITS]}.zip"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in contents.items():
            packed.writestr(name, content)
    return str(file)


@cache
def _folder() -> TemporaryDirectory[str]:
    """Return the folder from which executors fetch, also those that come later: it stays until this process ends."""
    return TemporaryDirectory(prefix="tabserve-")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one job and return its exit status: 0, or 1 with the error on standard error."""
    options = _parser().parse_args(arguments)
    session = SparkSession.builder.appName(f"tabserve {options.model}").getOrCreate()
    try:
        options.run(session, options)
    except KeyboardInterrupt:
        return 130
    except (ModelError, ValueError, OSError, PySparkException) as error:
        print(f"error: {_reason(error)}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="on_spark.py", description="Predict on a cluster of Spark, by spark-submit or python -m model.on_spark."
    )
    jobs = parser.add_subparsers(required=True, metavar="JOB")
    batch = jobs.add_parser("batch", help="a folder of Parquet in, one out, with the same partitions")
    stream = jobs.add_parser("stream", help="a folder to which files of JSON lines come in, one out, each row once")
    for job in (batch, stream):
        job.add_argument("model", help="the model: NAME, NAME@ALIAS or NAME@VERSION")
        job.add_argument("source", metavar="IN", help="the folder or URL that is read")
        job.add_argument("target", metavar="OUT", help="the folder or URL that is written")
        job.add_argument("--store", default="store", metavar="PLACE", help="as in python -m model (default: store)")
        job.add_argument("--probabilities", action="store_true", help="that of each class, too; for a classifier")
        job.add_argument(
            "--on-bad-rows",
            choices=(STOP, COLUMN),
            default=STOP,
            help="end the job, or keep such rows with the reason in the column `rejected` (default: %(default)s)",
        )
    batch.set_defaults(run=_batch)
    stream.add_argument(
        "--checkpoint", required=True, metavar="FOLDER", help="where Spark keeps how far it is, and goes on from"
    )
    stream.add_argument(
        "--columns",
        default="",
        metavar="DDL",
        help="columns beside the features that pass through: 'id BIGINT, at STRING'",
    )
    stream.add_argument("--once", action="store_true", help="end when all files that are there are done")
    stream.add_argument(
        "--max-files", type=int, default=1_000, metavar="COUNT", help="at a time (default: %(default)s)"
    )
    stream.set_defaults(run=_stream)
    return parser


def _batch(session: SparkSession, options: argparse.Namespace) -> None:
    frame = session.read.parquet(options.source)
    model = open_store(options.store).load(options.model)
    scored = _predicted(frame, model, options.probabilities, options.on_bad_rows)
    numbers = [count(lit(1)).alias("rows")]
    if on_arrow.REJECTED in scored.columns:
        numbers.append(count(on_arrow.REJECTED).alias(on_arrow.REJECTED))
    counted = Observation()
    scored.observe(counted, *numbers).write.partitionBy(*_partitions(frame)).parquet(options.target)
    print(*(f"{name} {number:,}," for name, number in counted.get.items()), f"{model.name}@{model.version}")


def _partitions(frame: DataFrame) -> list[str]:
    """Return the columns that the folders of a frame's files are named by, as in month=7/part-0.parquet."""
    paths = [urlsplit(path).path for path in frame.inputFiles()[:1]]
    names = [unquote(part.partition("=")[0]) for path in paths for part in path.split("/")[:-1] if "=" in part]
    return [name for name in names if name in frame.columns]


def _stream(session: SparkSession, options: argparse.Namespace) -> None:
    model = open_store(options.store).load(options.model)
    columns = StructType([StructField(each.name, _json_type(each)) for each in model.schema.features])
    columns = StructType([*columns, *_columns(options.columns)])
    keeps = options.on_bad_rows == COLUMN
    if keeps:
        columns = columns.add(_LINE, StringType())
    frame = (
        session.readStream.schema(columns)
        .option("maxFilesPerTrigger", options.max_files)
        .option("mode", "PERMISSIVE" if keeps else "FAILFAST")
        .option("columnNameOfCorruptRecord", _LINE)
        .option("allowNonNumericNumbers", False)  # a text is no number
        .json(options.source)
    )
    scored = _predicted(frame, model, options.probabilities, options.on_bad_rows)
    if keeps:  # the features of such a line are null, and the text is kept
        is_broken = col(_LINE).isNotNull()
        added = {name: when(~is_broken, col(name)) for name in scored.columns[len(columns) :]}
        added[on_arrow.REJECTED] = when(is_broken, _BROKEN).otherwise(col(on_arrow.REJECTED))
        scored = scored.withColumns(added)
    writer = scored.writeStream.format("json").option("checkpointLocation", options.checkpoint)
    if options.once:
        writer = writer.trigger(availableNow=True)
    writer.start(options.target).awaitTermination()


def _columns(text: str) -> list[StructField]:
    return StructType.fromDDL(text).fields if text else []


def _json_type(feature: Feature) -> DataType:
    """Return as what Spark reads the cells of a feature, without a loss: numbers as float64, dates as texts."""
    if feature.type == BOOLEAN:
        return BooleanType()
    is_text = feature.type == DATE or (feature.type == CATEGORY and isinstance(feature.categories[0], str))
    return StringType() if is_text else DoubleType()


def _reason(error: Exception) -> str:
    """Return what an error says in one line: of a worker's, which has its traceback, the reason alone."""
    text = str(error)
    lines = re.findall(rf"{_MARK}(.+)", text) or re.findall(r"^\w*Error: .+", text, re.MULTILINE)
    return one_line(lines[-1]) if lines else one_line(first_line(error))


if __name__ == "__main__":
    from model import on_spark  # so that workers find its functions by the name of the module

    sys.exit(on_spark.main())
