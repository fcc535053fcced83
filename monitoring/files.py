"""The files that are made from the code here, and that a test holds against it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from monitoring import dashboard, rules

ROOT = Path(__file__).parents[1]
NOTE = "# Made from monitoring/ by `python -m monitoring write`: change it there.\n"


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]
    """Writes text of several lines as such, and lists further in than their key."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def _text(dumper: _Dumper, text: str) -> Any:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def generated() -> dict[Path, str]:
    """Return the text of every generated file, by its path."""
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
    """Return a YAML document, with its keys in the order in which they stand here."""
    text: str = yaml.dump(content, Dumper=_Dumper, sort_keys=False, width=1000)
    return NOTE + text
