"""`pellucid data list`, `pellucid data get` and `pellucid data verify`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._console import bars, say, table, warn

if TYPE_CHECKING:
    from pellucid.data import Facts


def list_data() -> int:
    """List the data sets Pellucid knows and whether they are here."""
    from pellucid.data import (
        NAMED,
        SimulatedNMNIST,
        SyntheticGraphs,
        SyntheticImages,
        SyntheticScenes,
        SyntheticTable,
    )

    rows = [(name, facts.summary, facts.license, _where(facts)) for name, facts in NAMED.items()]
    images, plain = SyntheticImages(), SyntheticTable()
    what = f"{images.n} + {images.n} gray images {images.size} x {images.size}, {images.classes} classes"
    rows.append(("synthetic-images", what, "-", "made when asked for"))
    scenes = SyntheticScenes()
    what = f"{scenes.n} + {scenes.n} color images {scenes.size} x {scenes.size} with masks, 3 classes"
    rows.append(("synthetic-scenes", what, "-", "made when asked for"))
    what = f"{plain.n} + {plain.n} rows of {plain.features} features, 2 classes"
    rows.append(("synthetic-table", what, "-", "made when asked for"))
    chains = SyntheticGraphs()
    what = f"{chains.n} + {chains.n} chains of {chains.nodes} nodes as graphs, 2 classes"
    rows.append(("synthetic-graphs", what, "-", "made when asked for"))
    events = SimulatedNMNIST()
    what = f"{events.train:,} + {events.test:,} frames of events from digits, simulated from mnist, 10 classes"
    rows.append(("simulated-n-mnist", what, "CC BY-SA 3.0", "made when asked for, from mnist"))
    say(table(["name", "what it is (training + test)", "license", "where"], rows))
    say()
    say("`pellucid data verify NAME` checks what is here. Your own data are a folder of class folders with images, or")
    say("IDX, CIFAR binary, .npz, CSV, Parquet or Hugging Face files, or texts; the guide `Bring data` shows each.")
    return 0


def get_data(name: str, /) -> int:
    """Download a data set into the user's cache and check its digests.

    Args:
        name: a name from `pellucid data list`.
    """
    from pellucid.data import download

    try:
        with bars() as advance:
            folder = download(name, on_step=lambda done, total: advance(f"{name}, {_megabytes(total)}", done, total))
    except KeyboardInterrupt:
        warn("interrupted; what has arrived is kept, and the same command goes on from there")
        return 130
    say(f"{name} is complete in {folder}.")
    return 0


def verify_data(name: str, /) -> int:
    """Check the files of a data set against their digests.

    Args:
        name: a name from `pellucid data list`.
    """
    from pellucid.data import NAMED, verify

    folder = verify(name)
    place = f"in {folder}" if folder else f"from {NAMED[name].package}"
    say(f"{name} {place} is complete and undamaged.")
    return 0


def _where(facts: Facts) -> str:
    """Say where a data set is, or how to get it; its content is not checked."""
    from importlib.util import find_spec

    if facts.package:
        here = find_spec("sklearn") is not None
        return f"here: with {facts.package}" if here else "pip install 'pellucid[tabular]'"
    folder = facts.find()
    if folder is not None:
        return f"here: {folder}"
    get = f"`pellucid data get {facts.name}`, {_megabytes(facts.homes[0].total)}"
    shipped = {"fashion-mnist": "images", "movie-snippets": "sentences"}
    return f"shipped sample of 500 test {shipped[facts.name]}; all: {get}" if facts.name in shipped else get


def _megabytes(size: float) -> str:
    return f"{size / 1e6:.0f} MB"
