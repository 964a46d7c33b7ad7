"""Figure 2 of the paper: which filters of a layer are like a chosen one, and where they lie."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lgnn_jax.analysis.filters import filter_correlations
from lgnn_jax.som import SomDimensions

Position = tuple[int, int]  # row, column; from 0


class CorrelationMaps(NamedTuple):
    """Rows of a layer's Gram matrix, laid out on its map.

    Attributes:
      positions: of the filters whose rows they are.
      maps: float64 `(positions, m, n)`, correlations; 0 at the filter itself, as in the paper.
      threshold: the correlation from which a filter counts as like another.
      neighbours: for each position, those of its (up to eight) neighbours that reach the threshold
        with a correlation above 0.
      alive: for each position, whether its weights vary: those that are all equal correlate with
        none, see `lgnn_jax.analysis.filters.dead_filters`.
    """

    positions: tuple[Position, ...]
    maps: np.ndarray
    threshold: float
    neighbours: tuple[tuple[Position, ...], ...]
    alive: tuple[bool, ...]


def correlation_maps(
    kernel: np.ndarray,
    dims: SomDimensions,
    positions: Sequence[Position] = ((1, 1), (1, 3), (1, 5)),
    *,
    neuron_axis: int = -1,
    share: float = 0.05,
) -> CorrelationMaps:
    """Returns how a layer's filters correlate with chosen ones, on the map.

    Args:
      kernel: weights `(..., c_out)`, finite.
      dims: SOM dimensions `(m, n)` with `m * n == c_out`, at least two neurons.
      positions: rows and columns of the chosen filters, counted from 0. With the paper's [1, 1]
        counted so, the filter has four direct neighbours, as its figure shows.
      neuron_axis: the axis that counts the filters.
      share: the threshold is the correlation that this share of all pairs of filters exceeds, in
        (0, 1).

    Raises:
      ValueError: if `dims` does not fit, a position is not on the map, or `share` is out of range.

    Reference:
      Section IV-C and Figure 2 of the paper, which does not say from where "correlated" counts.

    Example:
      >>> kernel = np.random.default_rng(0).normal(size=(9, 8))
      >>> kernel[:, 1] = kernel[:, 0]
      >>> found = correlation_maps(kernel, (4, 2), [(0, 0)], share=0.05)
      >>> found.maps[0, 0].round(3).tolist(), found.neighbours
      ([0.0, 1.0], (((0, 1),),))
    """
    m, n = dims
    correlations = filter_correlations(kernel, neuron_axis=neuron_axis)
    if m * n != len(correlations) or m * n < 2:
        raise ValueError(f"map {(m, n)} does not fit {len(correlations)} filters, two or more.")
    if not 0 < share < 1:
        raise ValueError(f"share must be in (0, 1), got {share}.")
    for row, column in positions:
        if not (0 <= row < m and 0 <= column < n):
            raise ValueError(f"position {[row, column]} is not on the {m}x{n} map, from [0, 0].")
    pairs = correlations[np.triu_indices(m * n, k=1)]
    threshold = float(np.quantile(pairs, 1 - share))
    alive = correlations.diagonal() > 0  # a dead filter does not correlate with itself
    alive = tuple(bool(alive[row * n + column]) for row, column in positions)
    np.fill_diagonal(correlations, 0.0)
    maps = np.stack([correlations[row * n + column].reshape(m, n) for row, column in positions])
    neighbours = tuple(
        tuple(p for p in _around(position, dims) if found[p] >= threshold and found[p] > 0)
        for position, found in zip(positions, maps, strict=True)
    )
    return CorrelationMaps(tuple(map(tuple, positions)), maps, threshold, neighbours, alive)


def _around(position: Position, dims: SomDimensions) -> list[Position]:
    row, column = position
    places = [(row + i, column + j) for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0)]
    return [(i, j) for i, j in places if 0 <= i < dims[0] and 0 <= j < dims[1]]
