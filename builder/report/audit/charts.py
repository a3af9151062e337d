"""The charts of an audit."""

from cyclepref.builder.report.chart import Chart
from cyclepref.builder.report.charts import by_margin
from cyclepref.builder.report.scorers import Part
from cyclepref.builder.run.audit import RESULT_FILE
from cyclepref.builder.run.store import Store


def audit_charts(store: Store) -> list[Chart]:
    """What people said of a run's pairs; nothing without an audit."""
    found = store.read_json(RESULT_FILE)
    if not found or not found.get("scorers"):
        return []
    lines = {
        name: [Part(p["from"], p["to"], p["share"], (p["low"], p["high"]), p["pairs"]) for p in of["by_margin"]]
        for name, of in found["scorers"].items()
    }
    people = found["people"]["alpha"]
    agree = "one annotator a pair" if not people or people["alpha"] is None else f"alpha {people['alpha']:.2f}"
    note = f"{found['clear']} of {found['answered']} audited pairs; people with each other: {agree}"
    return [by_margin("people", "How often each scorer agrees with people", lines, note)]
