"""The panels of which the dashboard is built."""

from __future__ import annotations

from typing import TypeVar

from grafana_foundation_sdk.builders import barchart, common, stat, table, timeseries
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.models.common import LegendDisplayMode, LegendPlacement, StackingMode
from grafana_foundation_sdk.models.dashboard import DataSourceRef, DataTransformerConfig, DynamicConfigValue
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

Query = tuple[str, str]  # the expression and the legend of its series
Panel = timeseries.Panel | stat.Panel | table.Panel | barchart.Panel
P = TypeVar("P", timeseries.Panel, stat.Panel, table.Panel, barchart.Panel)

SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")


def titled(panel: P, title: str, description: str, width: int = 8) -> P:
    """Return the panel with title, description, size and the selected data source."""
    panel.title(title).description(description).datasource(SOURCE).height(8).span(width)
    return panel


def range_query(expr: str, legend: str) -> Dataquery:
    """Return a query over the displayed time range."""
    return Dataquery().expr(expr).legend_format(legend).range()


def instant_query(expr: str) -> Dataquery:
    """Return a query for a table of the current values."""
    return Dataquery().expr(expr).format(PromQueryFormat.TABLE).instant()


def graph(title: str, description: str, unit: str, *queries: Query) -> timeseries.Panel:
    """Return a panel with a line per series; the series with the legend "limit" is dashed."""
    panel = titled(timeseries.Panel(), title, description).unit(unit).axis_soft_min(0)
    dash = DynamicConfigValue(id_val="custom.lineStyle", value={"fill": "dash", "dash": [8, 8]})
    color = DynamicConfigValue(id_val="color", value={"mode": "fixed", "fixedColor": "red"})
    panel.override_by_name("limit", [dash, color])
    for number, (expr, legend) in enumerate(queries):
        panel.with_target(range_query(expr, legend).ref_id(chr(ord("A") + number)))
    return panel.legend(
        common.VizLegendOptions()
        .display_mode(LegendDisplayMode.LIST)
        .placement(LegendPlacement.BOTTOM)
        .show_legend(True)
        .calcs(["lastNotNull"])
    )


def stacked(panel: timeseries.Panel) -> timeseries.Panel:
    """Return the panel with its series stacked."""
    return panel.fill_opacity(20).stacking(common.StackingConfig().mode(StackingMode.NORMAL))


def bars(title: str, description: str, live: str, reference: str, *, by: str = "bin") -> barchart.Panel:
    """Return a panel with two bars for each value of a label, such as a bin: live and training."""
    panel = titled(barchart.Panel(), title, description).unit("percentunit").x_field(by)
    panel.with_target(instant_query(live).ref_id("live")).with_target(instant_query(reference).ref_id("training"))
    panel.with_transformation(DataTransformerConfig("joinByField", options={"byField": by, "mode": "outer"}))
    panel.with_transformation(DataTransformerConfig("sortBy", options={"sort": [{"field": by}]}))
    return flat(panel, {"Value #live": "live", "Value #training": "training"})


def flat(panel: P, names: dict[str, str]) -> P:
    """Return a table panel without times and with renamed columns."""
    hidden = {"Time": True, "Time 1": True, "Time 2": True}
    panel.with_transformation(
        DataTransformerConfig("organize", options={"excludeByName": hidden, "indexByName": {}, "renameByName": names})
    )
    return panel
