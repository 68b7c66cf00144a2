"""Reports: what an audit found, as typed data, as JSON, and as one self-contained page."""

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
    "Comparison",
    "Difference",
    "Failed",
    "Planned",
    "Report",
    "Skipped",
    "SubjectCard",
    "json_schema",
    "load",
    "write_html",
]
