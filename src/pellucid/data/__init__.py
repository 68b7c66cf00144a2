"""Data sets: where they come from, how they are checked, how a few samples are drawn."""

from ._arrays import Arrays
from ._arrow import HuggingFace, Parquet
from ._augment import Augment
from ._blue_marble import BlueMarble
from ._brain_slices import BrainSlices
from ._cifar import CIFAR10, CIFARFiles
from ._csv import CSV
from ._download import DOWNLOADS, NAMED, download, verify
from ._events import Events, event_frames, read_n_mnist, saccade_frames, simulate_saccades, write_n_mnist
from ._facts import Facts
from ._fashion_mnist import FashionMNIST
from ._folder import ImageFolder
from ._graphs import pack_graphs
from ._homes import NpmPackage, PyPIPackage, PyPIWheel, WebArchive, WebFile, WebFiles
from ._idx import IDX
from ._images import fit_images
from ._load import SOURCES, AnySource, load
from ._loader import from_loader
from ._long_tail import LongTail, long_tail_counts, long_tailed
from ._masks import masks
from ._mnist import MNIST
from ._movie_snippets import MovieSnippets
from ._movielens import MovieLens, Ratings
from ._mutag import Mutag
from ._n_mnist import NMNIST, SimulatedNMNIST
from ._places import cache
from ._sample import sample, take, unit
from ._scikit_learn import BreastCancer, Digits, Iris, Wine
from ._synthetic import (
    SyntheticGraphs,
    SyntheticImages,
    SyntheticScenes,
    SyntheticTable,
    synthetic_graphs,
    synthetic_images,
    synthetic_scenes,
    synthetic_table,
)
from ._texts import Texts
from ._worm_connectome import WormConnectome

__all__ = [
    "CIFAR10",
    "CSV",
    "DOWNLOADS",
    "IDX",
    "MNIST",
    "NAMED",
    "NMNIST",
    "SOURCES",
    "AnySource",
    "Arrays",
    "Augment",
    "BlueMarble",
    "BrainSlices",
    "BreastCancer",
    "CIFARFiles",
    "Digits",
    "Events",
    "Facts",
    "FashionMNIST",
    "HuggingFace",
    "ImageFolder",
    "Iris",
    "LongTail",
    "MovieLens",
    "MovieSnippets",
    "Mutag",
    "NpmPackage",
    "Parquet",
    "PyPIPackage",
    "PyPIWheel",
    "Ratings",
    "SimulatedNMNIST",
    "SyntheticGraphs",
    "SyntheticImages",
    "SyntheticScenes",
    "SyntheticTable",
    "Texts",
    "WebArchive",
    "WebFile",
    "WebFiles",
    "Wine",
    "WormConnectome",
    "cache",
    "download",
    "event_frames",
    "fit_images",
    "from_loader",
    "load",
    "long_tail_counts",
    "long_tailed",
    "masks",
    "pack_graphs",
    "read_n_mnist",
    "saccade_frames",
    "sample",
    "simulate_saccades",
    "synthetic_graphs",
    "synthetic_images",
    "synthetic_scenes",
    "synthetic_table",
    "take",
    "unit",
    "verify",
    "write_n_mnist",
]
