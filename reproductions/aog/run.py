"""Measure what And-Or graphs find; `figures.py` draws what this writes.

python reproductions/aog/run.py --part exact|tabular|baseline|sparsity [--only NAME] [--size N]
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measures
from sparse import SCENES

from pellucid.core import write_json

parser = argparse.ArgumentParser()
parser.add_argument("--part", choices=("exact", "tabular", "baseline", "sparsity"), required=True)
parser.add_argument("--only", default="", help="one result of the part, such as digits")
parser.add_argument("--size", type=int, default=0, help="functions, pairs or samples, for a quick look")
wish = parser.parse_args()
RESULTS = Path(__file__).resolve().parent / "results"
BASELINES = ("breast-cancer", "breast-cancer-robust", "fashion-standard")
JOBS: dict[str, dict[str, Callable[[int], dict[str, Any]]]] = {
    "exact": {"add-mul": measures.add_mul, "and-or": measures.and_or, "learned": measures.learned},
    "tabular": {"breast-cancer": measures.seeds("breast-cancer"), "wine": measures.seeds("wine")},
    "baseline": {
        name: measures.baselines(name) for name in ("breast-cancer", "breast-cancer-robust", "fashion-standard")
    },
    "sparsity": {name: measures.sparse(name) for name in SCENES},
}

for name, measure in JOBS[wish.part].items():
    path = RESULTS / f"{wish.part}-{name}{f'-quick{wish.size}' if wish.size else ''}.json"
    if path.exists() or wish.only not in ("", name):
        continue  # measured already
    found = measure(wish.size)
    RESULTS.mkdir(exist_ok=True)
    write_json(path, found)
    print(path.stem, {key: value for key, value in found.items() if not isinstance(value, list)}, flush=True)
