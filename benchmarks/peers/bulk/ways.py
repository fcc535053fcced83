"""The ways: each reads a table, adds a column of predictions, and writes it. Run as WAY ARTIFACT IN OUT [FOLDER].

The ways that end in `-alone` only read and write the same table.
"""

import sys
from pathlib import Path


def pandas_way(artifact: Path, source: str, target: str) -> None:
    """Read with pandas, predict with the fitted pipeline, write with pandas: what most people do."""
    import joblib
    import pandas as pd

    pipeline = joblib.load(artifact / "pipeline.joblib")
    table = pd.read_parquet(source) if source.endswith(".parquet") else pd.read_csv(source)
    table["prediction"] = pipeline.predict(table)
    if target.endswith(".parquet"):
        table.to_parquet(target, index=False)
    else:
        table.to_csv(target, index=False)


def mlflow_way(artifact: Path, source: str, target: str) -> None:
    """The same with MLflow's model for Python: what `mlflow models predict` calls."""
    import mlflow.pyfunc
    import pandas as pd

    model = mlflow.pyfunc.load_model(str(mlflow_model(artifact)))
    table = pd.read_parquet(source) if source.endswith(".parquet") else pd.read_csv(source)
    table["prediction"] = model.predict(table)
    if target.endswith(".parquet"):
        table.to_parquet(target, index=False)
    else:
        table.to_csv(target, index=False)


def mlflow_model(artifact: Path) -> Path:
    """Return the pipeline as MLflow keeps it, in the working folder; written once."""
    import joblib
    import mlflow.sklearn

    folder = Path("mlflow-model")
    if not folder.exists():
        trusted = ["sklearn.tree._tree.Tree"]
        mlflow.sklearn.save_model(
            joblib.load(artifact / "pipeline.joblib"), folder, skops_trusted_types=trusted, pip_requirements=[]
        )
    return folder


def polars_way(artifact: Path, source: str, target: str) -> None:
    """Stream with Polars, with our engine for each piece."""
    import polars as pl

    from model.store import artifact as artifacts

    model = artifacts.load(artifact)
    names = list(model.schema.names)

    def predict(piece: pl.DataFrame) -> pl.DataFrame:
        X = piece.select(pl.col(names).cast(pl.Float64)).to_numpy()
        return piece.with_columns(pl.Series("prediction", model.predict(X)))

    table = pl.scan_parquet(source) if source.endswith(".parquet") else pl.scan_csv(source)
    schema = {**table.collect_schema(), "prediction": pl.Float64}
    sink(table.map_batches(predict, schema=schema, streamable=True), target)


def polars_alone(artifact: Path, source: str, target: str) -> None:
    """Stream with Polars from file to file."""
    import polars as pl

    sink(pl.scan_parquet(source) if source.endswith(".parquet") else pl.scan_csv(source), target)


def sink(table: "pl.LazyFrame", target: str) -> None:  # noqa: F821
    """Write a lazy frame of Polars as it comes."""
    if target.endswith(".parquet"):
        table.sink_parquet(target)
    else:
        table.sink_csv(target)


def duckdb_way(artifact: Path, source: str, target: str) -> None:
    """One query of DuckDB, with our engine as a function of it."""
    import duckdb
    import numpy as np
    import pyarrow as pa
    from duckdb.func import PythonUDFType

    from model.store import artifact as artifacts

    model = artifacts.load(artifact)

    def predict(a, b, c, d, e, f):  # DuckDB counts the parameters; each is an array of Arrow
        return pa.array(model.predict(np.column_stack([column.to_numpy() for column in (a, b, c, d, e, f)])))

    connection = duckdb.connect()
    double = duckdb.sqltype("DOUBLE")
    kinds = [double] * len(model.schema.names)
    connection.create_function("predict", predict, kinds, double, type=PythonUDFType.ARROW)
    cells = ", ".join(f'CAST("{name}" AS DOUBLE)' for name in model.schema.names)
    connection.execute(f"COPY (SELECT *, predict({cells}) AS prediction FROM '{source}') TO '{target}'")


def duckdb_alone(artifact: Path, source: str, target: str) -> None:
    """One query of DuckDB from file to file."""
    import duckdb

    duckdb.connect().execute(f"COPY (SELECT * FROM '{source}') TO '{target}'")


def pyarrow_alone(artifact: Path, source: str, target: str) -> None:
    """Batches of pyarrow from file to file."""
    import pyarrow.csv as csv
    import pyarrow.parquet as parquet

    if source.endswith(".parquet"):
        file = parquet.ParquetFile(source)
        with parquet.ParquetWriter(target, file.schema_arrow) as writer:
            for batch in file.iter_batches():
                writer.write_batch(batch)
        return
    with csv.open_csv(source) as reader, csv.CSVWriter(target, reader.schema) as writer:
        for batch in reader:
            writer.write_batch(batch)


WAYS = {
    "pandas": pandas_way,
    "mlflow": mlflow_way,
    "polars": polars_way,
    "duckdb": duckdb_way,
    "polars-alone": polars_alone,
    "duckdb-alone": duckdb_alone,
    "pyarrow-alone": pyarrow_alone,
}

if __name__ == "__main__":
    name, folder, read, written = sys.argv[1:]
    WAYS[name](Path(folder), read, written)
