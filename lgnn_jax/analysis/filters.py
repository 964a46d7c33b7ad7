"""What the filters of a layer are like, wherever they lie on a map.

Features are float `(neurons, features)`: the weights of a layer as `filter_features` returns them,
or its activations `(images, neurons)`, transposed.
"""

from typing import NamedTuple

import numpy as np

# What is left of constant features once their mean is gone, relative to what they were.
_ROUNDING = 1e-12


class Magnitudes(NamedTuple):
    """How the magnitudes of a layer's filters spread."""

    minimum: float
    maximum: float
    deviation_of_log: float  # standard deviation of their natural logarithm


def magnitudes(kernel: np.ndarray, *, neuron_axis: int = -1) -> Magnitudes:
    """Returns the smallest and largest L2 norm of a layer's filters, and the spread of their log.

    Args:
      kernel: weights `(..., c_out)` of any number of dimensions, finite.
      neuron_axis: the axis that counts the filters.

    Returns:
      All in units of the weights; the logarithm is natural, the deviation that of the population
      (divided by the number of filters), without filters that are all zero and have no logarithm.

    Raises:
      ValueError: if a weight is not finite.

    Reference:
      Table III of the paper, which does not say which norm, logarithm and deviation it means.

    Example:
      >>> found = magnitudes(np.array([[3.0, 0.0], [4.0, 1.0]]))
      >>> found.minimum, found.maximum, round(found.deviation_of_log, 3)
      (1.0, 5.0, 0.805)
    """
    norms = np.linalg.norm(filter_features(kernel, neuron_axis=neuron_axis), axis=1)
    logs = np.log(norms[norms > 0])
    return Magnitudes(
        norms.min().item(), norms.max().item(), logs.std().item() if logs.size else 0.0
    )


def normalized_filters(kernel: np.ndarray) -> np.ndarray:
    """Returns filters as pictures: each on its own from 0, its least weight, to 1, its largest.

    Args:
      kernel: weights `(height, width, colours, c_out)`, finite.

    Returns:
      float64 `(c_out, height, width, colours)`, in [0, 1]; a constant filter is 0.5 throughout.

    Raises:
      ValueError: for another rank or a weight that is not finite.

    Reference:
      Section IV-B and Figure 1 of the paper.

    Example:
      >>> kernel = np.array([-1.0, 0.0, 1.0, 3.0]).reshape(2, 2, 1, 1)
      >>> normalized_filters(kernel)[0, :, :, 0].tolist()
      [[0.0, 0.25], [0.5, 1.0]]
    """
    if np.ndim(kernel) != 4:
        raise ValueError(
            f"kernel must have shape (height, width, colours, c_out), got {np.shape(kernel)}."
        )
    features = filter_features(kernel)
    low, high = (f(axis=1, keepdims=True) for f in (features.min, features.max))
    scaled = np.divide(
        features - low, high - low, out=np.full_like(features, 0.5), where=high > low
    )
    return scaled.reshape(len(features), *np.shape(kernel)[:3])


def filter_features(kernel: np.ndarray, *, neuron_axis: int = -1) -> np.ndarray:
    """Returns the weights of a layer as features, float64 `(neurons, features)`.

    Args:
      kernel: weights `(..., c_out)` of any number of dimensions, finite.
      neuron_axis: the axis that counts the neurons.

    Raises:
      ValueError: if a weight is not finite.

    Example:
      >>> filter_features(np.zeros((3, 3, 16, 64))).shape
      (64, 144)
    """
    weights = np.moveaxis(np.asarray(kernel), neuron_axis, 0)
    return as_features(weights.reshape(len(weights), -1))


def as_features(features: np.ndarray) -> np.ndarray:
    """Returns features as float64; raises ValueError for another shape or what is not finite."""
    features = np.asarray(features, np.float64)
    if features.ndim != 2 or not features.size:
        raise ValueError(
            f"features must have shape (neurons, features), got {features.shape}: filter_features "
            "makes them of a kernel; activations (images, neurons) have to be transposed."
        )
    finite = np.isfinite(features).all(axis=1)
    if not finite.all():
        neuron = int(np.argmin(finite))
        value = features[neuron][~np.isfinite(features[neuron])][0]
        raise ValueError(f"neuron {neuron} has {value} among its features: all must be finite.")
    return features


def filter_correlations(kernel: np.ndarray, *, neuron_axis: int = -1) -> np.ndarray:
    """Returns the correlation of each filter's weights with each other's.

    Args:
      kernel: weights `(..., c_out)`, finite, of any number of dimensions; or features, with their
        neurons on axis 0.
      neuron_axis: the axis that counts the neurons.

    Returns:
      float64 `(c_out, c_out)`: Pearson's correlation over the weights of a filter. A filter with
      constant weights has correlation 0 with all filters.

    Raises:
      ValueError: if a weight is not finite.

    Reference:
      Section IV-C of the paper: the Gram matrix of the filter weights, as correlations.

    Example:
      >>> filter_correlations(np.array([[1.0, 2.0, 5.0], [2.0, 1.0, 5.0]])).round().tolist()
      [[1.0, -1.0, 0.0], [-1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]
    """
    centred = _centred(filter_features(kernel, neuron_axis=neuron_axis))
    norms = np.linalg.norm(centred, axis=1, keepdims=True)
    unit = np.divide(centred, norms, out=centred, where=norms > 0)
    return unit @ unit.T


def effective_dimensionality(features: np.ndarray) -> float:
    """Returns how many directions the filters of a layer spread over: their participation ratio.

    With the eigenvalues l of the neurons' covariance over their features, `(sum l)^2 / sum l^2`: n
    if n eigenvalues are equal and the others 0. Neighbours on a map are also alike where all
    filters are nearly the same; such a collapse shows here, as a number close to 1. It does not
    depend on the map, so there is nothing to shuffle.

    Args:
      features: float `(neurons, features)`, finite.

    Returns:
      From 1 to the smaller of the number of neurons and of features less one; 0 if all filters are
      dead. A mean over the neurons is not subtracted: it would hide what all filters share.

    Raises:
      ValueError: for features of another shape or not finite.

    Reference:
      Gao et al., "A theory of multineuronal dimensionality, dynamics and measurement", 2017.

    Example:
      >>> round(effective_dimensionality([[1.0, -1.0, 0.0, 0.0], [0.0, 0.0, 1.0, -1.0]]), 6)
      2.0
    """
    centred = _centred(as_features(features))
    # Eigenvalues sum to the trace, and their squares to the sum of the matrix's squared elements.
    covariance = centred @ centred.T
    squares = np.square(covariance).sum()
    return float(np.trace(covariance) ** 2 / squares) if squares > 0 else 0.0


def dead_filters(features: np.ndarray) -> np.ndarray:
    """Returns the neurons whose features do not vary: all zero, or constant up to rounding.

    Args:
      features: float `(neurons, features)`, finite. A single feature varies in no neuron.

    Returns:
      int `(dead,)`, ascending.

    Raises:
      ValueError: for features of another shape or not finite.

    Example:
      >>> dead_filters([[0.0, 0.0], [1.0, 2.0], [0.1, 0.1]]).tolist()
      [0, 2]
    """
    return np.flatnonzero(~_centred(as_features(features)).any(axis=1))


def _centred(features: np.ndarray) -> np.ndarray:
    """Returns the features less each neuron's mean, and zeros for a neuron where they are equal."""
    centred = features - features.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(centred, axis=1, keepdims=True)
    # What is left of constant features is rounding, not a pattern.
    rounding = _ROUNDING * np.linalg.norm(features, axis=1, keepdims=True)
    return np.where(norms > rounding, centred, 0.0)
