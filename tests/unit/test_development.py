"""The development environment: what editors and git hooks are told is what `make lint` and .ci/run do."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from tests.support.service import ROOT

HOOKS: list[dict[str, Any]] = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
CONTAINER: dict[str, Any] = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
EDITOR: dict[str, Any] = json.loads((ROOT / ".vscode" / "settings.json").read_text())


def checks() -> list[list[str]]:
    """Return the commands of `make lint`, each as its words."""
    recipe = re.search(r"^lint:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert recipe is not None
    return [line.strip().replace("$(BIN)", ".venv/bin").split() for line in recipe[1].splitlines()]


def test_hooks_are_the_checks_of_lint() -> None:
    """Every command of `make lint` is a hook, in its order and with its options, and there is no other."""

    def named(words: list[str]) -> list[str]:
        """Return a command without the files that it is for."""
        program = Path(words[0]).name
        return [program, *(word for word in words[1:] if program == "ruff" and word not in (".", "--force-exclude"))]

    assert [named(hook["entry"].split()) for hook in HOOKS] == [named(check) for check in checks()]


@pytest.mark.parametrize("program", ["shellcheck", "hadolint"])
def test_hooks_are_for_the_files_of_lint(program: str) -> None:
    """The hooks that name files name those that `make lint` checks."""
    pattern = next(hook["files"] for hook in HOOKS if hook["id"] == program)
    patterns = next(check[1:] for check in checks() if check[0].endswith(program))
    checked = {path.relative_to(ROOT).as_posix() for glob in patterns for path in ROOT.glob(glob)}
    candidates = [*ROOT.glob("*"), *ROOT.glob("[!.]*/*"), *ROOT.glob(".ci/*")]

    assert {name for path in candidates if re.search(pattern, name := path.relative_to(ROOT).as_posix())} == checked


def test_container_has_what_the_tests_need() -> None:
    """The development container installs the packages of .ci/run, and what lint and tests need of Python."""
    packages = re.search(r"^packages=\((.*)\)", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)
    assert packages is not None

    first, _, last = CONTAINER["onCreateCommand"].partition(" && { ")
    assert first.partition(" --no-install-recommends ")[2] == packages[1]
    assert last == "command -v npm >/dev/null || sudo apt-get install -qq -y --no-install-recommends npm; }"
    assert CONTAINER["postCreateCommand"] == "make dev"


def test_editor_uses_the_environment_of_make() -> None:
    """The editor's interpreter and linters are those of .venv, and its tests are those of pytest's settings."""
    paths = [value for value in EDITOR.values() if isinstance(value, str) and ".venv" in value]

    assert [path.partition("${workspaceFolder}/")[2].rpartition("/")[0] for path in paths] == [".venv/bin"] * 3
    assert {EDITOR["ruff.importStrategy"], EDITOR["mypy-type-checker.importStrategy"]} == {"fromEnvironment"}
    assert EDITOR["python.testing.pytestArgs"] == ["tests"]
