"""Sends runs and versions of a store to an MLflow server: its tracking, and its registry with aliases.

What was sent is found again by tags, so that sending twice changes nothing, and sending goes on where it was stopped.
The store stays the truth: nothing is read back from MLflow but what is there already.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version as version_of
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from model.errors import ArtifactError, ModelError, counted, first_line
from model.schema.features import Schema
from model.store import artifact, runs
from model.store.artifact import Artifact
from model.store.runs import FAILED, FINISHED, INTERRUPTED, Recording, Run, flat, redacted
from model.store.versions import Store

RUN, VERSION, DIGEST, ALIASES = "tabserve.run", "tabserve.version", "tabserve.digest", "tabserve.aliases"
_STATUS = {FINISHED: "FINISHED", FAILED: "FAILED", INTERRUPTED: "KILLED"}
_OPEN = ("RUNNING", "SCHEDULED")  # a run of MLflow of which a part was sent
_MAX_PARAMS, _MAX_METRICS = 100, 1_000  # in one request
_MAX_NAME, _MAX_PARAM, _MAX_TAG = 250, 6_000, 5_000  # characters that MLflow takes
_SECONDS = 10.0  # in which a server says that it is there
_RETRIES = 2  # of a request; MLflow's own 7 take minutes
_RESERVED = re.compile(r"latest|v[0-9]+")  # aliases that MLflow keeps for itself
# What of this package answers requests, by which MLflow serves a version where there is nothing else of it.
_SERVING = (
    *("__init__.py", "errors.py", "keys.py", "metrics.py", "pyfunc.py", "task.py", "version.py"),
    *("engine", "schema", "store"),
)


@dataclass(frozen=True, slots=True)
class Sent:
    """What was new to MLflow of a model: runs, versions, moved aliases; `versions` is MLflow's number of each of ours.

    `problems` are versions and aliases that were not sent, and why.
    """

    n_runs: int
    n_versions: int
    n_aliases: int
    versions: Mapping[int, str]
    problems: tuple[str, ...]

    def __str__(self) -> str:
        runs, versions = counted(self.n_runs, "run"), counted(self.n_versions, "version")
        aliases = counted(self.n_aliases, "alias", "aliases")
        others = [
            f"version {version} has the number {number} there"
            for version, number in self.versions.items()
            if str(version) != number
        ]
        return "; ".join([f"{runs} and {versions} are new there, {aliases} moved", *others])


def send(store: Store, name: str, uri: str = "") -> Sent:
    """Send the runs, versions and aliases of a model that are not there yet to an MLflow server.

    Without `uri` it is the one that MLFLOW_TRACKING_URI names. Raises `ModelError` if MLflow is not installed, no
    server is named, or it does not answer; what was sent until then stays.
    """
    client, uri = _client(uri)
    recorded, _ = runs.read(store, name)
    problems = []
    with _named(uri):
        experiment = _experiment(client, name)
        known = {run.data.tags[RUN]: run for run in _pages(client.search_runs, [experiment]) if RUN in run.data.tags}
        n_runs, by_digest = 0, {}
        versions = {}
        for version in store.versions(name):
            try:
                versions[version] = store.load(f"{name}@{version}")
            except ArtifactError as error:
                problems.append(f"version {version} is damaged: {error}")
        digests = {model.manifest.digest: model for model in versions.values()}
        recorded_digests = {run.facts.get("digest") for run in recorded}
        recorded += [_of_version(model) for digest, model in digests.items() if digest not in recorded_digests]
        for run in recorded:
            model = digests.get(str(run.facts.get("digest")))
            found = known.get(run.id)
            if found is None or found.info.status in _OPEN:
                found = _send_run(client, experiment, run, model, found)
                n_runs += 1
            if model:
                by_digest[model.manifest.digest] = found
        registered, n_versions = _send_versions(client, name, versions, by_digest)
        n_aliases, unsent = _send_aliases(client, name, store.aliases(name), registered) if registered else (0, [])
    return Sent(n_runs, n_versions, n_aliases, registered, (*problems, *unsent))


def _client(uri: str) -> tuple[Any, str]:
    """Return a client of a server that is there, and the server's URI for messages."""
    if find_spec("mlflow") is None:
        raise ModelError("MLflow is not installed; run pip install -r requirements-mlflow.txt")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # it would report its use to its makers
    from mlflow import MlflowClient, get_tracking_uri, is_tracking_uri_set
    from mlflow.environment_variables import MLFLOW_HTTP_REQUEST_MAX_RETRIES, MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT

    if not uri and not is_tracking_uri_set():
        raise ModelError("no MLflow server is named; write --mlflow http://HOST:PORT, or set MLFLOW_TRACKING_URI")
    uri = uri or get_tracking_uri()
    if "://" not in uri and not uri.startswith("databricks"):
        raise ModelError(f"{uri!r} is not the URI of an MLflow server; write --mlflow http://HOST:PORT")
    if uri.startswith(("http://", "https://")):
        try:
            urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=_SECONDS).close()
        except urllib.error.HTTPError as error:  # a server behind a gateway, or an older one, is a server
            error.close()
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            raise ModelError(f"no MLflow server answers at {redacted(uri)} ({reason}); {_LATER}") from None
    if not MLFLOW_HTTP_REQUEST_MAX_RETRIES.is_set():
        MLFLOW_HTTP_REQUEST_MAX_RETRIES.set(_RETRIES)
    MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT.set(True)
    logging.getLogger("mlflow").setLevel(logging.ERROR)  # it tells of each version that it waits for
    return MlflowClient(tracking_uri=uri, registry_uri=uri), redacted(uri)


