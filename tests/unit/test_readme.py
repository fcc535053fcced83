"""The README and docs/: their commands and examples work, and their tables, trees and links say what is there."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from app import create_app
from app.config import Config
from tests.support.readme import COMMANDS, PAGES, TEXT, section
from tests.support.service import ROOT

# Not in the folders that begin with a dot or come from elsewhere: environments and stores.
MARKDOWN = sorted(
    path
    for pattern in ("*.md", "[!.]*/*.md", "docs/*/*.md", "benchmarks/results/*.md", "model/data/*.md")
    for path in ROOT.glob(pattern)
)


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
        if command in ("make check", "make test-all"):  # made of targets that .ci/run calls
            return True
        if "spark-submit model/on_spark.py" in command or "--backend spark" in command:  # tests/outside/spark
            return True
        if "pre-commit" in command:  # test_development.py
            return True
        if command.startswith("make "):
            return re.search(rf"\b{command.split(' URL=')[0]}\b", ci) is not None
        return command.startswith(("curl ", ".venv/bin/python -m model "))

    inline = re.findall(r"`(?:[A-Z]+=\S+ )?(make [a-z-]+)", TEXT)
    assert [command for command in COMMANDS + inline if not is_run(command)] == []


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


@pytest.mark.parametrize("folder", ["app", "model"])
def test_tree_names_every_module(folder: str) -> None:
    """The README of a folder has a line for every module, and none for a module that is not there."""
    named = re.findall(r"^- `([\w/]+\.py)`: ", (ROOT / folder / "README.md").read_text(), re.MULTILINE)
    there = {path.relative_to(ROOT / folder).as_posix() for path in (ROOT / folder).rglob("*.py")}

    assert sorted(named) == sorted(path for path in there if not path.endswith("__init__.py"))


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
