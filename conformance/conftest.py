"""The options, the markers, the server under test and a request that it answers."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import requests
from numpy.typing import NDArray

from conformance.protocol import JSON, Server, flatten, outputs_of, parse, sample, take_rows

MARKERS = {
    "core": "what inference_rest.md or open_inference_rest.yaml of the Open Inference Protocol says",
    "binary": "Triton's extension binary_tensor_data; skipped where the server metadata do not list it",
    "compression": "request bodies in gzip or deflate, as Triton takes them; skipped where they are answered 415",
    "repository": "the index of Triton's extension model_repository; skipped where there is none",
    "robust": "beyond the specifications: what clients rely on, and a 4xx for hostile input, which leaves no damage",
}

# Enough to tell rows apart, little enough for a large model.
SAMPLE_ROWS = 3

# What the fixtures assert_same and assert_refused are: they judge a reply.
Same = Callable[[requests.Response], None]
Refused = Callable[[requests.Response], None]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options that name the server, its model and a request."""
    group = parser.getgroup("conformance", "Open Inference Protocol V2")
    group.addoption("--url", help="the server under test, such as http://localhost:8000")
    group.addoption("--model", help="the model to ask for (default: the only one that the server lists)")
    group.addoption("--request", type=Path, help="file with an inference request that works (default: made up)")
    group.addoption("--rtol", type=float, default=0.0, help="relative tolerance of equal answers (default: exact)")
    group.addoption("--reply-timeout", type=float, default=30.0, help="seconds to wait for a reply (default: 30)")
    group.addoption("--binary", action="store_true", help="run the binary tests though the server does not list it")


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers."""
    for name, what in MARKERS.items():
        config.addinivalue_line("markers", f"{name}: {what}")


def stop(reason: str) -> NoReturn:
    """End the run, for which something is missing: one line says more than every test's error."""
    pytest.exit(reason, returncode=pytest.ExitCode.USAGE_ERROR)


@pytest.fixture(scope="session")
def server(pytestconfig: pytest.Config) -> Server:
    """The server and the model that the options name."""
    if pytestconfig.option.url is None:
        pytest.skip("no --url: no server to test")
    url, timeout_seconds = pytestconfig.option.url.rstrip("/"), pytestconfig.option.reply_timeout
    server = Server(url, pytestconfig.option.model or "", timeout_seconds)
    try:
        server.get("/v2/health/live")
    except requests.RequestException as error:
        stop(f"no server at {url}: {error}")
    return server if server.model else Server(url, only_model(server), timeout_seconds)


def only_model(server: Server) -> str:
    """Return the name of the only model that the server lists, by either of the two ways to list them."""
    listings: list[Callable[[], requests.Response]] = [
        lambda: server.post("/v2/repository/index", {}),
        lambda: server.get("/v2/models"),
    ]
    for ask in listings:
        reply = ask()
        if reply.status_code == 200:
            listing = parse(reply.content)
            models = listing["models"] if isinstance(listing, dict) else listing
            names = {model["name"] if isinstance(model, dict) else model for model in models}
            if len(names) == 1:
                return str(names.pop())
            stop(f"--model is needed, one of {sorted(names)}")
    stop("--model is needed: the server lists no models")


@pytest.fixture(scope="session")
def extensions(server: Server) -> list[str]:
    """The extensions that the server metadata list."""
    reply = server.get("/v2")
    return list(parse(reply.content).get("extensions") or []) if reply.status_code == 200 else []


@pytest.fixture(scope="session")
def metadata(server: Server) -> JSON:
    """The model metadata, empty where there are none."""
    reply = server.get(server.model_path())
    return parse(reply.content) if reply.status_code == 200 else {}


@pytest.fixture(scope="session")
def version(metadata: JSON) -> str:
    """A version that may be asked for."""
    if not metadata.get("versions"):
        pytest.skip("the model metadata list no versions")
    return str(metadata["versions"][-1])


@pytest.fixture(scope="session")
def _sample(pytestconfig: pytest.Config, metadata: JSON) -> JSON:
    """A request from the file or from the metadata; its data are flat."""
    if pytestconfig.option.request is not None:
        inputs = json.loads(pytestconfig.option.request.read_text())["inputs"]
        return {"inputs": [{**tensor, "data": flatten(tensor["data"])} for tensor in inputs]}
    if not metadata.get("inputs"):
        stop("--request is needed: there are no model metadata that declare inputs")
    return sample(metadata["inputs"], n_rows=SAMPLE_ROWS)


@pytest.fixture(scope="session")
def _answer(server: Server, _sample: JSON) -> dict[str, NDArray[Any]]:
    """The outputs for the sample; without them nothing can be compared."""
    reply = server.infer(_sample)
    if reply.status_code != 200:
        stop(f"a request that works is needed (--request); {_sample} is answered {reply.status_code}: {reply.text}")
    return outputs_of(reply)


@pytest.fixture
def infer_request(_sample: JSON, _answer: dict[str, NDArray[Any]]) -> JSON:
    """A request that works, to be changed at will."""
    return copy.deepcopy(_sample)


@pytest.fixture
def rows(infer_request: JSON, metadata: JSON) -> JSON:
    """A request of several rows, where every tensor has a row for each."""
    tensors = [*metadata.get("inputs", []), *metadata.get("outputs", [])]
    if not tensors or any(tensor["shape"][:1] != [-1] for tensor in tensors):
        pytest.skip("the model metadata do not say that the first dimension of every tensor counts rows")
    n_rows = infer_request["inputs"][0]["shape"][0]
    return infer_request if n_rows > 1 else take_rows(infer_request, [0] * SAMPLE_ROWS)


@pytest.fixture
def assert_equal(pytestconfig: pytest.Config) -> Callable[[NDArray[Any], NDArray[Any]], None]:
    """Compare two tensors: shape, datatype and, within the tolerance, elements."""

    def check(actual: NDArray[Any], expected: NDArray[Any]) -> None:
        assert (actual.shape, actual.dtype) == (expected.shape, expected.dtype)
        if expected.dtype.kind == "f":
            np.testing.assert_allclose(actual, expected, rtol=pytestconfig.option.rtol, atol=0)
        else:
            assert actual.tolist() == expected.tolist()

    return check


@pytest.fixture
def assert_same(_answer: dict[str, NDArray[Any]], assert_equal: Callable[[NDArray[Any], NDArray[Any]], None]) -> Same:
    """Hold the outputs of a reply against those for the sample."""

    def check(reply: requests.Response) -> None:
        outputs = outputs_of(reply)
        assert outputs.keys() == _answer.keys()
        for name, values in outputs.items():
            assert_equal(values, _answer[name])

    return check


@pytest.fixture
def assert_refused(server: Server, _sample: JSON, assert_same: Same) -> Refused:
    """Check that a reply is a 4xx, and that the server answers the sample right after it."""

    def check(reply: requests.Response) -> None:
        assert_same(server.infer(_sample))
        assert 400 <= reply.status_code < 500, f"status {reply.status_code}: {reply.text[:300]}"

    return check


@pytest.fixture
def binary(pytestconfig: pytest.Config, extensions: list[str]) -> None:
    """Skip where the server does not list the binary extension."""
    if "binary_tensor_data" not in extensions and not pytestconfig.option.binary:
        pytest.skip(f"the server lists {extensions}, not binary_tensor_data; --binary runs this nevertheless")
