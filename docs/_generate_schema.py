"""Write the JSON Schema of `report.json` beside the page that describes it; a test compares file and types."""

from __future__ import annotations

import json
from pathlib import Path

from pellucid.reports import SCHEMA_VERSION, json_schema


def main() -> None:
    path = Path(__file__).parent / "reference" / f"report-schema-{SCHEMA_VERSION}.json"
    path.write_text(json.dumps(json_schema(), indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
