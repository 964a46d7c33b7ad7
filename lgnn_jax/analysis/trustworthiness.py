"""Are neurons that are near on a map alike? Trustworthiness, with ties, which a grid is full of."""

from collections.abc import Sequence

import numpy as np

from lgnn_jax.analysis.filters import as_features, filter_correlations
from lgnn_jax.analysis.shuffles import AgainstShuffles, against_shuffles, shuffled_maps
from lgnn_jax.som import SomDimensions


def trustworthiness(
    features: np.ndarray,
    dims: SomDimensions,
    *,
    neighbours: int | None = None,
    shuffles: int = 200,
    seed: int = 0,
) -> AgainstShuffles:
    """Returns whether neurons that are near on the map are alike: 1 if the nearest are most alike.

    `1 - 2 / (N k (2N - 3k - 1)) * sum_i sum_j max(0, rank(i, j) - k)`, j running over the k neurons
    nearest to i on the map (Euclidean distance), and rank counting from 1, the neuron that
    correlates most with i. Neurons that tie for the last of the k places share these in equal
    parts, and equal correlations share their ranks: the figure is the mean over all ways to break
    the ties, and so depends on no order of the neurons.

    Args:
      features: float `(neurons, features)`, finite.
      dims: SOM dimensions `(m, n)`, at least two neurons.
      neighbours: k, at least 1 and less than half the number of neurons. None for 8, as many as
        touch a neuron, or the most that is allowed if that is less.
      shuffles: number of random placements of the same neurons on the same map, at least 1.
      seed: of the shuffles.

    Returns:
      From 0 to 1; near 1/2 without order, if k is small against the number of neurons. Two neurons,
      each of which is the other's nearest in any case, allow no k, and have 1.

    Raises:
      ValueError: for features of another shape or not finite, for `dims` that do not fit them or
        hold a single neuron, for no shuffles, and for `neighbours` out of range.

    Reference:
      Venna and Kaski, "Neighborhood preservation in nonlinear projection methods: an experimental
      study", 2001. Without ties, `sklearn.manifold.trustworthiness` with metric "correlation".

    Example:
      >>> angles = np.radians([0, 10, 31, 60, 100])
      >>> waves = np.cos(angles[:, None] - np.radians([0, 120, 240]))
      >>> round(trustworthiness(waves, (5, 1), neighbours=1).value, 3)
      0.9
    """
    features = as_features(features)
    maps = shuffled_maps(len(features), dims, shuffles, seed)
    correlations = filter_correlations(features, neuron_axis=0)
    return trustworthiness_of(correlations, dims, maps, neighbours)


def trustworthiness_of(
    correlations: np.ndarray,
    dims: SomDimensions,
    maps: Sequence[np.ndarray],
    neighbours: int | None = None,
) -> AgainstShuffles:
    """Returns `trustworthiness`, given the correlations and the shuffled maps."""
    count = len(correlations)
    most = (count - 1) // 2
    k = min(8, most) if neighbours is None else neighbours
    if neighbours is not None and not 1 <= k <= most:
        raise ValueError(
            f"neighbours must be at least 1 and less than half the number of neurons, {count}, got "
            f"{neighbours}."
        )
    if k == 0:
        return AgainstShuffles(1.0, np.ones(len(maps)))
    excess = _excess_ranks(correlations, k) * 2 / (count * k * (2 * count - 3 * k - 1))
    first, second, parts = _nearest(dims, k)
    return against_shuffles(lambda j: 1 - parts @ excess[j[first], j[second]], maps)


def _nearest(dims: SomDimensions, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The k nearest on the map: neurons, their neighbours, and the part of a place these have."""
    rows, columns = np.divmod(np.arange(dims[0] * dims[1]), dims[1])
    # Squares of distances are ints, so ties are exact.
    squares = (rows[:, None] - rows) ** 2 + (columns[:, None] - columns) ** 2
    np.fill_diagonal(squares, squares.max() + 1)
    last = np.sort(squares, axis=1)[:, k - 1 : k]
    nearer, tied = squares < last, squares == last
    left = k - nearer.sum(axis=1, keepdims=True)
    parts = nearer + tied * left / tied.sum(axis=1, keepdims=True)
    first, second = np.nonzero(parts)
    return first, second, parts[first, second]


def _excess_ranks(correlations: np.ndarray, k: int) -> np.ndarray:
    """By how much the rank of neuron j among those that correlate with i exceeds k, `(i, j)`."""
    distances = -correlations.round(12)  # equal neurons differ by rounding
    np.fill_diagonal(distances, -np.inf)  # a neuron is its own number 0
    # Not scipy.stats.rankdata: half a second to import, for a table at the end of a run.
    rows = list(zip(np.sort(distances, axis=1), distances, strict=True))
    least = np.array([np.searchsorted(ordered, row, "left") for ordered, row in rows])
    most = np.array([np.searchsorted(ordered, row, "right") for ordered, row in rows]) - 1

    def total(rank):
        """Sum of the excesses of the ranks from 1 to `rank`."""
        excess = np.maximum(0, rank - k)
        return excess * (excess + 1) / 2

    return (total(most) - total(least - 1)) / (most - least + 1)
