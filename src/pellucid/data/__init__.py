"""Data sets: where they come from, how they are checked, how a few samples are drawn."""

from ._arrays import Arrays
from ._download import DOWNLOADS, download, verify
from ._fashion_mnist import FashionMNIST
from ._folder import ImageFolder
from ._load import SOURCES, load
from ._places import cache
from ._sample import sample, unit
from ._synthetic import SyntheticImages, SyntheticTable, synthetic_images, synthetic_table

__all__ = [
    "DOWNLOADS",
    "SOURCES",
    "Arrays",
    "FashionMNIST",
    "ImageFolder",
    "SyntheticImages",
    "SyntheticTable",
    "cache",
    "download",
    "load",
    "sample",
    "synthetic_images",
    "synthetic_table",
    "unit",
    "verify",
]
