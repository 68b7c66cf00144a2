"""How Sphinx builds this documentation: `make docs`; warnings are errors."""

from __future__ import annotations

import re

import pellucid

project = "Pellucid"
author = "The Pellucid developers"
copyright = "The Pellucid developers"
version = release = pellucid.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax", "sphinx_design"]
exclude_patterns = ["_build", "_published"]
html_theme = "furo"
html_extra_path = ["_published"]  # report-schema-1.json
html_title = "Pellucid"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "fully-qualified"  # the short form shows a stray ~ where a default is no expression
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

_CODE = re.compile(r"(?<!`)`([^`]+)`(?!`)")
_SPECIAL = re.compile(r"(?<!\\)[*|]|(?<=\w)_(?=\W|$)")


def _from_markdown(lines: list[str]) -> list[str]:
    """Our docstrings are plain text with `code` and tables; say the same in reStructuredText."""
    blocks = re.split(r"((?:^ *>>>.*\n(?:.*\S.*\n)*)+)", "\n".join(lines) + "\n", flags=re.MULTILINE)
    blocks[::2] = [_with_tables(block) for block in blocks[::2]]  # examples lie at odd places and stay as they are
    return "".join(blocks).splitlines()


def _with_tables(text: str) -> str:
    parts = re.split(r"((?:^ *\|.*\|\n){2,})", text, flags=re.MULTILINE)
    parts[::2] = [_escape(part) for part in parts[::2]]
    parts[1::2] = [_table(part) for part in parts[1::2]]
    return "".join(parts)


def _table(text: str) -> str:
    rows = [[_escape(cell.strip()) for cell in line.strip().strip("|").split("|")] for line in text.splitlines()]
    del rows[1]  # the line below the heads
    lines = [f"   {'* -' if k == 0 else '  -'} {cell}" for row in rows for k, cell in enumerate(row)]
    indent = text[: len(text) - len(text.lstrip())]
    return "".join(f"{indent}{line}".rstrip() + "\n" for line in [".. list-table::", "   :header-rows: 1", "", *lines])


def _escape(text: str) -> str:
    parts = _CODE.split(text)
    parts[::2] = [_SPECIAL.sub(lambda found: "\\" + found[0], part) for part in parts[::2]]
    parts[1::2] = [f"``{code}``" for code in parts[1::2]]
    return "".join(parts)


def _process(app: object, what: str, name: str, value: object, options: object, lines: list[str]) -> None:
    lines[:] = _from_markdown(lines)


def setup(app: object) -> None:
    """Connect before napoleon does (its priority is the default 500)."""
    app.connect("autodoc-process-docstring", _process, priority=100)  # type: ignore[attr-defined]
