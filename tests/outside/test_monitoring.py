"""Owns the monitoring: rules and dashboard are up to date with the code, and alerts fire when they should."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import yaml  # type: ignore[import-untyped]
from flask.testing import FlaskClient
from grafana_foundation_sdk.models.dashboard import Dashboard
from numpy.typing import NDArray

from app import create_app
from app.config import Config
from app.version import VERSION
from model.live import drift, verdict
from model.live.judge import Distribution
from model.store.reference import AnyBins, Bins, CategoryBins
from monitoring import dashboard, files, prometheus, rules
from monitoring.drift import CUTS
from monitoring.service import PREDICTIONS
from tests.support.service import ROOT

MONITORING = ROOT / "monitoring"
RUNBOOKS = ROOT / "docs" / "runbooks"
RULES = [rule for group in rules.groups() for rule in group["rules"]]
ALERTS = [rule for rule in RULES if "alert" in rule]
RECORDED = {rule["record"] for rule in RULES if "record" in rule}
HEADINGS = ["What users feel", "How to look", "What to do", "When it is a false alarm"]
# What Grafana puts in the place of its variables.
VARIABLES = {
    "$__rate_interval": "5m",
    "$namespace": ".*",
    "$job": "tabserve",
    "$model": "m",
    "$version": "1",
    "$feature": "RM",
}

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="needs promtool (Debian: apt-get install prometheus)"
)

Floats = NDArray[np.float64]
REFERENCE_ROWS = 404


def promtool(*arguments: str | Path) -> str:
    """Run promtool and return its output; fails if promtool does."""
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def dashboard_queries() -> list[str]:
    """Return every expression of the dashboard, with values for Grafana's variables."""
    board = json.loads(dashboard.to_json())
    found = "\0".join(target["expr"] for panel in board["panels"] for target in panel.get("targets", []))
    for variable, value in VARIABLES.items():
        found = found.replace(variable, value)
    return found.split("\0")


def runbook_queries() -> list[str]:
    """Return every query in a runbook."""
    return [
        query
        for path in sorted(RUNBOOKS.glob("*.md"))
        for query in re.findall(r"```promql\n(.*?)```", path.read_text(), re.DOTALL)
    ]


def metrics(expr: str) -> set[str]:
    """Return the names of the metrics in an expression, without strings and labels."""
    bare = re.sub(r"\b(?:by|on|group_left|without)\s*\([^)]*\)|\"[^\"]*\"", "", expr)
    return set(re.findall(r"\b(?:http|tabserve|service:tabserve)_?[\w:]+", bare))


@pytest.mark.parametrize("path", files.generated(), ids=lambda path: str(path.relative_to(ROOT)))
def test_generated_file_is_up_to_date(path: Path) -> None:
    """A generated file is what the code writes; if not: python -m monitoring write."""
    assert path.read_text() == files.generated()[path]


def test_resource_has_the_same_rules() -> None:
    """The Prometheus operator is given the groups that a plain Prometheus reads."""
    plain, resource = (yaml.safe_load(text) for text in list(files.generated().values())[:2])

    assert resource["spec"]["groups"] == plain["groups"] == rules.groups()


@needs_promtool
def test_rules_are_valid() -> None:
    """Prometheus accepts the rules and the configuration for compose."""
    promtool("check", "rules", "--lint-fatal", str(MONITORING / "rules.yaml"))
    promtool("check", "config", str(MONITORING / "prometheus.yml"))


@needs_promtool
@pytest.mark.parametrize("name", ["rules_test.yaml", "rules_test_day.yaml"])
def test_alerts_fire_when_they_should(name: str) -> None:
    """promtool's tests of each alert pass."""
    promtool("test", "rules", str(MONITORING / name))


def test_every_alert_is_tested() -> None:
    """Every alert fires in a test, in each of its severities."""
    text = "".join((MONITORING / name).read_text() for name in ("rules_test.yaml", "rules_test_day.yaml"))

    for alert in ALERTS:
        fired = re.findall(rf"labels: '.*alertname=\"{alert['alert']}\".*", text)
        assert any(f'severity="{alert["labels"]["severity"]}"' in line for line in fired), alert["alert"]


