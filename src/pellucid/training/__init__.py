"""Training from recipes: on one CPU, one GPU, or many under `torchrun`."""

from ._attack import AttackSettings
from ._events import Event, OnEvent
from ._optimizers import OPTIMIZERS, SCHEDULES, SGD, Adam, Constant, Cosine, OneCycle
from ._recipe import OBJECTIVES, FinalTest, Recipe, find_recipe, shipped_recipes
from ._run import Run
from ._trainer import train
from ._weighting import WEIGHTINGS, FixedWeighting
from .objectives import Adversarial, Standard

__all__ = [
    "OBJECTIVES",
    "OPTIMIZERS",
    "SCHEDULES",
    "SGD",
    "WEIGHTINGS",
    "Adam",
    "Adversarial",
    "AttackSettings",
    "Constant",
    "Cosine",
    "Event",
    "FinalTest",
    "FixedWeighting",
    "OnEvent",
    "OneCycle",
    "Recipe",
    "Run",
    "Standard",
    "find_recipe",
    "shipped_recipes",
    "train",
]
