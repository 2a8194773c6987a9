"""A fine-tuned model and the linear model of words as one model of texts. A served model carries this file.

The logits of both models are multiplied by their weights and added. This is logarithmic pooling of their probabilities
(Genest and Zidek 1986, https://doi.org/10.1214/ss/1177013825). `training/blends.py` fits the weights on validation.
"""

import numpy as np
from numpy.typing import NDArray

Weights = tuple[float, float]
"""Weight of the fine-tuned model, and weight of the linear model of words."""


def together(tuned: NDArray[np.float64], words: NDArray[np.float64], weights: Weights) -> NDArray[np.float64]:
    """Return the logits of both models together from the logits of each, all (texts, classes)."""
    return weights[0] * tuned + weights[1] * words
