"""Owns the benchmark: load is counted correctly, and a run reports all results, failures included."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from benchmarks import beside, contenders, families, families_report, first_answer, servers, side_by_side, watched
from benchmarks.contenders import COLUMNS, CONTENDERS, Contender
from benchmarks.hostile import bodies
from benchmarks.load import Load, load, slow_clients
from benchmarks.report import ALONE, LARGE_REQUESTS, SLOW_CLIENTS, Found, Results, Step, draw, render
from tests.support.service import COLUMNS as TRAINED_COLUMNS
from tests.support.service import ROOT

needs_wrk = pytest.mark.skipif(not shutil.which("wrk"), reason="wrk is not installed (Debian: apt-get install wrk)")


class Echo(BaseHTTPRequestHandler):
    """Answers `/refuse` with 500 and other paths with the request body; counts requests and connections."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body leave in one piece
    requests = 0
    connections = 0

    def setup(self) -> None:
        super().setup()
        type(self).connections += 1

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        type(self).requests += 1
        self.send_response(500 if self.path == "/refuse" else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@contextmanager
def echo() -> Iterator[tuple[int, type[Echo]]]:
    """Run a server until the block ends; yield its port and its counter."""

    class Counting(Echo):
        pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Counting) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port, Counting
        server.shutdown()
        thread.join()


@needs_wrk
@pytest.mark.parametrize("path", ["/", "/refuse"])
def test_load_counts_answers_and_refusals(path: str) -> None:
    """Only replies below 400 are answers; the others are counted as refused, and both are timed."""
    with echo() as (port, counted):
        found = load(port, path, b'{"RM":6.575}', connections=2, seconds=1)

    answers = counted.requests if path == "/" else 0
    assert found.per_second == pytest.approx(answers, rel=0.2)
    assert found.refused == pytest.approx(counted.requests - answers, abs=2)  # of those under way at the end
    assert (found.broken, found.starved) == (0, 0)
    assert found.p50_ms
    assert found.p99_ms
    assert 0 < found.p50_ms <= found.p99_ms < 1000


@needs_wrk
def test_load_on_nothing() -> None:
    """A server that has ended gives no replies, which is a result, too."""
    assert load(1, "/", b"{}", connections=3, seconds=1) == Load(0.0, None, None, refused=0, broken=3, starved=3)


def test_slow_clients() -> None:
    """Slow clients stay connected while others are served: idle ones after a reply, others with half a request."""
    with echo() as (port, counted), slow_clients(port, "/", b"{}", idle=3, trickling=2):
        for _ in range(100):
            if counted.connections == 5:
                break
            threading.Event().wait(0.05)
        seen = (counted.requests, counted.connections)

    assert seen == (3, 5)


def found(
    title: str, *, kind: str = "peer", per_second: float = 100, p99_ms: float | None = 10, off: float = 0
) -> Found:
    """Return a contender measured over 8 and 32 connections, with and without other load."""
    loads = {
        ALONE: Load(per_second, 1, p99_ms, 0, 0),
        SLOW_CLIENTS: Load(per_second, 1, None, 7, 2, starved=31),
        LARGE_REQUESTS: Load(per_second, 1, 30, 0, 0),
    }
    steps = [Step(1, connections, one, beside) for beside, one in loads.items() for connections in (8, 32)]
    steps.append(Step(10_000, 1, Load(4, 250, 260, 0, 0), LARGE_REQUESTS))
    return Found(title, kind, "1.2", "", 50, {1: off, 100: 0}, [0.5, 9.0, 0.25], [100, 120, 80], steps)


@pytest.fixture
def results() -> Results:
    """A run with every kind of result."""
    missing = Found("Absent", "peer", "3.1", problem="could not be installed: no wheel")
    return Results(
        {"CPU": "a fast one"},
        seconds=2,
        rounds=3,
        contenders={
            "tabserve": found("Tabserve", kind="ours", per_second=1000, p99_ms=12),
            "fastapi": found("FastAPI", per_second=250, p99_ms=10),
            "textbook": found("Textbook", per_second=9000, p99_ms=1, off=4.6484),
            "fastapi-engine": found("Engine", kind="engine", per_second=2000, p99_ms=None),
            "absent": missing,
        },
    )


