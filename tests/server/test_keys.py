"""Owns who is let in by a real server: over all workers, at SIGHUP, on the port for metrics, and over TLS."""

from __future__ import annotations

import datetime
import ipaddress
import signal
import socket
import ssl
import time
from collections import Counter
from pathlib import Path

import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from model.cli.main import main
from model.keys import revoke_keys
from tests.support.keys import AUDIENCE, ISSUER, bearer, make_key, token, write_jwks
from tests.support.metrics import series, value
from tests.support.server import Server, serve, wait_until
from tests.support.service import ANSWER, HOUSE


def status(server: Server, key: str, path: str = "/models") -> int:
    """Return the status of a request on a connection of its own, so that any worker may get it."""
    return requests.get(f"{server.url}{path}", headers=bearer(key), timeout=10).status_code


def free_port() -> int:
    """Return a port that nothing listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The file of keys."""
    return tmp_path / "keys.jsonl"


def test_sighup_reads_keys_again(store: Path, tmp_path: Path, file: Path) -> None:
    """At SIGHUP a new key is accepted and a revoked one is not; a broken file keeps what was read, and is reported."""
    old = make_key(file, "shop", "predict:*")
    with serve(store, tmp_path, TABSERVE_KEYS=str(file)) as server:
        assert requests.post(f"{server.url}/predict", json=HOUSE, timeout=10).status_code == 401
        reply = requests.post(f"{server.url}/predict", json=HOUSE, headers=bearer(old), timeout=10)
        assert reply.json()["prediction"] == [ANSWER]

        revoke_keys(file, "shop")
        new = make_key(file, "shop", "predict:*")
        assert [status(server, old), status(server, new)] == [200, 401]
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: status(server, new) == 200)
        wait_until(lambda: all(status(server, old) == 401 for _ in range(10)))

        with file.open("a") as lines:
            lines.write("broken\n")
        before = set(server.workers())
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: not before & set(server.workers()))
        assert status(server, new) == 200
        assert "keys.jsonl: line 2: not JSON" in server.stderr.read_text()
        assert old not in server.stdout.read_text() + server.stderr.read_text()


@pytest.mark.parametrize(("name", "fault"), [("TABSERVE_KEYS", "line 1: not JSON"), ("TABSERVE_JWKS", "is no JWKS")])
def test_broken_file_stops_the_start(store: Path, tmp_path: Path, file: Path, name: str, fault: str) -> None:
    """A server does not start with a broken file, and says in one line which and why."""
    file.write_text("broken\n")
    issuer = {"TABSERVE_JWT_ISSUER": ISSUER, "TABSERVE_JWT_AUDIENCE": AUDIENCE}
    with pytest.raises(AssertionError), serve(store, tmp_path, **{name: str(file)}, **issuer):
        pass

    (line,) = (tmp_path / "stderr.log").read_text().splitlines()
    assert f"keys.jsonl: {fault}" in line


def test_probes_stay_open(store: Path, tmp_path: Path, file: Path) -> None:
    """Health checks answer without a key, of HEAD too, and SIGTERM ends the server as ever."""
    make_key(file, "shop", "predict:*")
    with serve(store, tmp_path, TABSERVE_KEYS=str(file)) as server:
        for path in ("/livez", "/readyz", "/ping", "/v2/health/ready", "/v2/models/boston-housing/ready"):
            assert requests.get(server.url + path, timeout=10).status_code == 200
            assert requests.head(server.url + path, timeout=10).status_code == 200
        refused = requests.head(f"{server.url}/models", timeout=10)
        assert (refused.status_code, refused.content) == (401, b"")
        assert server.terminate() == 0


