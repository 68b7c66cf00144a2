"""`pellucid probes list`: what an audit can ask."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._console import say, table

if TYPE_CHECKING:
    from pellucid.core import Probe


def list_probes() -> int:
    """List the questions an audit can ask, and their settings.

    What each costs depends on the model and the samples: `pellucid audit MODEL DATA --plan` shows it.
    """
    from pellucid.audits import MORE, PROBES, settings_of
    from pellucid.core import Suited

    def when(name: str, probe: Probe) -> str:
        return "always" if name in PROBES else "when it suits" if isinstance(probe, Suited) else "when named"

    asked = [(name, when(name, p), p.question) for name, p in (PROBES | MORE).items()]
    say(table(("probe", "asked", "question"), asked))
    say("\n`pellucid audit MODEL DATA --plan` shows what each would cost; --probe NAME asks only that one.\n")
    rows = [
        (f"{name}.{setting.name}", _written(setting.value), setting.text.partition(". ")[0].rstrip("."))
        for name, probe in (PROBES | MORE).items()
        for setting in settings_of(probe)
    ]
    say(table(("setting", "default", "meaning"), rows))
    say("\n--set PROBE.SETTING=VALUE changes one, such as --set robustness.attacks=linf.")
    return 0


def _written(value: object) -> str:
    """Return a setting as it is typed."""
    if value is None or value == () or value == {}:
        return ""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)