def cells(text: str, first: str) -> list[str]:
    """Return the cells of the Markdown row that begins so."""
    row = re.search(rf"^\| {re.escape(first)} \|.*$", text, re.MULTILINE)
    assert row, f"no row {first}"
    return [cell.strip() for cell in row[0].strip("|").split("|")]


def test_results_can_be_read_again(results: Results, tmp_path: Path) -> None:
    """The tables can be made from the file of results, without another run."""
    results.write(tmp_path / "results.json")

    assert Results.read(tmp_path / "results.json") == results


def test_table(results: Results) -> None:
    """Each contender has a line: figures are medians, wrong predictions are marked, missing figures have a reason."""
    text = render(results)

    assert cells(text, "Tabserve 1.2")[3:] == [
        *["1,000", "", "", "12.0", "", "100", "0.50", "50", "same bits", "none"],
    ]
    assert "wrong, by up to 4.65" in cells(text, "Textbook 1.2")
    assert cells(text, "Absent 3.1")[1] == "could not be installed: no wheel"
    assert "a fast one" in text


def test_comparison(results: Results) -> None:
    """Ours is compared with the best peer with right predictions; our engine in FastAPI is not a peer as shipped."""
    text = render(results)

    assert cells(text, "requests/s, 1 row, 32 conn.")[1:5] == ["1,000", "250 (FastAPI)", "4.00", "0.50"]
    assert cells(text, "p99 ms, 1 row, 32 conn.")[1:5] == ["12.0", "10.0 (FastAPI)", "1.20", "–"]
    assert "A peer as shipped is ahead in: p99 ms, 1 row, 8 conn. (FastAPI), p99 ms, 1 row, 32 conn. (FastAPI)." in text


def test_disturbances(results: Results) -> None:
    """The effect of slow and large clients is a ratio of the others' p99; no reply at all is infinite."""
    assert cells(render(results), "FastAPI") == [
        "FastAPI",
        "∞ (∞ / 10.0 ms), 31 starved",
        "3.00 (30.0 / 10.0 ms)",
        "3.00 (30.0 / 10.0 ms)",
        "4.0",
    ]


def test_picture(results: Results, tmp_path: Path) -> None:
    """A run is drawn, also where a contender gave no reply."""
    draw(results, tmp_path / "plot.png")

    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_same_libraries() -> None:
    """Every contender is pinned, and computes with the scikit-learn and NumPy that trained the pipeline."""
    pins = re.findall(r"^(scikit-learn|numpy|joblib)(==\S+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    pins += re.findall(r"^(numpy|onnxruntime)(==\S+)", (ROOT / "requirements-serve.txt").read_text(), re.MULTILINE)
    assert len(pins) == 4

    for contender in CONTENDERS.values():
        lines = contender.requirements.read_text().splitlines()
        required = [line.split()[0] for line in lines if line and not line.startswith(("#", "-c"))]
        assert contender.version
        assert [line for line in required if "==" not in line] == []
        for name, version in pins:
            assert [line for line in required if line.startswith(f"{name}=")] in ([], [name + version])


def test_every_choice_is_explained() -> None:
    """The benchmark's README explains the configuration of every contender."""
    text = (ROOT / "benchmarks" / "README.md").read_text()

    assert re.findall(r"^\| `([a-z-]+)` \|", text, re.MULTILINE) == list(CONTENDERS)


def test_columns() -> None:
    """The columns of requests are in the order of the schema."""
    assert COLUMNS == TRAINED_COLUMNS


FAKE = """
import http.server, json, os
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version, wbufsize = "HTTP/1.1", -1
    def do_POST(self):
        rows = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        reply = json.dumps([20.0] * len(rows)).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)
http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""


@needs_wrk
def test_contenders_that_fail(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A contender with wrong predictions is measured; one that cannot start or be installed is reported."""
    peers = {"wrong": (FAKE, ""), "broken": ("raise SystemExit('no model')", ""), "absent": ("", "no-such-package==1")}
    for name, (code, requirements) in peers.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "serve.py").write_text(code)
        (tmp_path / name / "requirements.txt").write_text(requirements)
        (tmp_path / name / "constraints.txt").write_text("")
    monkeypatch.setattr(contenders, "PEERS", tmp_path)
    monkeypatch.setattr(servers, "VENVS", tmp_path / "venvs")
    monkeypatch.setattr(side_by_side, "STEPS", [(1, 8, ALONE), (1, 8, SLOW_CLIENTS), (1, 8, LARGE_REQUESTS)])
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    fakes = [
        Contender(name, name.title(), "no-such-package", ("python", "{here}/serve.py"), list, read=list)
        for name in peers
    ]

    ran = side_by_side.run(fakes, store=store, rounds=1, seconds=1, install=True)

    wrong, broken, absent = ran.contenders.values()
    assert wrong.wrong
    assert [(step.rows, step.beside) for step in wrong.steps] == [
        *[(1, ALONE), (1, SLOW_CLIENTS), (1, LARGE_REQUESTS), (10_000, LARGE_REQUESTS)],
    ]
    assert all(step.load.per_second > 0 for step in wrong.steps)
    assert (len(wrong.start_seconds), len(wrong.pss_mib)) == (1, 1)
    assert broken.problem == "did not start: no model"
    assert absent.problem.startswith("could not be installed: ERROR: No matching distribution found")
    again = side_by_side.run(fakes[2:], store=store, rounds=1, seconds=1, install=False)
    assert again.contenders["absent"].problem == "not installed"


