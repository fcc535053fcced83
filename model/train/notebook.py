"""Run a notebook from top to bottom with parameters, and keep its outputs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nbformat
import papermill
from tqdm import tqdm
from traitlets.config import Config

from model.errors import NotebookError

ROOT = Path(__file__).parents[2]


class _Output:
    """Passes on what cells print, above the bar that shows how many cells have run."""

    def write(self, text: str) -> None:
        tqdm.write(text, end="")

    def flush(self) -> None:
        sys.stdout.flush()


def run(notebook: Path, *, parameters: Mapping[str, Any], progress: bool = True, prints: bool = False) -> bytes:
    """Execute the notebook and return it with its outputs.

    With `prints`, what cells print is printed at once, and their progress bars are shown if standard error is a
    terminal.

    Removes what differs between runs: times, progress bars and all else on standard error, and the folder of every
    `Path` among the parameters. The same notebook on the same data therefore gives the same bytes. Raises
    `NotebookError` if a cell fails.
    """
    with TemporaryDirectory() as folder:
        output = Path(folder) / notebook.name
        try:
            papermill.execute_notebook(
                notebook,
                output,
                parameters=json.loads(json.dumps(parameters, default=str)),
                cwd=ROOT,  # for `import model`
                progress_bar=progress,
                stdout_file=_Output() if prints else None,
                stderr_file=sys.stderr if prints and sys.stderr.isatty() else None,
                kernel_name="python3",
                config=Config(KernelManager={"transport": "ipc"}),  # not reachable by other users of the machine
                extra_arguments=["--log-level=CRITICAL"],  # an interrupted kernel would print a traceback
            )
        except papermill.PapermillExecutionError as error:
            raise NotebookError(
                f"{notebook.name} stopped at its cell {error.exec_count}: {error.ename}: {error.evalue}"
            ) from None
        executed = nbformat.read(output, as_version=4)
    executed.metadata.pop("papermill", None)
    for number, cell in enumerate(executed.cells):
        cell.id = f"cell-{number}"
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
        for path in _paths(parameters):
            cell.source = cell.source.replace(str(path), path.name)
    return bytes(nbformat.writes(executed), "utf-8")


def _paths(value: Any) -> Iterator[Path]:
    if isinstance(value, Path):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _paths(each)