def test_report_sends_the_key_in_a_file(
    store: Path, tmp_path: Path, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`report --url` asks a guarded server for its counts with a key; without one, or with another, it says so."""
    keys = {name: make_key(file, name, name) for name in ("metrics", "feedback")}
    for name, key in keys.items():
        (tmp_path / name).write_text(f"{key}\n")
    log = f"sqlite:///{tmp_path}/predictions.db"
    with serve(store, tmp_path, TABSERVE_KEYS=str(file), TABSERVE_PREDICTION_LOG=log) as server:
        command = ["--store", str(store), "report", "boston-housing", "--log", log, "--url", server.url]
        command += ["--output", str(tmp_path / "report.html")]
        wait_until(lambda: (tmp_path / "predictions.db").exists())
        assert main([*command, "--key-file", str(tmp_path / "metrics")]) == 0
        assert main([*command, "--key-file", str(tmp_path / "feedback")]) == 1
        assert main(command) == 1
    assert capsys.readouterr().err.count("the server cannot be asked") == 2


def test_limits_are_over_all_workers(store: Path, tmp_path: Path, file: Path) -> None:
    """A key's rate and an address's guesses are those of all workers together, not of each."""
    limited = make_key(file, "limited", "predict:*", rate=1 / 3600, burst=7)
    ops = make_key(file, "ops", "metrics")
    with serve(store, tmp_path, WEB_CONCURRENCY="3", TABSERVE_KEYS=str(file)) as server:
        assert Counter(status(server, limited) for _ in range(40)) == {200: 7, 429: 33}

        started = time.monotonic()
        guesses = Counter(status(server, f"tabserve_{number}") for number in range(1_000))
        most = 20 + (time.monotonic() - started) / 5 + 1
        assert guesses.keys() == {401, 429}
        assert 20 <= guesses[401] <= most
        assert guesses.total() == 1_000

        def counted() -> list[float]:
            found = series(requests.get(f"{server.url}/metrics", headers=bearer(ops), timeout=10).text)
            return [
                value(found, "tabserve_refused_requests_total", reason=name) for name in ("unknown", "guesses", "rate")
            ]

        wait_until(lambda: counted() == [guesses[401], guesses[429], 33])


def test_token_is_a_key(store: Path, tmp_path: Path) -> None:
    """A server with a JWKS and no file of keys accepts the issuer's tokens, and a new JWKS at SIGHUP."""
    jwks = tmp_path / "jwks.json"
    write_jwks(jwks)
    settings = {"TABSERVE_JWKS": str(jwks), "TABSERVE_JWT_ISSUER": ISSUER, "TABSERVE_JWT_AUDIENCE": AUDIENCE}
    with serve(store, tmp_path, **settings) as server:
        assert status(server, token("RS256")) == 200
        assert status(server, "x") == 401
        jwks.write_text(jwks.read_text().replace('"kid": "RS256"', '"kid": "renamed"'))
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: all(status(server, token("RS256")) == 401 for _ in range(10)))
        assert status(server, token("RS256", key_id="renamed")) == 200


def test_port_for_metrics(store: Path, tmp_path: Path, file: Path) -> None:
    """With a port of their own metrics are there without a key, also after a reload, and not on the main port."""
    key = make_key(file, "ops", "admin")
    port = free_port()
    with serve(store, tmp_path, TABSERVE_KEYS=str(file), TABSERVE_METRICS_PORT=str(port)) as server:
        metrics = f"http://127.0.0.1:{port}"

        def check() -> None:
            assert "tabserve_ready 1.0" in requests.get(f"{metrics}/metrics", timeout=10).text
            assert requests.get(f"{metrics}/livez", timeout=10).status_code == 200
            assert requests.get(f"{metrics}/models", headers=bearer(key), timeout=10).status_code == 404
            spoofed = {"Host": f"127.0.0.1:{port}", **bearer(key)}
            assert requests.get(f"{server.url}/metrics", headers=spoofed, timeout=10).status_code == 404
            assert status(server, key) == 200

        check()
        before = set(server.workers())
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: bool(server.workers()) and not before & set(server.workers()))
        check()
        assert server.terminate() == 0


