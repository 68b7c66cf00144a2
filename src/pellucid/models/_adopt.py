"""Models that are no networks, and networks that want other inputs: wrapped so that the rest sees modules."""

from __future__ import annotations

import importlib
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from pellucid.core import ModelError, described

from ._loaded import Loaded

Kind = Literal["tensor", "array"]


def adopt(model: Any, *, name: str = "") -> Loaded:
    """Return any model as a `Loaded`.

    Args:
        model: a network, a `Loaded`, a fitted scikit-learn estimator, or a function of a batch.
        name: what to call it; the name of its class or of the function if not given.

    Raises:
        ModelError: it is none of these, or a class instead of an instance.

    Example:
        >>> adopt(lambda x: x @ np.eye(3)).model(torch.ones(2, 3)).shape
        torch.Size([2, 3])
    """
    if isinstance(model, Loaded):
        return model
    name = name or str(getattr(model, "__name__", type(model).__name__)).replace("<lambda>", "function")
    if isinstance(model, nn.Module):
        return Loaded(model, name)
    if isinstance(model, type):
        raise ModelError(f"{name} is a class, not a model; make one with {name}(...)")
    if is_estimator(model):
        estimator = Estimator(model)
        columns = getattr(model, "n_features_in_", None)
        shape = None if columns is None else (int(columns),)
        return Loaded(estimator, name, None, None, shape, estimator.class_names, estimator.notes)
    if callable(model):
        return Loaded(Function(model), name)
    raise ModelError(
        f"{type(model).__name__} is no model; give a torch.nn.Module, a scikit-learn estimator or a function of a batch"
    )


class Normalized(nn.Module):
    """A model that normalizes its inputs itself: `model((x - mean) / std)`.

    Networks are often trained on normalized images while audits distort images in [0, 1]. Wrapped, the network takes
    plain pixels, and a distance means the same for every network.

    Args:
        model: the network that expects normalized inputs.
        mean, std: one number per channel of images `(B, C, H, W)` or per column of tables `(B, D)`, or one for all.

    Raises:
        ModelError: `std` is not positive, or the two differ in length.

    Example:
        >>> model = Normalized(nn.Flatten(), mean=[0.5, 0.5, 0.5], std=[0.25, 0.25, 0.25])
        >>> model(torch.ones(1, 3, 2, 2)).max().item()
        2.0
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, mean: Sequence[float] | float, std: Sequence[float] | float) -> None:
        super().__init__()
        means, stds = (list(v) if isinstance(v, Sequence) else [v] for v in (mean, std))
        if len(means) != len(stds) or not means:
            raise ModelError(f"mean and std must have one number per channel each, got {len(means)} and {len(stds)}")
        if not all(map(math.isfinite, (*means, *stds))) or min(stds) <= 0:
            raise ModelError(f"std must be positive and all numbers finite, got mean {means} and std {stds}")
        self.model = model
        place = next((tensor.device for tensor in (*model.parameters(), *model.buffers())), None)
        self.register_buffer("mean", torch.tensor(means, device=place), persistent=False)
        self.register_buffer("std", torch.tensor(stds, device=place), persistent=False)

    def forward(self, x: Tensor) -> Any:
        """Return what the model answers to the normalized batch."""
        if len(self.mean) not in (1, x.shape[1]):
            raise ModelError(f"inputs have {x.shape[1]} channels but mean and std {len(self.mean)} numbers")
        shape = (1, -1, *[1] * (x.ndim - 2))
        return self.model((x - self.mean.view(shape).to(x.dtype)) / self.std.view(shape).to(x.dtype))


class Function(nn.Module):
    """Any function of a batch as a model, on the CPU.

    Args:
        function: maps a batch, as a tensor or as a numpy array, to scores `(B, K)`.
        takes: what it is given; tried on the first batch if not said, the tensor first.
    """

    def __init__(self, function: Callable[[Any], Any], *, takes: Kind | None = None) -> None:
        super().__init__()
        self.function, self.takes = function, takes

    def forward(self, x: Tensor) -> Any:
        """Return the function's answer as a tensor; tuples and dicts are left as they are."""
        if self.takes is not None:
            return _as_tensor(self._given(x, self.takes))
        try:
            answer, self.takes = self._given(x, "tensor"), "tensor"
        except Exception as first:
            try:
                answer = self._given(x, "array")
            except Exception as error:
                raise ModelError(
                    f"the function takes neither a tensor ({described(first)}) nor an array ({described(error)})"
                ) from error
            self.takes = "array"
        return _as_tensor(answer)

    def _given(self, x: Tensor, kind: Kind) -> Any:
        return self.function(x if kind == "tensor" else x.detach().cpu().numpy())


