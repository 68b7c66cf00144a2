"""One self-contained page from a report."""

from __future__ import annotations

import jinja2

from ._report import Comparison, Report

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; base-uri 'none'">
<title>{{ title }}</title></head><body><h1>{{ title }}</h1>
{% for finding in findings %}<h2>{{ finding.question }}</h2><p>{{ finding.level }}: {{ finding.answer }}</p>{% endfor %}
</body></html>
"""


def write_html(report: Report | Comparison) -> str:
    """Return the page of a report; the same report gives the same page."""
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(_PAGE)
    if isinstance(report, Comparison):
        title = f"{report.before.subject.model} and {report.after.subject.model}"
        return template.render(title=title, findings=report.before.findings + report.after.findings)
    return template.render(title=report.subject.model, findings=report.findings)
