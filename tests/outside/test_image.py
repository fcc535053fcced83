"""Owns the image: its contents, how it runs, and the replacement of a container without a lost request."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pytest
import requests

from app.version import VERSION
from tests.support.arrow import ARROW, read, stream
from tests.support.service import HOUSE, ROOT

BASE = "python:3.11-slim-bookworm"
IMAGE = "tabserve-tests"
MODEL = "boston-housing"
BODY = json.dumps(HOUSE).encode()
LONG_CSV = "\n".join([",".join(HOUSE), *[",".join(map(str, HOUSE.values()))] * 10_000])
HARDENED = (
    *("--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
    *("--memory", "256m", "--user", "12345"),
)


def docker(*arguments: str, given: str | None = None) -> str:
    """Run a docker command and return what it prints."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=900, input=given)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def engine_answers() -> bool:
    """Return whether a Docker engine answers."""
    if not shutil.which("docker"):
        return False
    return subprocess.run(["docker", "info"], capture_output=True, timeout=60).returncode == 0


pytestmark = [
    pytest.mark.container,
    pytest.mark.skipif(not engine_answers(), reason="the Docker engine does not answer `docker info`"),
]


def build(**settings: str) -> str:
    """Build an image with docker/build.sh and return its name."""
    environ = {**os.environ, "IMAGE": IMAGE, **settings}
    done = subprocess.run([ROOT / "docker" / "build.sh"], env=environ, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def image() -> str:
    """The CPU image without a model."""
    return build()


@pytest.fixture(scope="module")
def baked() -> str:
    """The CPU image with the example's model, under a name of its own."""
    name = build(MODEL=MODEL, IMAGE=f"{IMAGE}-baked")
    assert name == f"{IMAGE}-baked:{VERSION}"
    return name


@pytest.fixture(scope="module")
def readable_store(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the store that any user may read: pytest's own folders are private."""
    root = Path(os.path.realpath(tmp_path_factory.mktemp("mount")))
    shutil.copytree(store, root / "store")
    for folder in (root / "store", root, *list(root.parents)[:2]):
        folder.chmod(folder.stat().st_mode | 0o055)
    return root / "store"


@dataclass
class Container:
    """A running container and its URL."""

    name: str
    url: str

    def inspect(self, template: str) -> str:
        """Return a field of `docker inspect`."""
        return docker("inspect", "--format", template, self.name)


@contextmanager
def run(image: str, *options: str, command: tuple[str, ...] = (), port: int = 8080) -> Iterator[Container]:
    """Run a container until the block ends, and wait until it is ready."""
    name = docker("run", "--detach", "--publish", f"127.0.0.1::{port}", *options, image, *command)
    try:
        address = docker("port", name, f"{port}/tcp")
        container = Container(name, f"http://{address}")
        deadline = time.monotonic() + 30
        while not answers(f"{container.url}/readyz"):
            assert time.monotonic() < deadline, docker("logs", "--tail", "5", name)
            time.sleep(0.05)
        yield container
    finally:
        docker("rm", "--force", name)


def answers(url: str) -> bool:
    """Return whether a URL replies 200."""
    try:
        return requests.get(url, timeout=5).status_code == 200
    except requests.RequestException:
        return False


def prediction(url: str) -> float:
    """Return the prediction for the published request."""
    reply = requests.post(f"{url}/predict", json=HOUSE, timeout=10)
    assert reply.status_code == 200, reply.text
    value: float = reply.json()["prediction"][0]
    return value


def test_hardened(baked: str) -> None:
    """As any user, with a read-only root, no capabilities and 256 MB, the baked model answers and is healthy.

    Streams of Arrow and long CSV are answered with what the image has of pyarrow.
    """
    with run(baked, *HARDENED) as container:
        assert prediction(container.url) == 25.002145787183498
        table = pa.table({name: [float(cell)] * 10_000 for name, cell in HOUSE.items()})
        for sent, kind in ((stream(table, compression="zstd"), ARROW), (LONG_CSV, "text/csv")):
            reply = requests.post(f"{container.url}/predict", sent, headers={"Content-Type": kind}, timeout=30)
            answers = read(reply.content)["prediction"].to_pylist() if kind == ARROW else reply.json()["prediction"]
            assert answers == [25.002145787183498] * 10_000
        deadline = time.monotonic() + 40
        while container.inspect("{{.State.Health.Status}}") != "healthy":
            assert time.monotonic() < deadline
            time.sleep(0.5)


def test_prediction_log(baked: str) -> None:
    """Feedback needs a prediction log, which a file can be. PostgreSQL's driver is installed."""
    feedback = {"request_id": "house", "truth": 24.0}
    for environ, status in (([], 404), (["--env", "TABSERVE_PREDICTION_LOG=sqlite:////tmp/predictions.db"], 200)):
        with run(baked, *HARDENED, *environ) as container:
            headers = {"X-Request-Id": "house"}
            assert requests.post(f"{container.url}/predict", json=HOUSE, headers=headers, timeout=10).status_code == 200
            assert requests.post(f"{container.url}/feedback", json=feedback, timeout=10).status_code == status
    code = (
        "from model.live.prediction_log import PredictionLog; PredictionLog('postgresql://u@127.0.0.1:1/x').write([])"
    )
    done = subprocess.run(["docker", "run", "--rm", baked, "python", "-c", code], capture_output=True, text=True)
    assert "PredictionLogError: the prediction log cannot be used: OperationalError" in done.stderr


@pytest.mark.parametrize(
    ("target", "part", "environ"),
    [
        ("/opt/ml/model", "", {}),
        ("/opt/ml/model", MODEL + "/1", {}),
        ("/var/azureml-app/azureml-models/houses/3", MODEL + "/1", {}),
        ("/azure/houses/3", "", {"AZUREML_MODEL_DIR": "/azure/houses/3"}),
        ("/models", "", {}),
        ("/elsewhere", "", {"TABSERVE_STORE": "/elsewhere"}),
    ],
    ids=["SageMaker, store", "SageMaker, artifact", "Azure ML, artifact", "Azure ML, named", "/models", "setting"],
)
def test_mounted_model(image: str, readable_store: Path, target: str, part: str, environ: dict[str, str]) -> None:
    """A model is found where SageMaker and Azure ML mount it, read-only, as root and `serve` as the argument."""
    options = ["--user", "0", "--volume", f"{readable_store / part}:{target}:ro"]
    for key, value in environ.items():
        options += ["--env", f"{key}={value}"]
    with run(image, *options, command=("serve",)) as container:
        assert prediction(container.url) == 25.002145787183498


@pytest.mark.parametrize(
    ("environ", "port"), [({"PORT": "9001"}, 9001), ({"AIP_HTTP_PORT": "9002"}, 9002)], ids=["PORT", "Vertex AI"]
)
def test_port(image: str, readable_store: Path, environ: dict[str, str], port: int) -> None:
    """The port is 8080, unless PORT or a platform's variable sets another."""
    options = [word for key, value in environ.items() for word in ("--env", f"{key}={value}")]
    with run(image, *options, "--volume", f"{readable_store}:/models:ro", port=port) as container:
        assert prediction(container.url) == 25.002145787183498
        docker("exec", container.name, "docker/entrypoint.sh", "healthcheck")


def test_commands(baked: str) -> None:
    """The image runs the model commands that need no training package, and any other command."""
    table = "CHAS,RM,TAX,PTRATIO,B,LSTAT\n0,6.575,296,15.3,396.9,4.98\n"

    assert f"{MODEL}@1  champion" in docker("run", "--rm", baked, "list")
    assert "answered to the last bit" in docker("run", "--rm", baked, "verify", MODEL)
    answered = docker("run", "--rm", "--interactive", baked, "predict", MODEL, "-", given=table)
    assert answered.splitlines()[-1] == "0,6.575,296,15.3,396.9,4.98,25.002145787183498"
    assert docker("run", "--rm", baked, "python", "-c", "print(6 * 7)") == "42"
    assert (
        docker("run", "--rm", baked, "python", "-c", "import model.store.signature as s; print(s.SIGNATURE)")
        == "model.sig"
    )


def test_training_names_the_target(image: str) -> None:
    """The serving image does not train, and names the target that does."""
    done = subprocess.run(["docker", "run", "--rm", image, "train", MODEL], capture_output=True, text=True, timeout=60)

    assert done.returncode == 1
    assert done.stderr.strip() == ("this image cannot train; build the one that can: docker build --target train .")


def test_contents(image: str) -> None:
    """The image has no pip, compiler, tests or training package, and everything is compiled."""
    script = """
        for one in pip pip3 gcc cc make curl; do command -v $one; done
        for one in python /usr/local/bin/python; do $one -m pip --version 2>/dev/null; done
        find /opt /srv -type d -name tests
        python -c 'from importlib.util import find_spec as f; print([n for n in ("sklearn", "pandas", "onnx") if f(n)])'
        for f in $(find /srv/tabserve -name '*.py' -not -name gunicorn.conf.py); do
            test -f "$(dirname "$f")/__pycache__/$(basename "$f" .py).cpython-311.pyc" || echo "$f is not compiled"
        done
        id -u
    """

    assert docker("run", "--rm", image, "sh", "-c", script).split("\n") == ["[]", "10001"]


def test_run_docker(tmp_path: Path) -> None:
    """run_docker.sh ends with a curl line that works; without an engine its message says what to do."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environ = {**os.environ, "IMAGE": f"{IMAGE}-baked", "PORT": port}
    done = subprocess.run([ROOT / "run_docker.sh"], env=environ, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]
    line = done.stdout.strip().splitlines()[-1]
    try:
        answer = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=30).stdout
        assert json.loads(answer)["prediction"] == [25.002145787183498]
    finally:
        docker("rm", "--force", re.findall(r"docker stop (\w+)", done.stdout)[0])

    nowhere = {**environ, "DOCKER_HOST": f"unix://{tmp_path}/none"}
    refused = subprocess.run([ROOT / "run_docker.sh"], env=nowhere, capture_output=True, text=True, timeout=60)
    assert refused.returncode == 1
    assert refused.stderr.startswith("the Docker engine does not answer: start Docker")


def test_labels_and_size(image: str, baked: str) -> None:
    """The image has labels for version and revision, and is at most 299 MB larger than its base: Arrow takes 106 MB."""
    labels = json.loads(docker("image", "inspect", "--format", "{{json .Config.Labels}}", image))
    if subprocess.run(["docker", "image", "inspect", BASE], capture_output=True).returncode:
        docker("pull", "--quiet", BASE)  # BuildKit does not share what it pulls
    size, base = (int(docker("image", "inspect", "--format", "{{.Size}}", name)) for name in (baked, BASE))

    assert labels["org.opencontainers.image.version"] == VERSION
    assert re.fullmatch("[0-9a-f]{40}(-dirty)?|unknown", labels["org.opencontainers.image.revision"])
    assert size - base <= 299e6


@dataclass
class Load:
    """The result of a load: how many requests were answered, and what went wrong with the others."""

    answered: int = 0
    failures: list[str] = field(default_factory=list)

    def send(self, connection: http.client.HTTPConnection) -> http.client.HTTPResponse | None:
        """Send one request; return the reply if it is 200."""
        try:
            connection.request("POST", "/predict", BODY, {"Content-Type": "application/json"})
            reply = connection.getresponse()
            text = reply.read()
        except (OSError, http.client.HTTPException) as error:
            self.failures.append(repr(error))
            return None
        if reply.status != 200:
            self.failures.append(f"{reply.status} {text[:200]!r}")
            return None
        self.answered += 1
        return reply


@contextmanager
def load(clients: int, one: Callable[[Load, threading.Event], None]) -> Iterator[Load]:
    """Run clients in threads of their own until the block ends."""
    found, stop = Load(), threading.Event()
    threads = [threading.Thread(target=one, args=(found, stop)) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield found
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def more_answers(found: Load, count: int) -> None:
    """Wait until so many more requests are answered."""
    enough, deadline = found.answered + count, time.monotonic() + 120
    while found.answered < enough:
        assert time.monotonic() < deadline, found
        time.sleep(0.05)


def test_stop_under_load(baked: str) -> None:
    """After `docker stop` every request on an open connection is answered, and the exit status is 0."""
    with run(baked, *HARDENED) as container:

        def keep_asking(found: Load, stop: threading.Event) -> None:
            with closing(http.client.HTTPConnection(container.url.removeprefix("http://"), timeout=10)) as connection:
                while not stop.is_set():
                    reply = found.send(connection)
                    if reply is None or reply.getheader("Connection") == "close":
                        return

        with load(8, keep_asking) as found:
            more_answers(found, 101)
            docker("stop", container.name)

        assert found.failures == []
        assert found.answered > 100
        assert container.inspect("{{.State.ExitCode}} {{.State.OOMKilled}}") == "0 false"


# As the cluster's readiness probe: a check may take 2 s, and after three failures a slot gets no requests.
HAPROXY = """
global
    stats socket {socket} mode 600 level admin
defaults
    mode http
    timeout connect 5s
    timeout client 30s
    timeout server 30s
    timeout check 2s
    retries 0
listen tabserve
    bind 127.0.0.1:{port}
    option httpchk GET /readyz
    default-server check inter 200ms fall 3 rise 1 init-addr none
    server a 127.0.0.1:1 disabled
    server b 127.0.0.1:1 disabled
"""


class Proxy:
    """HAProxy in front of two slots for a container; `retries 0` so that it hides no failure."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._socket = folder / "admin"
        config = folder / "haproxy.cfg"
        config.write_text(HAPROXY.format(port=self.port, socket=self._socket))
        self._log = folder / "haproxy.log"
        with self._log.open("w") as log:
            self.process = subprocess.Popen(["haproxy", "-f", config, "-db"], stderr=log)

    def log(self) -> str:
        """Return HAProxy's log, with the changes of the slots' states."""
        return self._log.read_text()

    def ask(self, command: str) -> str:
        """Send HAProxy a command and return its reply."""
        with socket.socket(socket.AF_UNIX) as channel:
            channel.connect(str(self._socket))
            channel.sendall(command.encode() + b"\n")
            return channel.makefile().read()

    def tell(self, command: str) -> None:
        """Send HAProxy a command, and check that it has no complaint."""
        answer = self.ask(command).strip()
        assert not answer or answer.startswith(("IP changed", "no need to change")), answer

    def wait_for(self, slot: str, state: str) -> None:
        """Wait until a slot has a state in HAProxy."""
        deadline = time.monotonic() + 20
        while self._state(slot) != state:
            assert time.monotonic() < deadline, (slot, self._state(slot), self.log())
            time.sleep(0.05)

    def take(self, slot: str, url: str) -> None:
        """Send requests to a new container once HAProxy sees that it is ready."""
        host, port = url.removeprefix("http://").split(":")
        self.tell(f"set server tabserve/{slot} addr {host} port {port}")
        self.tell(f"set server tabserve/{slot} state ready")
        self.tell(f"enable server tabserve/{slot}")
        self.wait_for(slot, "UP")  # not "UP 1/3", the state before the first check

    def drain(self, slot: str) -> None:
        """Send no new requests to a slot, and wait until the last one is answered."""
        self.tell(f"set server tabserve/{slot} state drain")
        self.wait_for(slot, "DRAIN")
        time.sleep(1)

    def forget(self, slot: str) -> None:
        """Free the slot."""
        self.tell(f"disable server tabserve/{slot}")

    def _state(self, slot: str) -> str:
        for line in self.ask("show stat").splitlines():
            cells = line.split(",")
            if cells[:2] == ["tabserve", slot]:
                return cells[17]
        return ""


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[Proxy]:
    """A running HAProxy."""
    if not shutil.which("haproxy"):
        pytest.skip("needs HAProxy: apt-get install haproxy")
    running = Proxy(tmp_path)
    time.sleep(0.5)
    yield running
    running.process.terminate()
    running.process.wait(timeout=10)


@pytest.mark.parametrize("drained", [True, False], ids=["drained first", "not drained"])
def test_replacement(baked: str, proxy: Proxy, drained: bool) -> None:
    """Five times under load a container is replaced: if it is drained first, no request fails; otherwise some do."""

    def ask(found: Load, stop: threading.Event) -> None:
        while not stop.is_set():
            with closing(http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=15)) as connection:
                found.send(connection)
            # Each connection uses a port for a minute, and there are 28,000: any faster, and Docker has none left.
            time.sleep(0.02)

    with ExitStack() as stack:
        old, slot = stack.enter_context(run(baked)), "a"
        proxy.take(slot, old.url)
        with load(4, ask) as found:
            for _ in range(5):
                more_answers(found, 200)
                new, other = stack.enter_context(run(baked)), "b" if slot == "a" else "a"
                proxy.take(other, new.url)
                if drained:
                    proxy.drain(slot)
                docker("stop", old.name)
                proxy.forget(slot)
                old, slot = new, other
            more_answers(found, 200)

    assert (found.failures == []) == drained, f"{found.failures[:3]}\n{proxy.log()}"
    assert found.answered > 1000