def test_every_alert_has_a_runbook() -> None:
    """Every alert links to its runbook, which says what to check and what to do; no runbook is unused."""
    named = {alert["alert"]: alert["annotations"]["runbook_url"] for alert in ALERTS}

    assert {path.stem for path in RUNBOOKS.glob("*.md")} == set(named)
    for name, link in named.items():
        address = urlsplit(link)
        assert (address.scheme, PurePosixPath(address.path).name) == ("https", f"{name}.md")
        assert address.hostname
        text = (RUNBOOKS / f"{name}.md").read_text()
        assert re.findall(r"^# (.*)", text, re.MULTILINE) == [name]
        assert re.findall(r"^## (.*)", text, re.MULTILINE) == HEADINGS
        for link in re.findall(r"\]\((.*?)\)", text):
            assert (RUNBOOKS / link).exists()


def test_alerts_say_what_is_wrong() -> None:
    """Every alert has a severity, a summary and a description; a recorded name has level, metric and operation."""
    for alert in ALERTS:
        assert set(alert) == {"alert", "expr", "for", "labels", "annotations"}
        assert alert["labels"]["severity"] in ("critical", "warning")
        assert set(alert["annotations"]) == {"summary", "description", "runbook_url"}
    for name in RECORDED:
        assert re.fullmatch(r"(tabserve|service):\w+(:\w+)?", name)


@pytest.mark.parametrize("source", ["rules", "dashboard", "runbooks"])
def test_every_metric_exists(client: FlaskClient, source: str) -> None:
    """Every metric in rules, dashboard and runbooks is recorded by a rule or exposed by the service."""
    expressions = {
        "rules": [rule["expr"] for rule in RULES],
        "dashboard": dashboard_queries(),
        "runbooks": runbook_queries(),
    }
    exposed = set(re.findall(r"^# TYPE (\w+)", client.get("/metrics").text, re.MULTILINE))
    read = set().union(*map(metrics, expressions[source]))

    families = {re.sub(r"_(bucket|count|sum)$", "", name) for name in read - RECORDED}
    assert len(families) > 5
    assert families - exposed == set()


@needs_promtool
def test_every_query_parses(tmp_path: Path) -> None:
    """Prometheus understands every query of the dashboard and of the runbooks."""
    queries = dashboard_queries() + runbook_queries()
    recorded = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(queries)]
    path = tmp_path / "queries.json"
    path.write_text(json.dumps({"groups": [{"name": "queries", "rules": recorded}]}))

    assert len(queries) > 60
    promtool("check", "rules", str(path))


@needs_promtool
def test_runbook_queries_with_two_pods(tmp_path: Path) -> None:
    """Every query of a runbook can be evaluated where two pods report: none finds several partners for a series."""
    names = sorted(set().union(*map(metrics, runbook_queries())))
    series = [
        {"series": f'{name}{{job="tabserve", model="m", version="1"{pod}}}', "values": "1x5"}
        for name in names
        for pod in ([""] if name in RECORDED else [', instance="a"', ', instance="b"'])
    ]
    checked = [{"expr": f"absent({query})", "eval_time": "5m", "exp_samples": []} for query in runbook_queries()]
    path = tmp_path / "queries.yaml"
    path.write_text(json.dumps({"tests": [{"interval": "1m", "input_series": series, "promql_expr_test": checked}]}))
    done = subprocess.run(["promtool", "test", "rules", str(path)], capture_output=True, text=True)

    assert "err: " not in done.stdout + done.stderr, done.stdout + done.stderr


def test_dashboard_is_valid() -> None:
    """Grafana's own types read the dashboard; panels have a title, a description and do not overlap."""
    text = dashboard.to_json()
    board = json.loads(text)
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]
    places = [
        (panel["gridPos"]["x"] + x, panel["gridPos"]["y"] + y)
        for panel in board["panels"]
        for x in range(panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["h"])
    ]

    assert Dashboard.from_json(board).uid == "tabserve"
    assert [panel["title"] for panel in board["panels"] if panel["type"] == "row"] == [
        "Service",
        "Model",
        "Batches",
        "Drift",
        "Contributions",
        "Data quality",
        "Versions",
        "Truth",
    ]
    assert len(places) == len(set(places))
    assert max(x for x, _ in places) == 23
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    for panel in panels:
        assert panel["description"].endswith(".")
        assert panel["datasource"]["uid"] == "${datasource}"
        refs = [target["refId"] for target in panel["targets"]]
        assert len(refs) == len(set(refs))
    variables = [variable["name"] for variable in board["templating"]["list"]]
    assert variables == ["datasource", "namespace", "job", "model", "version", "feature"]
    used = set(re.findall(r"\$(\w+)", " ".join(target["expr"] for panel in panels for target in panel["targets"])))
    assert used - {"__rate_interval"} == set(variables) - {"datasource"}


