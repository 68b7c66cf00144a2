"""`pellucid data list`, `pellucid data get` and `pellucid data verify`."""

from __future__ import annotations

from ._console import bars, say, table


def list_data() -> int:
    """List the data sets Pellucid knows and whether they are here."""
    from pellucid.core import DataError, DataMissing
    from pellucid.data import SyntheticImages, SyntheticTable, verify

    try:
        where = f"here: {verify('fashion-mnist')}"
    except DataMissing:
        where = "shipped sample of 500 test images; `pellucid data get fashion-mnist` gets all"
    except DataError as damaged:
        where = str(damaged)
    images, rows = SyntheticImages(), SyntheticTable()
    listed = [
        ("fashion-mnist", "60,000 + 10,000 gray images 28 x 28, 10 classes (MIT)", where),
        (
            "synthetic-images",
            f"{images.n} + {images.n} gray images {images.size} x {images.size}",
            "made when asked for",
        ),
        ("synthetic-table", f"{rows.n} + {rows.n} rows of {rows.features} features", "made when asked for"),
    ]
    say(table(["name", "what it is", "where"], listed))
    say()
    say("Your own data are a folder of class folders with PNG or JPEG images, or a .npz file with inputs and labels.")
    return 0


def get_data(name: str, /) -> int:
    """Download a data set into the user's cache and check its digests.

    Args:
        name: a name from `pellucid data list`.
    """
    from pellucid.data import download

    with bars() as advance:
        folder = download(name, on_step=lambda done, total: advance(name, done, total))
    say(f"{name} is complete in {folder}.")
    return 0


def verify_data(name: str, /) -> int:
    """Check the files of a data set against their digests.

    Args:
        name: a name from `pellucid data list`.
    """
    from pellucid.data import verify

    say(f"{name} in {verify(name)} is complete and undamaged.")
    return 0
