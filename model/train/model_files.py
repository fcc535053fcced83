"""Read a fitted model from a file.

A pickle runs the code that is in it. So it is opened here, by a person who names the file, and never by a server.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import joblib
from sklearn.exceptions import InconsistentVersionWarning

from model.errors import ExportError
from model.train.compile import catboost, lightgbm, onnx_file, xgboost
from model.train.compile.compiled import estimator_of

MLFLOW = "mlflow:"


def runs_code(source: str) -> bool:
    """Return whether reading a model from here may run code that is in it; False if there is nothing to read."""
    path = Path(source)
    return source.startswith(MLFLOW) or (path.is_file() and path.suffix.lower() in _PICKLES)


def load(source: str) -> Any:
    """Return the fitted model in a file of a kind that its suffix names, or behind an `mlflow:` URI.

    Raises `ExportError` for a source that has none, or one of another version of scikit-learn.
    """
    if source.startswith(MLFLOW):
        name, read = source, partial(_read_mlflow, source.removeprefix(MLFLOW))
    else:
        path = Path(source)
        name, reader = path.name, _READERS.get(path.suffix.lower())
        if reader is None:
            raise ExportError(
                f"{name} is of no known kind; name a file that ends in {', '.join(_READERS)}, or a URI such as "
                f"{MLFLOW}models:/prices@champion"
            )
        if not path.is_file():
            raise ExportError(f"there is no file {source}; name the file of a fitted model")
        read = partial(reader, path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", InconsistentVersionWarning)
            fitted = estimator_of(read())
    except ExportError:
        raise
    except InconsistentVersionWarning as warning:
        raise ExportError(
            f"{name} has a {warning.estimator_name} of scikit-learn {warning.original_sklearn_version}, and here "
            f"is {warning.current_sklearn_version}, which may predict other numbers; fit it again here, or run "
            f"pip install scikit-learn=={warning.original_sklearn_version} first"
        ) from None
    except Exception as error:  # a pickle may raise anything
        if lost := _OF_SCRIPT.search(str(error)):
            raise ExportError(
                f"{name} needs {lost[1]!r} of the script or notebook that wrote it; define {lost[1]} in a module that "
                "is on PYTHONPATH here, too, and save the model again"
            ) from None
        raise ExportError(
            f"{name} cannot be read ({type(error).__name__}: {error}); is it a whole model, and is every package "
            "installed that it needs?"
        ) from None
    if not hasattr(fitted, "predict"):
        raise ExportError(f"{name} has a {type(fitted).__name__}, which does not predict; save the fitted model")
    return fitted


def _read_mlflow(uri: str) -> Any:
    """Return the model behind a URI of MLflow, whose server is the one that MLFLOW_TRACKING_URI names."""
    _check_installed(uri, "mlflow", extra="mlflow-skinny")
    from mlflow import artifacts, get_tracking_uri, is_tracking_uri_set, models
    from mlflow.environment_variables import MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR

    if not MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR.is_set():
        MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR.set(False)  # there is one for each file
    try:
        folder = artifacts.download_artifacts(artifact_uri=uri)
    except Exception as error:  # its stores raise many classes
        where = get_tracking_uri() if is_tracking_uri_set() else f"{get_tracking_uri()}, since that is not set"
        raise ExportError(
            f"{MLFLOW}{uri} cannot be read ({type(error).__name__}: {error}); is it at the server or database that "
            f"MLFLOW_TRACKING_URI names: {where}?"
        ) from None
    flavors = models.Model.load(folder).flavors
    if "sklearn" in flavors:  # read as any other file, with the same checks
        return load(str(Path(folder) / flavors["sklearn"]["pickled_model"]))
    for flavor in ("xgboost", "lightgbm", "catboost"):
        if flavor in flavors:
            _check_installed(uri, flavor)
            return import_module(f"mlflow.{flavor}").load_model(folder)
    raise ExportError(
        f"{uri} is a model of the flavors {', '.join(flavors)}; log one of scikit-learn, XGBoost, LightGBM or CatBoost"
    )


def _read_skops(path: Path) -> Any:
    _check_installed(path.name, "skops")
    from skops import io

    unknown = sorted(set(io.get_untrusted_types(file=path)) - _TRUSTED)
    if unknown:
        raise ExportError(
            f"{path.name} has types that skops does not trust: {', '.join(unknown)}; if you trust the file, save the "
            "model with joblib and import that"
        )
    return io.load(path, trusted=sorted(_TRUSTED))


def _read_json(path: Path) -> Any:
    """Return the model in JSON, of CatBoost if it has what CatBoost writes, else of XGBoost."""
    return _read_catboost(path) if b'"features_info"' in path.read_bytes() else _read_xgboost(path)


def _read_catboost(path: Path) -> Any:
    _check_installed(path.name, "catboost")
    return catboost.load(path)


def _read_lightgbm(path: Path) -> Any:
    _check_installed(path.name, "lightgbm")
    return lightgbm.load(path)


def _read_xgboost(path: Path) -> Any:
    _check_installed(path.name, "xgboost")
    return xgboost.load(path)


def _check_installed(name: str, package: str, *, extra: str = "") -> None:
    if find_spec(package) is None:
        raise ExportError(
            f'{name} is read by {package}, which is not installed; run make install EXTRAS="{extra or package}"'
        )


# What skops does not trust and every model of trees has: classes that hold arrays. Functions never belong here, since a
# file may have them called.
_TRUSTED = frozenset(
    ("numpy.dtype", "sklearn.tree._tree.Tree", "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor")
)
_OF_SCRIPT = re.compile(r"Can't get attribute '(\w+)' on <module '(?:\w+\.)*__main__'")
_PICKLES = (".joblib", ".pkl", ".pickle")
_READERS: Mapping[str, Callable[[Path], Any]] = {
    **dict.fromkeys(_PICKLES, joblib.load),
    ".skops": _read_skops,
    ".json": _read_json,
    ".ubj": _read_xgboost,
    ".cbm": _read_catboost,
    ".txt": _read_lightgbm,
    ".onnx": onnx_file.load,
}
