"""Is there order on a map? Figures of a layer, each beside the same figure for shuffled maps."""

from dataclasses import dataclass

import numpy as np

from lgnn_jax.som import SomDimensions


@dataclass(frozen=True)
class AgainstShuffles:
    """A figure of a map, and the same figure of maps with the neurons shuffled.

    Attributes:
      value: of the map as it is.
      shuffled: float64 `(shuffles,)`.
    """

    value: float
    shuffled: np.ndarray


def filter_correlations(kernel: np.ndarray, *, neuron_axis: int = -1) -> np.ndarray:
    """Returns the correlation of each filter's weights with each other's.

    Args:
      kernel: weights `(..., c_out)`, finite, of any number of dimensions.
      neuron_axis: the axis that counts the neurons.

    Returns:
      float64 `(c_out, c_out)`: Pearson's correlation over the weights of a filter. A filter with
      constant weights has correlation 0 with all filters.

    Reference:
      Section IV-C of the paper: the Gram matrix of the filter weights, as correlations.

    Example:
      >>> filter_correlations(np.array([[1.0, 2.0, 5.0], [2.0, 1.0, 5.0]])).round().tolist()
      [[1.0, -1.0, 0.0], [-1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]
    """
    weights = np.moveaxis(np.asarray(kernel, np.float64), neuron_axis, 0)
    weights = weights.reshape(len(weights), -1)
    centred = weights - weights.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(centred, axis=1, keepdims=True)
    # What is left of constant weights is rounding, not a pattern.
    rounding = 1e-12 * np.linalg.norm(weights, axis=1, keepdims=True)
    unit = np.divide(centred, norms, out=np.zeros_like(centred), where=norms > rounding)
    return unit @ unit.T


def neighbour_pairs(dims: SomDimensions) -> np.ndarray:
    """Returns all pairs of direct (up, down, left, right) neighbours on a map, int `(pairs, 2)`.

    Example:
      >>> neighbour_pairs((2, 2)).tolist()
      [[0, 2], [1, 3], [0, 1], [2, 3]]
    """
    grid = np.arange(dims[0] * dims[1]).reshape(dims)
    vertical = np.stack([grid[:-1].ravel(), grid[1:].ravel()], axis=1)
    horizontal = np.stack([grid[:, :-1].ravel(), grid[:, 1:].ravel()], axis=1)
    return np.concatenate([vertical, horizontal])


def neighbour_correlation(
    kernel: np.ndarray,
    dims: SomDimensions,
    *,
    neuron_axis: int = -1,
    shuffles: int = 200,
    seed: int = 0,
) -> AgainstShuffles:
    """Returns the mean correlation between the weights of direct neighbours on the map.

    Args:
      kernel: weights of a layer, see `filter_correlations`.
      dims: SOM dimensions `(m, n)`, at least two neurons.
      neuron_axis: the axis that counts the neurons.
      shuffles: number of random placements of the same filters on the same map, at least 1.
      seed: of the shuffles.

    Raises:
      ValueError: if `dims` does not fit the kernel or holds a single neuron.

    Example:
      >>> stripes = np.stack([np.eye(4)[j // 4] for j in range(16)], axis=1)
      >>> figure = neighbour_correlation(stripes, (4, 4))
      >>> round(figure.value, 3), bool(figure.value > figure.shuffled.max())
      (0.333, True)
    """
    correlations = filter_correlations(kernel, neuron_axis=neuron_axis)
    pairs = neighbour_pairs(dims)
    if dims[0] * dims[1] != len(correlations) or not len(pairs):
        raise ValueError(
            f"map {tuple(dims)} does not fit {len(correlations)} filters, two or more."
        )
    rng = np.random.default_rng(seed)
    places = [rng.permutation(len(correlations)) for _ in range(shuffles)]
    shuffled = [correlations[place[pairs[:, 0]], place[pairs[:, 1]]].mean() for place in places]
    value = correlations[pairs[:, 0], pairs[:, 1]].mean()
    return AgainstShuffles(float(value), np.array(shuffled))