_LATER = "the store has everything, so send it again when the server is there"


@contextmanager
def _named(uri: str) -> Iterator[None]:
    """Name the server in its errors."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, OSError) as error:
        raise ModelError(f"the MLflow server {uri}: {redacted(first_line(error))}; {_LATER}") from None


def _pages(search: Any, *arguments: Any) -> Iterator[Any]:
    """Yield what a search finds, page after page."""
    token = None
    while True:
        page = search(*arguments, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _experiment(client: Any, name: str) -> str:
    """Return the id of the experiment of a model, which is made if there is none."""
    found = client.get_experiment_by_name(name)
    if found is None:
        return str(client.create_experiment(name))
    if found.lifecycle_stage != "active":
        raise ModelError(f"the experiment {name!r} is deleted at the MLflow server; restore it there, or remove it")
    return str(found.experiment_id)


def _of_version(model: Artifact) -> Run:
    """Return a run in place of the record that a version does not have, as one from another store."""
    told = Recording()
    told.add_version(model.manifest.document)
    digest = model.manifest.digest
    return Run(
        id=f"version-{digest}",
        model=model.name,
        kind="version",
        outcome=FINISHED,
        started_at=model.manifest.created_at,
        seconds=0.0,
        by="",
        error="",
        parameters={},
        code=model.manifest.document.get("code", {}),
        environment=told.facts.pop("environment"),
        facts=told.facts,
    )


def _send_run(client: Any, experiment: str, run: Run, model: Artifact | None, found: Any) -> Any:
    """Send one run, or the rest of it if `found` is the run of MLflow that has a part; return MLflow's run."""
    from mlflow.entities import Metric, Param

    started = int(datetime.fromisoformat(run.started_at).timestamp() * 1000)
    ended = started + int(run.seconds * 1000)
    if found is None:
        tags = {
            RUN: run.id,
            "tabserve.kind": run.kind,
            "mlflow.user": run.by,
            "mlflow.source.name": f"tabserve {run.kind}",
            "mlflow.source.git.commit": run.code.get("git_commit") or "",
            "mlflow.note.content": run.error[:_MAX_TAG],
        }
        tags = {key: str(value) for key, value in tags.items() if value}
        found = client.create_run(experiment, start_time=started, tags=tags, run_name=f"{run.kind} {run.id}")
    id = found.info.run_id
    facts = {
        **run.parameters,
        "learner": run.learner,
        "data": run.part("data"),
        "model": run.part("hyperparameters"),
        "environment": run.environment,
    }
    params = [Param(_name(name), str(value)[:_MAX_PARAM]) for name, value in flat(facts) if value not in (None, "")]
    metrics = [
        Metric(name, value, started if step is not None else ended, step or 0) for name, value, step in numbers(run)
    ]
    for start in range(0, len(params), _MAX_PARAMS):
        client.log_batch(id, params=params[start : start + _MAX_PARAMS])
    for start in range(0, len(metrics), _MAX_METRICS):
        client.log_batch(id, metrics=metrics[start : start + _MAX_METRICS])
    with TemporaryDirectory() as temporary:
        folder = Path(temporary) / "artifacts"
        folder.mkdir()
        (folder / "run.json").write_bytes(artifact.to_json(run.to_document()))
        if model:
            for name in ("card.md", artifact.MANIFEST):
                if (model.path / name).is_file():
                    shutil.copy(model.path / name, folder / name)
            save(model, folder / "model")
        client.log_artifacts(id, str(folder))
    client.set_terminated(id, _STATUS[run.outcome], ended)
    return found