def test_predictions_are_every_route_that_predicts(store: Path) -> None:
    """Of the routes with POST, the objectives exclude exactly those that do not predict."""
    left_out = re.search(r'route!~"(.*?)"', PREDICTIONS)
    assert left_out
    app = create_app(Config(store=store))
    posts = {rule.rule: rule.endpoint for rule in app.url_map.iter_rules() if "POST" in (rule.methods or set())}

    assert {route for route in posts if re.fullmatch(left_out[1], route)} == {"/feedback", "/v2/repository/index"}
    for route in posts.keys() - {"/feedback", "/v2/repository/index"}:
        assert re.search(r"predict|infer|invocations|explain", route), route


def histograms() -> Iterator[tuple[str, Floats, Floats]]:
    """Yield features: a name, the reference's shares of their bins, and live rows in below, bins, above, missing."""
    random = np.random.default_rng(7)
    for number in range(40):
        bins = int(random.integers(1, 11))
        reference = random.dirichlet(np.full(bins, random.choice([0.5, 2, 20])))
        if number % 4 == 0:
            reference = np.full(bins, 1 / bins)
        live = random.dirichlet(np.full(bins + 2, random.choice([0.3, 1, 5])))
        rows = random.multinomial(int(random.choice([100, 300, 5_000, 1_000_000])), live)
        yield f"f{number:02}", reference, np.append(rows, random.integers(0, 50)).astype(float)


def labels(bins: int) -> list[str]:
    """Return the labels of all bins of a feature with `n` bins in range."""
    return ["below", *(f"{number:02}" for number in range(1, bins)), "10", "above", "missing"]


def psi(reference: Floats, rows: Floats) -> float:
    """Return the population stability index; rows outside count in bins 01 and 10, an empty bin as half a row."""
    inside, total = rows[1:-2].copy(), rows[:-1].sum()
    if len(reference) > 1:
        inside[0] += rows[0]
    inside[-1] += rows[-2]
    live = np.maximum(np.maximum(inside, 0.5) / total, 1e-4)
    known = reference > 0
    return float(np.sum((live - reference)[known] * np.log(live[known] / reference[known])))


def ks(reference: Floats, rows: Floats) -> float:
    """Return the largest distance between the distribution functions at the upper ends of the bins."""
    live = np.cumsum(rows[:-2]) / rows[:-1].sum()
    return float(np.abs(live - np.cumsum([0, *reference])).max())


def by_definition(reference: Floats, rows: Floats) -> dict[str, float]:
    """Return the values that the rules should record, by their definitions."""
    return {"psi": psi(reference, rows), "ks": ks(reference, rows)}


def by_report(shares: Floats, rows: Floats) -> dict[str, float]:
    """Return the same by the report's functions, which have no PSI for a single bin, only KS."""
    bins, counts, n_live = Bins(0.0, np.arange(len(shares) * 1.0), shares), rows.astype(int), int(rows[:-1].sum())
    return {
        **({"psi": drift.psi(counts, bins)} if len(shares) > 1 else {}),
        "ks": drift.ks(counts, bins),
        "psi_threshold": drift.psi_threshold(n_live, REFERENCE_ROWS, len(shares)),
        "ks_threshold": drift.ks_threshold(n_live, REFERENCE_ROWS),
    }


@needs_promtool
@pytest.mark.parametrize("figures", [by_definition, by_report])
def test_statistics(tmp_path: Path, figures: Callable[[Floats, Floats], dict[str, float]]) -> None:
    """PSI and KS of the rules are numpy's and the report's to 1e-6, for every number of bins, over two pods."""
    cases = [
        Case(feature, labels(len(reference)), np.array([0, *reference, 0, 0]), rows, figures(reference, rows))
        for feature, reference, rows in histograms()
    ]

    assert len({len(case.labels) for case in cases}) == 10
    check_statistics(cases, tmp_path)


