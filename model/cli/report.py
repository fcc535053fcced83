"""The command that writes the report of a version in use."""

from __future__ import annotations

import argparse
from contextlib import closing
from pathlib import Path

from model.cli.arguments import REFERENCE, Commands, add_log, store_of


def add_report(commands: Commands) -> None:
    """Declare the command `report`."""
    report = commands.add_parser("report", help="write the drift and live errors of a model to one HTML file")
    report.add_argument("model", help=REFERENCE)
    add_log(report)
    report.add_argument("--output", type=Path, default=Path("report.html"), help="the file (default: %(default)s)")
    report.add_argument(
        "--url", help="the running server: where the log has no features, what it counted of them since its start"
    )
    report.add_argument(
        "--key-file", type=Path, help="a file with an access key of the scope metrics, where that server asks for one"
    )
    report.set_defaults(run=_report)


def _report(options: argparse.Namespace) -> None:
    from model.live import counted, report
    from model.live.prediction_log import PredictionLog

    model = store_of(options).load(options.model)
    key = options.key_file.read_text("utf-8").strip() if options.key_file else ""
    counts = counted.read(options.url, model, key=key) if options.url else None
    with closing(PredictionLog(options.log, read_only=True)) as log:
        for _, sentence in report.write(model, log, options.output, days=options.days, counted=counts):
            print(sentence)
    print(f"{model.name} version {model.version}: written to {options.output}")
