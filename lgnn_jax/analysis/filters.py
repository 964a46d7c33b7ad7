"""What the filters of a layer are like, one by one."""

from typing import NamedTuple

import numpy as np


class Magnitudes(NamedTuple):
    """How the magnitudes of a layer's filters spread."""

    minimum: float
    maximum: float
    deviation_of_log: float  # standard deviation of their natural logarithm


def magnitudes(kernel: np.ndarray, *, neuron_axis: int = -1) -> Magnitudes:
    """Returns the smallest and largest L2 norm of a layer's filters, and the spread of their log.

    Args:
      kernel: weights `(..., c_out)` of any number of dimensions, finite, no filter all zero.
      neuron_axis: the axis that counts the filters.

    Returns:
      All in units of the weights; the logarithm is natural, the deviation that of the population
      (divided by the number of filters).

    Reference:
      Table III of the paper, which does not say which norm, logarithm and deviation it means.

    Example:
      >>> found = magnitudes(np.array([[3.0, 0.0], [4.0, 1.0]]))
      >>> found.minimum, found.maximum, round(found.deviation_of_log, 3)
      (1.0, 5.0, 0.805)
    """
    weights = np.moveaxis(np.asarray(kernel, np.float64), neuron_axis, 0)
    norms = np.linalg.norm(weights.reshape(len(weights), -1), axis=1)
    return Magnitudes(float(norms.min()), float(norms.max()), float(np.log(norms).std()))