class Estimator(nn.Module):
    """A fitted scikit-learn estimator as a model, on the CPU and without gradients.

    `predict_proba` is read as log-probabilities (below 1e-6 as 1e-6), `decision_function` as logits where there are no
    probabilities; a regressor answers with one number, which games take and audits do not.

    Args:
        estimator: a fitted estimator or pipeline.

    Raises:
        ModelError: not fitted, or without any of the three methods.
    """

    def __init__(self, estimator: Any) -> None:
        super().__init__()
        self.estimator = estimator
        name = type(estimator).__name__
        if not is_estimator(estimator):
            raise ModelError(f"{name} is no estimator: it has neither predict_proba, decision_function nor predict")
        if any(np.ndim(classes) for classes in getattr(estimator, "classes_", ())):
            raise ModelError(f"{name} predicts several targets at once; give one with a single target")
        self.regression = not hasattr(estimator, "classes_")
        if self.regression and (_is_classifier(estimator) or not _is_fitted(estimator)):
            raise ModelError(f"{name} is not fitted; call fit before")
        self.columns = tuple(map(str, getattr(estimator, "feature_names_in_", ())))

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes as the estimator calls them; none if they are only numbered from 0."""
        classes = list(getattr(self.estimator, "classes_", ()))
        return () if classes == list(range(len(classes))) else tuple(map(str, classes))

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of its scores must know."""
        name = type(self.estimator).__name__
        if self.regression:
            return ()
        if hasattr(self.estimator, "predict_proba"):
            return (f"Probabilities of {name} are read as logarithms, those below {_LEAST:g} as {_LEAST:g}.",)
        return (
            f"{name} gives no probabilities: its decision_function is read as logits, so its calibration says little.",
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return log-probabilities or scores `(B, K)`; one column for a regressor and for two classes' one score."""
        table = self._table(x.detach().cpu().flatten(1).double().numpy())
        if self.regression:
            scores = np.asarray(self.estimator.predict(table), dtype=np.float64)
        elif hasattr(self.estimator, "predict_proba"):
            scores = self._logs(self.estimator.predict_proba(table))
        else:
            scores = np.asarray(self.estimator.decision_function(table), dtype=np.float64)
            if scores.ndim == 2 and scores.shape[1] != len(self.estimator.classes_):
                raise ModelError("its decision_function compares pairs of classes; set decision_function_shape='ovr'")
        return torch.from_numpy(scores.reshape(len(x), -1))

    def _logs(self, probabilities: Any) -> Any:
        if isinstance(probabilities, list):
            raise ModelError(f"it predicts {len(probabilities)} targets at once; give one with a single target")
        p = np.asarray(probabilities, dtype=np.float64)
        return np.log(np.maximum(p, _LEAST))

    def _table(self, values: np.ndarray) -> Any:
        """Return the batch as the estimator was fitted: pipelines may choose columns by name."""
        if not self.columns or values.shape[1] != len(self.columns):
            return values
        return importlib.import_module("pandas").DataFrame(values, columns=list(self.columns))


_LEAST = 1e-6  # forests give exact zeros, whose logarithm no score can hold


def is_estimator(obj: object) -> bool:
    """Whether an object looks like a scikit-learn estimator."""
    methods = ("predict_proba", "decision_function", "predict")
    return not isinstance(obj, (nn.Module, type)) and hasattr(obj, "fit") and any(hasattr(obj, m) for m in methods)


def _is_classifier(estimator: Any) -> bool:
    if getattr(estimator, "_estimator_type", None) == "classifier":
        return True
    try:
        return bool(importlib.import_module("sklearn.base").is_classifier(estimator))
    except (ImportError, AttributeError):
        return False


def _is_fitted(estimator: Any) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module("sklearn.utils.validation").check_is_fitted(estimator)
    except ImportError:
        return True
    except Exception:  # NotFittedError of whichever version
        return False
    return True


def _as_tensor(answer: Any) -> Any:
    if isinstance(answer, Tensor) or not isinstance(answer, (np.ndarray, np.generic)):
        return answer
    return torch.from_numpy(np.ascontiguousarray(answer))
