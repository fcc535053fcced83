"""The files that are generated from this package; a test compares them with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from monitoring import dashboard, rules

ROOT = Path(__file__).parents[1]
NOTE = "# Made from monitoring/ by `python -m monitoring write`: change it there.\n"


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]
    """Writes multi-line strings as blocks, and indents lists below their key."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def _text(dumper: _Dumper, text: str) -> Any:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def generated() -> dict[Path, str]:
    """Return the text of every generated file by its path."""
    groups = {"groups": rules.groups()}
    resource = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {
            "name": "tabserve",
            "labels": {"app.kubernetes.io/instance": "tabserve", "app.kubernetes.io/component": "monitoring"},
        },
        "spec": groups,
    }
    overlay = ROOT / "k8s" / "overlays" / "monitoring"
    return {
        ROOT / "monitoring" / "rules.yaml": to_yaml(groups),
        overlay / "prometheusrule.yaml": to_yaml(resource),
        overlay / "dashboard.json": dashboard.to_json(),
    }


def to_yaml(content: dict[str, Any]) -> str:
    """Return a YAML document with the keys in their order in `content`."""
    text: str = yaml.dump(content, Dumper=_Dumper, sort_keys=False, width=1000)
    return NOTE + text
