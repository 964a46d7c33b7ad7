"""Are neurons that are near on a map alike? Trustworthiness, with ties, which a grid is full of."""

from collections.abc import Sequence

import numpy as np

from lgnn_jax.analysis.filters import as_features, filter_correlations
from lgnn_jax.analysis.shuffles import AgainstShuffles, against_shuffles, shuffled_maps
from lgnn_jax.maps.grid import as_map
from lgnn_jax.maps.shapes import Map, nearest


def trustworthiness(
    features: np.ndarray,
    map: Map | tuple[int, int],
    *,
    neighbours: int | None = None,
    shuffles: int = 200,
    seed: int = 0,
) -> AgainstShuffles:
    """Returns whether neurons that are near on the map are alike: 1 if the nearest are most alike.

    `1 - 2 / (N k (2N - 3k - 1)) * sum_i sum_j max(0, rank(i, j) - k)`, j running over the k neurons
    nearest to i on the map, and rank counting from 1, the neuron that
    correlates most with i. Neurons that tie for the last of the k places share these in equal
    parts, and equal correlations share their ranks: the result is the mean over all ways to break
    the ties, and so depends on no order of the neurons.

    Args:
      features: float `(neurons, features)`, finite.
      map: of at least two neurons; `(m, n)` for a grid.
      neighbours: k, at least 1 and less than half the number of neurons. None for 8, as many as
        touch a neuron on a grid, or the most that is allowed if that is less.
      shuffles: number of random placements of the same neurons on the same map, at least 1.
      seed: of the shuffles.

    Returns:
      From 0 to 1; near 1/2 without order, if k is small against the number of neurons. Two neurons,
      each of which is the other's nearest in any case, allow no k, and have 1.

    Raises:
      ValueError: for features of another shape or not finite, for a map that does not fit them or
        holds a single neuron, for no shuffles, and for `neighbours` out of range.

    Reference:
      Venna and Kaski, "Neighborhood preservation in nonlinear projection methods: an experimental
      study", 2001. Without ties, `sklearn.manifold.trustworthiness` with metric "correlation".

    Example:
      >>> angles = np.radians([0, 10, 31, 60, 100])
      >>> waves = np.cos(angles[:, None] - np.radians([0, 120, 240]))
      >>> round(trustworthiness(waves, (5, 1), neighbours=1).value, 3)
      0.9
    """
    features, map = as_features(features), as_map(map)
    maps = shuffled_maps(len(features), map, shuffles, seed)
    correlations = filter_correlations(features, neuron_axis=0)
    return trustworthiness_of(correlations, map, maps, neighbours)


def trustworthiness_of(
    correlations: np.ndarray,
    map: Map,
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
    places = nearest(map, k)
    first, second = np.nonzero(places)
    parts = places[first, second]
    return against_shuffles(lambda j: 1 - parts @ excess[j[first], j[second]], maps)


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
