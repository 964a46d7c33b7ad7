"""Figure 2 of the paper: which filters of a layer are like a chosen one, and where they lie."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lgnn_jax.analysis.filters import filter_correlations
from lgnn_jax.maps.grid import as_map
from lgnn_jax.maps.shapes import Map, pairs_within


class CorrelationMaps(NamedTuple):
    """Rows of a layer's Gram matrix, to be laid out on its map.

    Attributes:
      places: of the filters whose rows they are.
      values: float64 `(places, neurons)`, correlations; 0 at the filter itself, as in the paper.
      threshold: the correlation from which a filter counts as like another.
      neighbours: for each place, those around it that reach the threshold with a correlation above
        0.
      alive: for each place, whether its weights vary: those that are all equal correlate with none,
        see `lgnn_jax.analysis.filters.dead_filters`.
    """

    places: tuple[int, ...]
    values: np.ndarray
    threshold: float
    neighbours: tuple[tuple[int, ...], ...]
    alive: tuple[bool, ...]


def correlation_maps(
    kernel: np.ndarray,
    map: Map | tuple[int, int],
    places: Sequence[int],
    *,
    neuron_axis: int = -1,
    share: float = 0.05,
    reach: float = 1.5,
) -> CorrelationMaps:
    """Returns how a layer's filters correlate with chosen ones, on the map.

    Args:
      kernel: weights `(..., c_out)`, finite.
      map: of as many places, at least two; `(m, n)` for a grid.
      places: of the chosen filters. The paper's are [1, 1], [1, 3] and [1, 5] on a grid, places
        `n + 1`, `n + 3` and `n + 5`; so, counted from 0, the first has four direct neighbours, as
        its figure shows.
      neuron_axis: the axis that counts the filters.
      share: the threshold is the correlation that this share of all pairs of filters exceeds, in
        (0, 1).
      reach: how near a neighbour is, in map units. 1.5 has the diagonals of a grid too, which the
        paper speaks of.

    Raises:
      ValueError: if the map does not fit, a place is not on it, or `share` is out of range.

    Reference:
      Section IV-C and Figure 2 of the paper, which does not say from where "correlated" counts.

    Example:
      >>> kernel = np.random.default_rng(0).normal(size=(9, 8))
      >>> kernel[:, 1] = kernel[:, 0]
      >>> found = correlation_maps(kernel, (4, 2), [0], share=0.05)
      >>> found.values[0, :2].round(3).tolist(), found.neighbours
      ([0.0, 1.0], ((1,),))
    """
    map = as_map(map)
    correlations = filter_correlations(kernel, neuron_axis=neuron_axis)
    count = len(correlations)
    if map.count != count or count < 2:
        raise ValueError(f"map {map} does not fit {count} filters, two or more.")
    if not 0 < share < 1:
        raise ValueError(f"share must be in (0, 1), got {share}.")
    places = tuple(int(place) for place in places)
    for place in places:
        if not 0 <= place < count:
            raise ValueError(f"place {place} is not on map {map}, from 0 to {count - 1}.")
    pairs = correlations[np.triu_indices(count, k=1)]
    threshold = float(np.quantile(pairs, 1 - share))
    alive = correlations.diagonal() > 0  # a dead filter does not correlate with itself
    np.fill_diagonal(correlations, 0.0)
    values = correlations[list(places)]
    near = pairs_within(map, reach)
    around = [
        np.sort(near[near[:, 1 - side] == place, side]) for place in places for side in (0, 1)
    ]
    neighbours = tuple(
        tuple(p for p in (*before.tolist(), *after.tolist()) if row[p] >= threshold and row[p] > 0)
        for before, after, row in zip(around[::2], around[1::2], values, strict=True)
    )
    return CorrelationMaps(
        places, values, threshold, neighbours, tuple(bool(alive[place]) for place in places)
    )
