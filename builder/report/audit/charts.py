"""The charts of an audit."""

from cyclepref.builder.report.chart import Chart
from cyclepref.builder.run.store import Store


def audit_charts(store: Store) -> list[Chart]:
    """What people said of a run's pairs; nothing without an audit."""
    return []