@needs_wrk
def test_run_of_ours(store: Path, tmp_path: Path) -> None:
    """The command measures a selection and writes its files: ours gives the pipeline's bits without errors."""
    command = [sys.executable, "-m", "benchmarks", "--parts", "side-by-side", "--only", "tabserve"]
    few = ["--rounds", "1", "--seconds", "1", "--results", str(tmp_path)]
    done = subprocess.run(
        [*command, *few], cwd=ROOT, env={"PATH": "/usr/bin:/bin", "TABSERVE_STORE": str(store)}, capture_output=True
    )

    assert done.returncode == 0, done.stderr.decode()
    assert {path.name for path in tmp_path.iterdir()} == {"plot.png", "results.json", "table.md"}
    (only,) = json.loads((tmp_path / "results.json").read_text())["contenders"].values()
    if "installed" in only["problem"]:
        pytest.skip(only["problem"])
    assert only["problem"] == ""
    assert only["differences"] == {"1": 0.0, "100": 0.0}
    assert {(step["load"]["refused"], step["load"]["broken"]) for step in only["steps"]} == {(0, 0)}


def test_families_are_measured_by_every_way(tmp_path: Path) -> None:
    """The command measures a family and writes its files: ours differs in no bit, and each converter has a result."""
    command = [sys.executable, "-m", "benchmarks.families", "--only", "decision-tree", "--sizes", "small"]
    few = ["--rows", "200", "--rounds", "1", "--no-install", "--results", str(tmp_path)]
    done = subprocess.run([*command, *few], cwd=ROOT, capture_output=True, text=True)
    if "not installed" in done.stderr:
        pytest.skip("the converters are not installed: python -m benchmarks.families installs them")

    assert done.returncode == 0, done.stderr
    found = families_report.Results.read(tmp_path / "families.json")
    assert (tmp_path / "families.md").read_text() == families_report.render(found)
    for model in found.models:
        assert (model.problem, model.rows["random"]) == ("", 200)
        assert {name: engine.problem for name, engine in model.engines.items() if engine.problem}.keys() <= {"treelite"}
        assert {difference.rows for difference in model.engines["tabserve"].differences.values()} == {0}
        assert all(engine.problem or min(engine.microseconds) == 1 for engine in model.engines.values())


