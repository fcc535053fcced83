"""The workflow of Argo is what Argo's own types accept, and its scripts are commands that there are."""

from __future__ import annotations

from pathlib import Path

import yaml  # type: ignore[import-untyped]
from hera.workflows.models import DAGTask, WorkflowTemplate

PATH = Path(__file__).parents[3] / "workflows" / "argo.yaml"


def keys(found: object) -> object:
    """Return a document without values, so that no key is lost where it is read."""
    if isinstance(found, dict):
        return {key: keys(value) for key, value in found.items()}
    return [keys(value) for value in found] if isinstance(found, list) else None


def test_types() -> None:
    """Argo's types, which are generated from its schema, read every field of the template."""
    document = yaml.safe_load(PATH.read_text())
    read = WorkflowTemplate.model_validate(document)

    assert keys(read.model_dump(by_alias=True, exclude_none=True, mode="json")) == keys(document)


def tasks() -> dict[str, DAGTask]:
    template = WorkflowTemplate.model_validate(yaml.safe_load(PATH.read_text()))
    return {task.name: task for task in template.spec.templates[0].dag.tasks}


def test_order() -> None:
    """Both trainings follow the check, and only a comparison that found a better version is promoted on."""
    assert {name: task.depends for name, task in tasks().items()} == {
        "check": None,
        "train-a": "check",
        "train-b": "check",
        "compare": "train-a && train-b",
        "promote": "compare",
    }
    assert tasks()["promote"].when == "{{tasks.compare.outputs.parameters.status}} == 0"
