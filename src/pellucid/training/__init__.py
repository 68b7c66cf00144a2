"""Training from recipes: on one CPU, one GPU, or many under `torchrun`."""

from ._attack import AttackSettings
from ._events import Event, OnEvent
from ._optimizers import OPTIMIZERS, SCHEDULES, SGD, Adam, Constant, Cosine, Exponential, OneCycle
from ._recipe import OBJECTIVES, FinalTest, Recipe, find_recipe, shipped_recipes
from ._run import Run
from ._trainer import train
from ._weighting import WEIGHTINGS, FixedWeighting
from .objectives import Adversarial, InteractionOrder, OrderRange, Standard

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
    "Exponential",
    "FinalTest",
    "FixedWeighting",
    "InteractionOrder",
    "OnEvent",
    "OneCycle",
    "OrderRange",
    "Recipe",
    "Run",
    "Standard",
    "find_recipe",
    "shipped_recipes",
    "train",
]