@needs_promtool
def test_statistics_of_categories(tmp_path: Path) -> None:
    """For categories, and where values were missing in training, PSI and the thresholds are the report's."""
    random = np.random.default_rng(11)
    cases = []
    for number in range(40):
        missing, n_bins = float(random.choice([0, 0.2, 0.9])), int(random.integers(1, 8))
        shares = random.dirichlet(np.full(n_bins + 1, 2)) * (1 - missing)
        if number % 2:  # every category has a bin of its own
            shares[0], shares[-1] = shares[0] + shares[-1], 0
        bins: AnyBins = CategoryBins(
            names=tuple("ABCDEFG"[:n_bins]),
            codes=np.arange(n_bins),
            n_categories=n_bins + 1,
            shares=shares[:-1],
            rest=float(shares[-1]),
            missing=missing,
        )
        if number % 4 == 0:
            bins = Bins(0.0, np.arange(n_bins + 1.0), shares, missing)
        live = random.dirichlet(np.full(len(bins.labels) - 1, 2))
        if number % 3 == 0 and isinstance(bins, CategoryBins):
            live[-2:] = 0  # neither rest nor unseen
        rows = random.multinomial(int(random.choice([300, 5_000])), live / live.sum())
        counts = np.append(rows, random.integers(0, 500))
        column = Distribution("f", bins, counts, REFERENCE_ROWS)
        expected = {"psi": column.psi, "psi_threshold": column.psi_threshold, "drift:ratio": column.ratio}
        if isinstance(bins, Bins):
            expected |= {"ks": column.ks}
        expected |= {"missing:ratio": column.missing, "missing_threshold": column.missing_threshold}
        cases.append(Case(f"f{number:02}", bins.labels, bins.all_shares, counts.astype(float), expected))

    check_statistics(cases, tmp_path)


@dataclass(frozen=True)
class Case:
    """A feature: its bins, the shares of training and the live rows in each, and the figures that the rules record."""

    feature: str
    labels: Sequence[str]
    shares: Floats
    rows: Floats
    figures: dict[str, float]


def check_statistics(cases: Sequence[Case], folder: Path) -> None:
    """Have promtool compare what the rules record with the figures, to 1e-6.

    The thresholds are to 1e-4: the rules have their constants to three places, for people to read.
    """
    base = 'job="tabserve", model="m", version="1"'
    series = [{"series": f'tabserve_reference_rows{{{base}, instance="a"}}', "values": f"{REFERENCE_ROWS}x30"}]
    for case in cases:
        first = np.floor(case.rows / 3)
        for pod, part in (("a", first), ("b", case.rows - first)):
            for name, count, share in zip(case.labels, part, case.shares):
                what = f'{{{base}, instance="{pod}", feature="{case.feature}", bin="{name}"}}'
                series.append({"series": f"tabserve_feature_bin_total{what}", "values": f"0x10 {count:.0f}x20"})
                series.append(
                    {"series": f"tabserve_feature_bin_reference_ratio{what}", "values": f"{float(share)!r}x30"}
                )
    checks = [
        {
            "expr": f'abs(tabserve:feature_{name}{{feature="{case.feature}"}} - ({float(value)!r})) < bool '
            + ("1e-4" if "threshold" in name else f"{2e-4 * value}" if "drift" in name else "1e-6"),
            "eval_time": "30m",
            "exp_samples": [{"labels": f'{{{base}, feature="{case.feature}"}}', "value": 1}],
        }
        for case in cases
        for name, value in case.figures.items()
    ]
    tests = {
        "rule_files": [str(MONITORING / "rules.yaml")],
        "evaluation_interval": "30m",
        "tests": [{"interval": "1m", "input_series": series, "promql_expr_test": checks}],
    }
    path = folder / "statistics.json"
    path.write_text(json.dumps(tests))

    promtool("test", "rules", str(path))


