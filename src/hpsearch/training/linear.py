"""Logistic regression, of one class among several or of each label by itself, that ends at a deadline."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.optimize import minimize
from threadpoolctl import threadpool_limits

ITERATIONS = 200
PATIENCE = 2  # strengths in one direction that may be no better before that direction ends
TOLERANCE = {"gtol": 1e-5, "ftol": 1e-7}


@dataclass(frozen=True)
class Linear:
    """A linear model: its logits are x @ weights + bias."""

    weights: NDArray[np.float32]
    """(width, classes)."""
    bias: NDArray[np.float32]
    """(classes,)."""

    def logits(self, x: Any) -> NDArray[np.float64]:
        """Return logits (n, classes) of an array or a sparse matrix (n, width)."""
        return np.asarray(x @ self.weights, dtype=np.float64) + self.bias


class Regression:
    """Logistic regression on some examples.

    L-BFGS minimises the mean loss and the squares of the weights. Strength weighs the squares as C does in
    scikit-learn: the higher it is, the less the weights shrink. The bias is not shrunk. For two classes that exclude
    each other, one column of weights is fitted. A class may have no example, or all of them.
    """

    def __init__(self, x: Any, targets: NDArray[Any], exclusive: bool, intercept: bool = True) -> None:
        """Take the examples.

        Args:
            x: (n, width), an array or a sparse matrix by rows, float32.
            targets: (n, classes), 1 for a class that is right, else 0.
            exclusive: True for softmax, if each example has exactly one class; False for a sigmoid for each class.
            intercept: whether a bias is fitted.
        """
        self._x, self._turned = x, x.T.tocsr() if sparse.issparse(x) else x.T
        self._pair = exclusive and targets.shape[1] == 2
        self._targets = (targets[:, 1:] if self._pair else targets).astype(np.float32)
        self._exclusive, self._intercept = exclusive and not self._pair, intercept
        self._shape = (x.shape[1] + 1, self._targets.shape[1])

    def fit(self, strength: float, begin: Linear | None = None, deadline: float = np.inf) -> Linear:
        """Fit from zeros, or from `begin`, at most until `deadline` of the monotonic clock."""
        start = np.zeros(self._shape) if begin is None else self._within(begin)

        def in_time(intermediate_result: Any) -> None:
            if time.monotonic() > deadline:
                raise StopIteration

        # L-BFGS has short vectors. On a busy machine, threads that wait for each other make it several times as slow.
        with threadpool_limits(1, "blas"):
            found = minimize(
                self._loss,
                start.ravel(),
                (strength,),
                jac=True,
                method="L-BFGS-B",
                callback=in_time,
                options={"maxiter": ITERATIONS, **TOLERANCE},
            )
        return self._whole(found.x.reshape(self._shape).astype(np.float32))

    def loss(self, linear: Linear) -> float:
        """Return the mean loss of a fit on these examples."""
        return self._loss(self._within(linear).ravel(), np.inf)[0]

    def _loss(self, parameters: NDArray[np.float64], strength: float) -> tuple[float, NDArray[np.float64]]:
        """Return the loss and its gradient."""
        weights = parameters.reshape(self._shape)
        logits = self._x @ weights[:-1].astype(np.float32) + weights[-1].astype(np.float32)
        off: NDArray[Any]
        if self._exclusive:
            highest = logits.max(axis=1, keepdims=True)
            shares = np.exp(logits - highest)
            sums = shares.sum(axis=1, keepdims=True)
            loss = (np.log(sums) + highest).sum(dtype=np.float64) - (logits * self._targets).sum(dtype=np.float64)
            off = shares / sums - self._targets
        else:
            loss = (np.logaddexp(0, logits) - logits * self._targets).sum(dtype=np.float64)
            off = 0.5 * (1 + np.tanh(0.5 * logits)) - self._targets
        n = len(self._targets)
        gradient = np.empty(self._shape)
        gradient[:-1] = (self._turned @ off) / n + weights[:-1] / (strength * n)
        gradient[-1] = off.sum(axis=0) / n if self._intercept else 0.0
        return float(loss / n + 0.5 * (weights[:-1] ** 2).sum() / (strength * n)), gradient.ravel()

    def _whole(self, fitted: NDArray[np.float32]) -> Linear:
        whole = np.concatenate([-fitted / 2, fitted / 2], axis=1, dtype=np.float32) if self._pair else fitted
        return Linear(whole[:-1], whole[-1])

    def _within(self, whole: Linear) -> NDArray[np.float64]:
        """Return the parameters that `_whole` makes `whole` from."""
        fitted = np.concatenate([whole.weights, whole.bias[None]]).astype(np.float64)
        return 2 * fitted[:, 1:] if self._pair else fitted


@dataclass(frozen=True)
class Chosen:
    """The best fit of the strengths that were tried."""

    linear: Linear
    strength: float
    worth: float


def choose(
    regression: Regression,
    strengths: Sequence[float],
    first: int,
    worth: Callable[[Linear], float],
    deadline: float = np.inf,
) -> Chosen:
    """Fit with some strengths, and return the fit that is worth the most.

    The search begins at one strength and goes up, then down. A direction ends after PATIENCE strengths in a row that
    are no better than the best, or at the deadline. The first strength is always fitted.

    Args:
        regression: the examples to fit on.
        strengths: strengths that may be tried, ascending.
        first: index of the strength to begin with.
        worth: rates a fit on examples that it was not fitted on; more is better.
        deadline: time of the monotonic clock.
    """
    linear = regression.fit(strengths[first], None, deadline)
    best = begin = Chosen(linear, strengths[first], worth(linear))
    for further in (strengths[first + 1 :], strengths[:first][::-1]):
        linear, worse = begin.linear, 0
        for strength in further:
            if worse == PATIENCE or time.monotonic() > deadline:
                break
            linear = regression.fit(strength, linear, deadline)
            found = Chosen(linear, strength, worth(linear))
            worse = 0 if found.worth > best.worth else worse + 1
            best = found if found.worth > best.worth else best
    return best
