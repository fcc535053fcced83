"""The README and docs/: their commands and examples work, and their tables, trees and links say what is there."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from app import create_app
from app.config import Config
from conftest import ROOT, Server, serve
from model.prediction_log import PredictionLog

README = (ROOT / "README.md").read_text()
PAGES = {path.name: path.read_text() for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]}
TEXT = "\n".join(PAGES.values())
# Each block of commands, with the JSON block that follows it where the page shows an answer.
BLOCKS = re.findall(r"```sh\n(.*?)```\n(?:\n```json\n(.*?)```\n)?", TEXT, re.DOTALL)
COMMANDS = [command for commands, _ in BLOCKS for command in commands.splitlines()]
CURLS = [(commands.strip(), answer) for commands, answer in BLOCKS if commands.startswith("curl")]
EXAMPLES = [block for page in PAGES.values() for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL)]
# Not in the folders that begin with a dot or come from elsewhere: environments and stores.
MARKDOWN = sorted(
    path
    for pattern in ("*.md", "[!.]*/*.md", "docs/*/*.md", "benchmarks/results/*.md", "model/data/*.md")
    for path in ROOT.glob(pattern)
)


def section(title: str) -> str:
    """Return what the README says below a heading."""
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", README, re.DOTALL | re.MULTILINE)
    assert found is not None
    return found[1]


def cells(row: str) -> list[str]:
    """Return the cells of a table's row."""
    return [cell.strip() for cell in row.strip().strip("|").split("|")]


def test_every_command_is_run_by_a_test_or_by_ci() -> None:
    """A command of the README or docs is a make target that .ci/run calls, or of a kind that the tests below run."""
    ci = (ROOT / ".ci" / "run").read_text()

    def is_run(command: str) -> bool:
        if command == "make notebook":  # test_notebooks_can_import_the_models
            return True
        if command.split()[1:2] in (["push"], ["deploy"]):  # they need a registry and a cluster
            return True
        if command == "./run_docker.sh" or command.startswith("make image"):  # test_image.py
            return True
        if command == "make monitor":  # test_prometheus.py
            return True
        if command == "make dev":  # what `make lint` begins with
            return True
        if "pre-commit" in command:  # test_development.py
            return True
        if command.startswith("make "):
            return re.search(rf"\b{command.split(' URL=')[0]}\b", ci) is not None
        return command.startswith(("curl ", ".venv/bin/python -m model "))

    inline = re.findall(r"`(?:[A-Z]+=\S+ )?(make [a-z-]+)", TEXT)
    assert [command for command in COMMANDS + inline if not is_run(command)] == []


def test_notebooks_can_import_the_models() -> None:
    """A kernel that JupyterLab starts in the notebooks' folder finds `model` by what `make notebook` sets."""
    shown = subprocess.run(["make", "-n", "notebook"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    path = re.findall(r'^PYTHONPATH="(.+)" .*jupyter lab', shown, re.MULTILINE)[0]
    command = [sys.executable, "-c", "import model; print(model.__file__)"]
    done = subprocess.run(
        command,
        cwd=ROOT / "notebooks",
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )

    assert Path(done.stdout.strip()) == ROOT / "model" / "__init__.py"


@pytest.fixture(scope="module")
def logging_server(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a prediction log, as `make run` starts it."""
    folder = tmp_path_factory.mktemp("server")
    with serve(store, folder, TABSERVE_PREDICTION_LOG=f"sqlite:///{folder}/predictions.db") as started:
        yield started


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
@pytest.mark.parametrize(("commands", "shown"), CURLS)
def test_curl_answers_as_shown(logging_server: Server, commands: str, shown: str) -> None:
    """The last curl line of a block gets the answer that stands below it, but for an id that the server made."""
    here = commands.replace("localhost:8000", logging_server.url.removeprefix("http://")).replace("\n", "; echo\n")
    done = subprocess.run(["bash", "-c", here], capture_output=True, text=True, check=True)

    answer, expected = json.loads(done.stdout.splitlines()[-1]), json.loads(shown)
    assert answer.pop("request_id", None) != expected.pop("request_id", "none")
    assert answer == expected


@pytest.mark.parametrize("example", EXAMPLES)
def test_python_prints_as_shown(logging_server: Server, example: str) -> None:
    """An example in Python, run in the project's folder, prints what the comment of its last line says."""
    code = example.replace("http://localhost:8000", logging_server.url)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert done.stdout.strip() == example.strip().rpartition("  # ")[2]


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith(".venv/bin/python -m model ")])
def test_model_commands_work(store: Path, tmp_path: Path, command: str) -> None:
    """A command that works on the store, or on the prediction log, ends well and prints something."""
    words = shlex.split(command)
    assert words[:3] == [".venv/bin/python", "-m", "model"]
    (tmp_path / "model").symlink_to(ROOT / "model")
    PredictionLog(f"sqlite:///{tmp_path}/predictions.db").write([])
    run = [sys.executable, "-m", "model", "--store", str(store), *words[3:]]
    done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, check=True)

    assert done.stdout.strip() != ""


def settings_in(text: str) -> list[tuple[str, str, str]]:
    """Return the rows of a table of settings: name, default and help."""
    return re.findall(r"^\| `([A-Z_]+)` \| (?:`(.*?)`)? ?\| (.*) \|$", text, re.MULTILINE)


