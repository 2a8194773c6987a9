"""A fine-tune and the linear model of words as one model of texts. A served model carries this file.

The logits of both are added, each times its weight: logarithmic pooling of what they hold likely (Genest and Zidek
1986, https://doi.org/10.1214/ss/1177013825). `training/blends.py` fits the weights on validation.
"""

import numpy as np
from numpy.typing import NDArray

Weights = tuple[float, float]
"""Of the fine-tune, and of the words."""


def together(tuned: NDArray[np.float64], words: NDArray[np.float64], weights: Weights) -> NDArray[np.float64]:
    """(texts, classes): logits of both, from those of each."""
    return weights[0] * tuned + weights[1] * words
