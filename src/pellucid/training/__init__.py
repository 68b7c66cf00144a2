"""Training from recipes: on one CPU, one GPU, or many under `torchrun`."""

from ._attack import AttackSettings
from ._diversity_recorder import DiversityRecorder, replay
from ._events import Event, OnEvent
from ._optimizers import OPTIMIZERS, SCHEDULES, SGD, Adam, Constant, Cosine, Exponential, OneCycle, Steps
from ._recipe import OBJECTIVES, FinalTest, Recipe, find_recipe, shipped_recipes
from ._recording import RECORDS, DiversityRecording, Recorder
from ._run import Run
from ._sweep import OnSweep, Sweep, sweep
from ._trainer import train
from ._weighting import (
    WEIGHTINGS,
    FixedWeighting,
    MaxWeighting,
    MinNormWeighting,
    Mixture,
    ParetoWeighting,
    UniformWeighting,
)
from .objectives import Adversarial, Attacks, DotRegression, EquilibriumTraining, InteractionOrder, OrderRange, Standard

__all__ = [
    "OBJECTIVES",
    "OPTIMIZERS",
    "RECORDS",
    "SCHEDULES",
    "SGD",
    "WEIGHTINGS",
    "Adam",
    "Adversarial",
    "AttackSettings",
    "Attacks",
    "Constant",
    "Cosine",
    "DiversityRecorder",
    "DiversityRecording",
    "DotRegression",
    "EquilibriumTraining",
    "Event",
    "Exponential",
    "FinalTest",
    "FixedWeighting",
    "InteractionOrder",
    "MaxWeighting",
    "MinNormWeighting",
    "Mixture",
    "OnEvent",
    "OnSweep",
    "OneCycle",
    "OrderRange",
    "ParetoWeighting",
    "Recipe",
    "Recorder",
    "Run",
    "Standard",
    "Steps",
    "Sweep",
    "UniformWeighting",
    "find_recipe",
    "replay",
    "shipped_recipes",
    "sweep",
    "train",
]
