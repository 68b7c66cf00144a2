"""`pellucid probes list`: what an audit can ask."""

from __future__ import annotations

from ._console import say, table


def list_probes() -> int:
    """List the questions an audit can ask.

    What each costs depends on the model and the samples: `pellucid audit MODEL DATA --plan` shows it.
    """
    from pellucid.audits import PROBES

    say(table(("probe", "question"), [(name, probe.question) for name, probe in PROBES.items()]))
    say("\n`pellucid audit MODEL DATA --plan` shows what each would cost; --probe NAME asks only that one.")
    return 0