def test_settings_table_is_the_configuration() -> None:
    """docs/settings.md names every setting with its default and its help, word for word, and no other."""
    rows = settings_in(PAGES["settings.md"].partition("\n## ")[0])

    def shown(default: object) -> str:
        return str(default).lower() if isinstance(default, bool) else str(default or "")

    settings = [(item.metadata["name"], item.default, item.metadata["help"]) for item in fields(Config)]
    assert rows == [(name, "" if default == () else shown(default), text) for name, default, text in settings]


def test_readme_has_five_of_the_settings() -> None:
    """The README names five settings, each as docs/settings.md does."""
    rows = settings_in(section("Settings"))

    assert len(rows) == 5
    assert set(rows) - set(settings_in(PAGES["settings.md"])) == set()


def paths_in(text: str) -> list[str]:
    """Return the paths, each with its method, that the tables of a text name."""
    return re.findall(r"`((?:GET|POST) [^` ]+)`", "\n".join(re.findall(r"^\|.*", text, re.MULTILINE)))


def test_endpoint_table_is_the_routes(store: Path) -> None:
    """The README's endpoints and docs/protocols.md name every route, and no other; those by version in one sentence."""
    rules = create_app(Config(store=store)).url_map.iter_rules()
    routes = {f"{method} {rule.rule}" for rule in rules for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}}
    named = paths_in(section("Endpoints")) + paths_in(PAGES["protocols.md"])

    assert sorted(named) == sorted({route.replace("/versions/<version>", "") for route in routes})


def test_readme_names_protocols_as_their_page_does() -> None:
    """The paths and clients in the README's table of protocols are those of docs/protocols.md."""
    rows = [cells(row) for row in section("Protocols").splitlines() if row.startswith("| ")][1:]
    pages = [cells(row) for row in PAGES["protocols.md"].splitlines() if row.startswith("| ")][1:]

    assert len(rows) == len(pages)
    for (_, path, clients), (_, paths, tested) in zip(rows, pages):
        assert re.findall(r"`(.+?)`", path)[0] in paths
        assert [name for name in clients.split(", ") if name not in tested] == []


def test_speed_table_is_of_the_last_run() -> None:
    """The README's five rows on speed have the figures of the last full run, cell by cell."""
    lines = (ROOT / "benchmarks" / "results" / "table.md").read_text().splitlines()
    header = next(cells(line) for line in lines if line.startswith("| contender"))
    found = {cells(line)[0]: dict(zip(header, cells(line))) for line in reversed(lines) if line.startswith("| ")}
    names, _, *rows = [cells(line) for line in section("Speed").splitlines() if line.startswith("|")]

    assert len(rows) == 5
    for row in rows:
        assert [found[row[0]][name] for name in names] == row


def test_make_targets_exist() -> None:
    """Every `make TARGET` that the README or docs speak of is a target of the Makefile."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))

    assert set(re.findall(r"(?:`|^)make ([a-z-]+)", TEXT, re.MULTILINE)) - targets == set()


def test_help_names_every_target() -> None:
    """`make help` prints every target once, and first those that are marked `##1` to `##9`, in that order."""
    makefile = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY:((?:.*\\\n)*.*)", makefile, re.MULTILINE)
    assert phony is not None
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    named = re.findall(r"^ +make ([a-z-]+) ", shown, re.MULTILINE)
    marked = re.findall(r"^([a-z-]+):.*##([1-9]) ", makefile, re.MULTILINE)

    assert sorted(named) == sorted(phony[1].replace("\\", "").split())
    assert named[: len(marked)] == [name for name, _ in sorted(marked, key=lambda pair: pair[1])] != []


@pytest.mark.parametrize("folder", ["app", "model"])
def test_tree_names_every_module(folder: str) -> None:
    """The README of a folder has a line for every module, and none for a module that is not there."""
    named = re.findall(r"^- `([\w/]+\.py)`: ", (ROOT / folder / "README.md").read_text(), re.MULTILINE)
    there = {path.relative_to(ROOT / folder).as_posix() for path in (ROOT / folder).rglob("*.py")}

    assert sorted(named) == sorted(path for path in there if not path.endswith("__init__.py"))


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs a checkout by git")
def test_rooms_are_the_folders() -> None:
    """The README's rooms name every top-level folder and every package in app/ and model/."""
    tree = re.findall(r"^( *)(\w+)/ ", section("Rooms"), re.MULTILINE)
    folders = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    top = {path.partition("/")[0] for path in folders.splitlines() if "/" in path and not path.startswith(".")}
    rooms = {path.parent.name for folder in ("app", "model") for path in (ROOT / folder).glob("*/__init__.py")}

    assert {name for indent, name in tree if not indent} == top
    assert rooms - {name for indent, name in tree if indent} == set()


def anchors(path: Path) -> set[str]:
    """Return the anchors that GitHub makes of a page's headings."""
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
    titles = re.findall(r"^#+ (.+)", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", MARKDOWN, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_resolve(page: Path) -> None:
    """A relative link leads to a file or folder that is there, and to a heading of it."""
    for link in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_page_is_linked() -> None:
    """Every page of docs/, and the README of each folder, is linked from the README or from a page that it links."""
    reached, ahead = set(), [ROOT / "README.md"]
    while ahead:
        page = ahead.pop()
        if page in reached:
            continue
        reached.add(page)
        if page.suffix == ".md":
            links = re.findall(r"\]\(([^)#:]+)[^):]*\)", page.read_text())
            ahead += [(page.parent / link).resolve() for link in links]
    unreached = {path for path in MARKDOWN if path not in reached and path.parent.name != "runbooks"}

    assert {path.relative_to(ROOT).as_posix() for path in unreached} == set()