@needs_promtool
def test_comparisons(tmp_path: Path) -> None:
    """The rules' interval and decision on two versions are those of the verdict; versions of one model share alpha."""
    random = np.random.default_rng(5)
    series, checks, decisions = [], [], set()
    for model, n_pairs in (("one", 1), ("many", 3), *((f"m{number}", 1) for number in range(40))):
        for version in range(2, 2 + n_pairs):
            n = int(random.choice([50, 150, 1_500, 40_000]))
            first = random.exponential(10, n)
            second = first + random.normal(random.choice([-1, -0.05, 0, 0.05, 1]), 1, n)
            second = np.where(random.random(n) < random.choice([0.02, 1]), second, first)
            losses = verdict.Losses.paired(first, second)
            found = verdict.compare(losses, sharing=n_pairs)
            pair = f'job="tabserve", model="{model}", version="{version}", against="1"'
            sums = losses.differences
            assert sums
            for name, value in (
                ("requests", sums.n),
                ("differing_requests", sums.n_nonzero),
                ("difference", sums.total),
                ("difference_squares", sums.squares),
                ("loss", losses.first.total),
            ):
                series.append(
                    {"series": f'tabserve_comparison_{name}{{instance="a", {pair}}}', "values": f"{value!r}x30"}
                )
            for name, value in (("low", found.low), ("high", found.high)):
                same = [{"labels": f"{{{pair}}}", "value": 1}] if np.isfinite(value) else []
                expr = (
                    f"abs(tabserve:comparison_{name}{{{pair}}} - ({value!r})) < bool 1e-6"
                    if same
                    else (f"tabserve:comparison_{name}{{{pair}}}")
                )
                checks.append({"expr": expr, "eval_time": "30m", "exp_samples": same})
            decided = (
                [] if found.decision == "undecided" else [{"labels": f'{{decision="{found.decision}"}}', "value": 1}]
            )
            expr = f"count by (decision) (tabserve:comparison_decided{{{pair}}})"
            checks.append({"expr": expr, "eval_time": "30m", "exp_samples": decided})
            decisions.add(found.decision)
    tests = [{"interval": "1m", "input_series": series, "promql_expr_test": checks}]
    path = tmp_path / "comparisons.json"
    path.write_text(
        json.dumps({"rule_files": [str(MONITORING / "rules.yaml")], "evaluation_interval": "30m", "tests": tests})
    )

    assert decisions == {*verdict.Decision}
    promtool("test", "rules", str(path))


def test_cuts_are_the_bins() -> None:
    """KS compares after every bin that a feature can have, in order."""
    assert [*CUTS, "above", "missing"] == labels(10)


def test_no_prometheus(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """If Prometheus is not installed, one sentence says what to install or run instead."""
    monkeypatch.setenv("PATH", "")

    assert prometheus.main([], port=9090, window="1h", hold="10m", interval="5s", folder=None) == 1
    assert "apt-get install prometheus" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("url", "scheme", "target", "path"),
    [
        ("http://localhost:8000", "http", "localhost:8000", "/metrics"),
        ("localhost:8000/", "http", "localhost:8000", "/metrics"),
        ("https://example.com/tabserve/", "https", "example.com", "/tabserve/metrics"),
    ],
)
def test_target(url: str, scheme: str, target: str, path: str) -> None:
    """A server is named by its URL, with or without a scheme and a path; several are one job."""
    (config,) = prometheus.configuration([url, "b:80"], interval="5s")["scrape_configs"]
    first, second = config["static_configs"]

    assert config["job_name"] == "tabserve"
    assert first == {"targets": [target], "labels": {"__scheme__": scheme, "__metrics_path__": path}}
    assert second["targets"] == ["b:80"]


@pytest.mark.parametrize("url", ["", "ftp://example.com", "/metrics"])
def test_no_target(url: str) -> None:
    """An address that is not the URL of a server is refused."""
    with pytest.raises(ValueError, match="not the URL"):
        prometheus.configuration([url], interval="5s")


def test_compose() -> None:
    """Compose runs our image, Prometheus and Grafana, all pinned, each healthy before the next, with our files."""
    services = yaml.safe_load((MONITORING / "compose.yaml").read_text())["services"]

    assert services["tabserve"]["image"] == f"tabserve:{VERSION}"
    assert services["prometheus"]["depends_on"] == {"tabserve": {"condition": "service_healthy"}}
    assert services["grafana"]["depends_on"] == {"prometheus": {"condition": "service_healthy"}}
    for service in services.values():
        assert re.search(r":v?\d+\.\d+\.\d+$", service["image"])
        assert service["healthcheck"]["test"][0] == "CMD"
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    for mount in mounts(services.values()):
        assert (MONITORING / mount).is_file(), mount
    source = yaml.safe_load((MONITORING / "grafana" / "datasource.yaml").read_text())["datasources"][0]
    provider = yaml.safe_load((MONITORING / "grafana" / "dashboards.yaml").read_text())["providers"][0]
    assert source["url"] == "http://prometheus:9090"
    assert any(provider["options"]["path"] in volume for volume in services["grafana"]["volumes"])


def mounts(services: Sequence[dict[str, Any]]) -> list[str]:
    """Return the files of ours that are mounted."""
    return [
        volume.split(":")[0]
        for service in services
        for volume in service.get("volumes", [])
        if volume.startswith(("./", "../"))
    ]
