"""Reports: what an audit found, as typed data, as JSON, and as one self-contained page."""

from ._check import Check, Result, junit, markdown, measured
from ._graph_files import load_graph, save_graph
from ._html import write_html
from ._report import (
    SCHEMA_VERSION,
    Comparison,
    Difference,
    Failed,
    Planned,
    Report,
    Skipped,
    SubjectCard,
    json_schema,
    load,
)

__all__ = [
    "SCHEMA_VERSION",
    "Check",
    "Comparison",
    "Difference",
    "Failed",
    "Planned",
    "Report",
    "Result",
    "Skipped",
    "SubjectCard",
    "json_schema",
    "junit",
    "load",
    "load_graph",
    "markdown",
    "measured",
    "save_graph",
    "write_html",
]