def test_port_for_metrics_that_is_taken(store: Path, tmp_path: Path) -> None:
    """A port that cannot be used ends the start with one line that names it."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with pytest.raises(AssertionError), serve(store, tmp_path, TABSERVE_METRICS_PORT=port):
            pass

    assert f"TABSERVE_METRICS_PORT {port} cannot be used" in (tmp_path / "stderr.log").read_text()


@pytest.mark.parametrize(
    ("host", "has_keys", "warns"), [("127.0.0.1", False, 0), ("0.0.0.0", False, 1), ("0.0.0.0", True, 0)]
)
def test_open_server_warns(store: Path, tmp_path: Path, file: Path, host: str, has_keys: bool, warns: int) -> None:
    """A server that other machines may reach without a key says so in one line at the start."""
    make_key(file, "shop", "predict:*")
    settings = {"TABSERVE_KEYS": str(file)} if has_keys else {}
    with serve(store, tmp_path, host=host, **settings) as server:
        pass

    lines = [line for line in server.stderr.read_text().splitlines() if "no key is asked for" in line]
    assert len(lines) == warns
    assert all('"level":"warning"' in line for line in lines)


# TLS.


class Authority:
    """Makes certificates that it signs itself, in files of a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"authority of {folder.name}")])
        self.certificate = self._write("authority", self._name, self._key, is_authority=True)[0]

    def issue(self, name: str) -> tuple[str, str]:
        """Return the files of a certificate for this machine, and of its private key."""
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        return self._write(name, subject, ec.generate_private_key(ec.SECP256R1()), is_authority=False)

    def _write(
        self, name: str, subject: x509.Name, key: ec.EllipticCurvePrivateKey, *, is_authority: bool
    ) -> tuple[str, str]:
        now = datetime.datetime.now(datetime.UTC)
        loopback = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([loopback]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        files = self._folder / f"{name}.pem", self._folder / f"{name}.key.pem"
        files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        files[1].write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return str(files[0]), str(files[1])


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """An authority that the server and its clients trust."""
    folder = tmp_path / "trusted"
    folder.mkdir()
    return Authority(folder)


def client_of(authority: Authority, certificate: tuple[str, str] | None = None) -> requests.Session:
    """Return a client that trusts an authority, with a certificate of its own if there is one."""
    session = requests.Session()
    session.trust_env = False  # which would replace the authority by one of the environment
    session.verify, session.cert = authority.certificate, certificate
    session.headers["Connection"] = "close"  # so that each request makes a connection
    return session


def test_tls_and_its_renewal(store: Path, tmp_path: Path, file: Path, authority: Authority) -> None:
    """With gunicorn's certificate predictions, refusals and long bodies travel over TLS; SIGHUP reads a renewed one."""
    key = make_key(file, "shop", "predict:*")
    certificate, private = authority.issue("server")
    flags = f"--certfile {certificate} --keyfile {private}"
    with (
        client_of(authority) as client,
        serve(store, tmp_path, tls=[authority.certificate], GUNICORN_CMD_ARGS=flags, TABSERVE_KEYS=str(file)) as server,
    ):
        assert client.post(f"{server.url}/predict", json=HOUSE).status_code == 401
        reply = client.post(f"{server.url}/predict", json=[HOUSE] * 5_000, headers=bearer(key))
        assert reply.json()["prediction"] == [ANSWER] * 5_000
        with pytest.raises(requests.RequestException):
            requests.get(server.url.replace("https", "http") + "/livez", timeout=10)

        address = "127.0.0.1", int(server.url.rpartition(":")[2])
        before = ssl.get_server_certificate(address)
        authority.issue("server")
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: ssl.get_server_certificate(address) != before)
        assert client.get(f"{server.url}/models", headers=bearer(key)).status_code == 200


def test_client_certificates(store: Path, tmp_path: Path, authority: Authority) -> None:
    """With `--cert-reqs 2` a client without a certificate of the authority gets no reply, and one that has it does."""
    certificate, private = authority.issue("server")
    flags = f"--certfile {certificate} --keyfile {private} --ca-certs {authority.certificate} --cert-reqs 2"
    (tmp_path / "strange").mkdir()
    strange = Authority(tmp_path / "strange")
    own = authority.issue("client")
    with (
        client_of(authority, own) as client,
        serve(store, tmp_path, tls=[authority.certificate, *own], GUNICORN_CMD_ARGS=flags) as server,
    ):
        assert client.post(f"{server.url}/predict", json=HOUSE).json()["prediction"] == [ANSWER]
        for refused in (None, strange.issue("client")):
            with client_of(authority, refused) as other, pytest.raises(requests.RequestException):
                other.get(f"{server.url}/livez", timeout=10)
        assert client.get(f"{server.url}/readyz").status_code == 200
