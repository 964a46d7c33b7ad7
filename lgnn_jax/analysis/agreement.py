"""Are two maps of the same neurons the same map: how far apart the neurons lie on each."""

from dataclasses import dataclass

import numpy as np

from lgnn_jax.analysis.shuffles import AgainstShuffles, against_shuffles, shuffled_maps
from lgnn_jax.maps.grid import as_map
from lgnn_jax.maps.part import Part
from lgnn_jax.maps.shapes import Map, nearest

NEAREST = 8  # as many as touch a place on a grid
_PAIRS = 20_000  # at most: the correlation of their distances is known to 0.01 then


@dataclass(frozen=True)
class Agreement:
    """How much two maps of the same neurons agree. Beside each number stands that of chance.

    Both compare how far neurons lie apart, not where they lie. So a map that is turned or mirrored
    is the same map, on any shape, and nothing has to be aligned.

    Attributes:
      distances: the correlation, over pairs of neurons, of their distance on one map with their
        distance on the other. 1 for the same map, about 0 by chance. It tells whether the large
        parts of the map lie alike.
      nearest: of the neurons that are nearest to a neuron on one map, the share that is also among
        the nearest on the other. 1 for the same map. It tells whether small parts are the same,
        wherever they lie.
      neighbours: how many nearest neurons are compared: 8, or all others if there are fewer.
    """

    distances: AgainstShuffles
    nearest: AgainstShuffles
    neighbours: int


def agreement(
    places: np.ndarray,
    other: np.ndarray,
    map: Map | tuple[int, int],
    *,
    neurons: np.ndarray | None = None,
    shuffles: int = 200,
    seed: int = 0,
) -> Agreement:
    """Returns how much two maps of the same neurons agree.

    Args:
      places: int `(places,)`, the neuron at each place, such as `settle` returns.
      other: the same of another map.
      map: of as many places, at least two; `(m, n)` for a grid.
      neurons: int, those that are compared, at least two. If None, all.
      shuffles: how many times the neurons of the other map are shuffled, for chance; at least 1.
      seed: of the shuffles, and of the pairs that are looked at where there are more than 20,000.

    Raises:
      ValueError: if `places` or `other` do not fit the map, or there are no two neurons.

    Reference:
      The correlation of distances is that of Mantel, "The detection of disease clustering and a
      generalized regression approach", 1967, and so are the shuffles. The share of nearest
      neighbours is Q_NX of Lee and Verleysen, "Quality assessment of dimensionality reduction:
      rank-based criteria", 2009; neurons that tie for the last places share these.

    Example:
      >>> places = np.random.default_rng(0).permutation(48).reshape(8, 6)
      >>> found = agreement(places.ravel(), places[::-1].ravel(), (8, 6))  # mirrored
      >>> round(found.distances.value, 3), round(found.nearest.value, 3), found.nearest.p < 0.01
      (1.0, 1.0, True)
    """
    map = as_map(map)
    chosen = np.arange(map.count) if neurons is None else np.asarray(neurons)
    inside = chosen.dtype.kind in "iu" and not np.setdiff1d(chosen, np.arange(map.count)).size
    if not inside or chosen.ndim != 1 or len(np.unique(chosen)) < max(2, len(chosen)):
        raise ValueError(
            f"neurons must be two or more of the {map.count} on map {map}, each once, from 0."
        )
    one, two = (_of_neurons(x, map, chosen) for x in (places, other))
    maps = shuffled_maps(len(chosen), one, shuffles, seed)
    k = min(NEAREST, len(chosen) - 1)
    return Agreement(_distances(one, two, maps, seed), _nearest(one, two, maps, k), k)


def _of_neurons(places, map, chosen):
    """The map whose place i is that of neuron `chosen[i]`."""
    places = np.asarray(places)
    if places.dtype.kind not in "iu" or not np.array_equal(np.sort(places), np.arange(map.count)):
        raise ValueError(
            f"places must name each of the {map.count} neurons on map {map} once, from 0."
        )
    return Part(map, tuple(np.argsort(places)[chosen].tolist()))


def _distances(one, two, maps, seed):
    first, second = np.triu_indices(one.count, 1)
    if len(first) > _PAIRS:
        some = np.random.default_rng(seed).choice(len(first), _PAIRS, replace=False)
        first, second = first[some], second[some]
    near, far = one.distances()[first, second], two.distances()
    near = near - near.mean()

    def correlation(j):
        there = far[j[first], j[second]]
        there = there - there.mean()
        norms = np.linalg.norm(near) * np.linalg.norm(there)
        return near @ there / norms if norms > 0 else 0.0

    return against_shuffles(correlation, maps)


def _nearest(one, two, maps, k):
    here, there = nearest(one, k), nearest(two, k)
    first, second = np.nonzero(here)
    parts = here[first, second]
    scale = 1 / (k * one.count)
    return against_shuffles(
        lambda j: np.minimum(parts, there[j[first], j[second]]).sum() * scale, maps
    )
