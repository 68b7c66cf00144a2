"""See what a network has learned, find where it breaks, train it better.

Names resolve lazily: `import pellucid` does not load torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pellucid._open import subject
    from pellucid.audits import audit, check, compare
    from pellucid.core import Subject
    from pellucid.reports import Report
    from pellucid.training import Recipe, train

__version__ = "0.1.0"

_HOMES = {
    "Recipe": "pellucid.training",
    "Report": "pellucid.reports",
    "Subject": "pellucid.core",
    "audit": "pellucid.audits",
    "check": "pellucid.audits",
    "compare": "pellucid.audits",
    "subject": "pellucid._open",
    "train": "pellucid.training",
}

_PACKAGES = (
    "attacks",
    "audits",
    "core",
    "data",
    "explain",
    "games",
    "metrics",
    "models",
    "nn",
    "optim",
    "reports",
    "training",
)

__all__ = ["Recipe", "Report", "Subject", "__version__", "audit", "check", "compare", "subject", "train"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in _PACKAGES:
        return importlib.import_module(f"pellucid.{name}")
    raise AttributeError(f"module 'pellucid' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, *_PACKAGES})
