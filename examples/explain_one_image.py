"""Why does the shipped network take this image for what it does? Shares of its cells, and cells that work together."""

from __future__ import annotations

import pellucid
from pellucid.audits import Explain, explain

subject = pellucid.subject("fashion-standard", "fashion-mnist", samples=60)
sample = int(subject.ids[0])

found = explain(subject, Explain(players="grid:3x4", index="SII", ids=(sample,)), out="explained")

numbers = found.interactions[sample]
print(found.report.findings[1].answer, "\n")
for players, value in numbers.top(5):
    print(f"{numbers.label(players):28} {value:+.2f}")
print("\nall numbers: explained/explanation.json, the page: explained/index.html")