def test_families_without_the_converters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without their environment, which is not to be installed, there is one line."""
    monkeypatch.setattr(servers, "VENVS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["families", "--no-install", "--results", str(tmp_path)])

    with pytest.raises(SystemExit, match=r"^the converters cannot be measured: not installed$"):
        families.main()


def test_first_answer_of_ours(tmp_path: Path) -> None:
    """The command exports, serves and asks: three lines, and every answer has the pipeline's bits."""
    command = [sys.executable, "-m", "benchmarks.first_answer", "--only", "tabserve", "--rounds", "1"]
    done = subprocess.run([*command, "--results", str(tmp_path)], cwd=ROOT, capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    found = first_answer.Results.read(tmp_path / "first-answer.json").ways["tabserve"]
    assert (found.problem, found.lines, found.same_bits, found.refused) == ("", 3, first_answer.ASKED, 0)
    assert min(found.save_seconds + found.start_seconds + found.answer_seconds) > 0


def test_first_answer_of_what_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A way that is not installed, or whose server ends, is reported, and the others are measured."""
    monkeypatch.setattr(servers, "VENVS", tmp_path)
    ending = replace(first_answer.WAYS["tabserve"], command=("sh", "-c", "echo no model; exit 1"))
    monkeypatch.setitem(first_answer.WAYS, "tabserve", ending)
    found = first_answer.run(["mlflow", "tabserve"], rounds=1, install=False)

    assert found.ways["mlflow"].problem == "not installed"
    assert found.ways["tabserve"].problem == "ended before its first answer: no model"


def test_soak_reports_the_traffic(store: Path) -> None:
    """The soak counts good and hostile requests and reports the memory; hostile requests make no good one fail."""
    command = [sys.executable, "-m", "benchmarks.soak", "--seconds", "6", "--settle", "3"]
    done = subprocess.run(
        command, cwd=ROOT, env={"PATH": "/usr/bin:/bin", "TABSERVE_STORE": str(store)}, capture_output=True, text=True
    )

    good, hostile, memory = done.stdout.splitlines()
    counted = re.fullmatch(r"6 s: ([\d,]+) good requests, 0 of them failed", good)
    assert counted, done.stdout + done.stderr
    assert int(counted[1].replace(",", "")) > 0
    assert "no such path: 404 " in hostile
    found = re.fullmatch(r"memory: ([\d.]+) MiB in the first 3 s, ([\d.]+) MiB at the end: ([+-][\d.]+)% .*", memory)
    assert found
    assert done.returncode == (float(found[3]) > 5)


def test_soak_refuses_a_time_that_is_too_short() -> None:
    """A soak that would end before the first memory figure is refused with both figures."""
    command = [sys.executable, "-m", "benchmarks.soak", "--seconds", "10"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    assert done.returncode == 2
    assert "--settle 60 is not between 0 and --seconds 10" in done.stderr


def test_training_is_measured_beside_the_plain_loop() -> None:
    """The training benchmark prints the rows per second of each variant, also relative to the plain loop."""
    pytest.importorskip("torch", reason="needs PyTorch: pip install -r requirements-torch.txt")
    few = ["--rows", "2000", "--epochs", "1", "--rounds", "1", "--device", "cpu"]
    command = [sys.executable, "-m", "benchmarks.training", *few]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=1000).stdout
    rows = [line.split(" | ") for line in printed.splitlines() if line.startswith("| ")][1:]

    assert [row[0] for row in rows][:3] == [
        "| a plain DataLoader loop",
        "| `model.train.learners.mlp`",
        "| with `--precision bfloat16`",
    ]
    plain, *others = ((float(rate.replace(",", "")), float(times.rstrip(" |"))) for _, rate, times in rows)
    assert plain[1] == 1.0
    assert all(times == pytest.approx(rate / plain[0], abs=0.06) for rate, times in others)


def test_costliest_bodies_are_made() -> None:
    """The bodies of `benchmarks.beside` are among those of `benchmarks.hostile`."""
    made = {(body.route, body.name) for body in bodies(contenders.MODEL, list(COLUMNS), [0.0] * len(COLUMNS))}

    assert made >= beside.COSTLIEST


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="needs prometheus (Debian: apt-get install prometheus)")
def test_watched(tmp_path: Path) -> None:
    """Every phase is sent, watched by a Prometheus and drawn."""
    picture = tmp_path / "watched.png"
    few = ["--seconds", "2", "--window", "4", "--picture", str(picture)]
    command = [sys.executable, "-m", "benchmarks.watched", *few]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)

    assert done.returncode == 0, done.stderr
    assert [line[:16].strip() for line in done.stdout.splitlines()[-7:-2]] == [phase.title for phase in watched.PHASES]
    assert picture.read_bytes().startswith(b"\x89PNG")