def numbers(run: Run) -> list[tuple[str, float, int | None]]:
    """Return the metrics that MLflow gets of a run: name, value, and the trial's number where it is of a trial."""
    measured = (*flat(run.part("metrics")), ("seconds", run.seconds))
    scored = [(runs.score(trial), trial["number"]) for trial in run.part("search").get("trials", [])]
    return [
        *((_name(name), float(value), None) for name, value in measured if isinstance(value, (int, float))),
        *(("trial", float(score), number) for score, number in scored if score is not None),
    ]


def save(model: Artifact, folder: Path) -> None:
    """Write a version as a folder that `mlflow.pyfunc.load_model` loads and `mlflow models serve` serves.

    It has the version's files and the code that answers, so that only NumPy and ONNX Runtime must be installed.
    """
    from mlflow import pyfunc

    package = Path(__file__).parent
    with TemporaryDirectory() as temporary:
        code = Path(temporary) / package.name
        code.mkdir()
        for name in _SERVING:
            source = package / name
            if source.is_dir():
                shutil.copytree(source, code / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, code / name)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it asks for an example beside the signature
            pyfunc.save_model(
                folder,
                loader_module="model.pyfunc",
                data_path=str(model.path),
                code_paths=[str(code)],
                pip_requirements=[f"{each}=={version_of(each)}" for each in ("numpy", "onnxruntime", "pandas")],
                signature=_signature(model.schema),
            )


def _signature(schema: Schema) -> Any:
    """Return the names of the columns as MLflow's schema; it would refuse whole numbers where its type is double."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec
    from mlflow.types import Schema as TheirSchema
    from mlflow.types.schema import AnyType

    columns = [ColSpec(AnyType(), feature.name, required=not feature.missing) for feature in schema.features]
    return ModelSignature(inputs=TheirSchema(columns))


def _send_versions(
    client: Any, name: str, versions: Mapping[int, Artifact], by_digest: Mapping[str, Any]
) -> tuple[dict[int, str], int]:
    """Register the versions that are not there; return MLflow's number of each, and how many are new."""
    if not versions:
        return {}, 0
    if not list(_pages(client.search_registered_models, f"name = '{name}'")):
        client.create_registered_model(name)
    found = {
        each.tags[DIGEST]: str(each.version)
        for each in _pages(client.search_model_versions, f"name = '{name}'")
        if DIGEST in each.tags
    }
    numbers, n_new = {}, 0
    for version, model in versions.items():
        digest = model.manifest.digest
        if digest not in found:
            run = by_digest[digest].info
            made = client.create_model_version(
                name,
                source=f"{run.artifact_uri}/model",
                run_id=run.run_id,
                tags={DIGEST: digest, VERSION: str(version)},
                description=model.manifest.title,
            )
            found[digest] = str(made.version)
            n_new += 1
        numbers[version] = found[digest]
    return numbers, n_new


def _send_aliases(
    client: Any, name: str, aliases: Mapping[str, int], numbers: Mapping[int, str]
) -> tuple[int, list[str]]:
    """Have MLflow's aliases be those of the store; those that others have set there stay."""
    registered = client.get_registered_model(name)
    theirs = {alias: str(version) for alias, version in registered.aliases.items()}
    ours = set(filter(None, registered.tags.get(ALIASES, "").split(",")))
    unsent = [f"the alias {alias} is MLflow's own" for alias in aliases if _RESERVED.fullmatch(alias)]
    wanted = {
        alias: numbers[version]
        for alias, version in aliases.items()
        if version in numbers and not _RESERVED.fullmatch(alias)
    }
    n_moved = 0
    if not wanted.keys() <= ours:  # before they are set, so that they are known as ours if this stops in between
        client.set_registered_model_tag(name, ALIASES, ",".join(sorted({*wanted, *ours})))
    for alias in sorted({*wanted, *ours}):
        if alias in wanted and theirs.get(alias) != wanted[alias]:
            client.set_registered_model_alias(name, alias, wanted[alias])
            n_moved += 1
        elif alias not in wanted and alias in theirs:
            client.delete_registered_model_alias(name, alias)
            n_moved += 1
    if ours - wanted.keys():
        client.set_registered_model_tag(name, ALIASES, ",".join(sorted(wanted)))
    return n_moved, unsent


def _name(name: str) -> str:
    """Return a name that MLflow takes for a parameter or a metric."""
    return re.sub(r"[^\w.\- /:]", "_", name)[:_MAX_NAME]
