"""The control: filters laid out on a map after training, so that neighbours are alike.

A network that was trained without the filter has no order on its maps, but some order can always be
made by sorting. What training adds is what is beyond that.
"""

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array

from lgnn_jax.maps.grid import as_map
from lgnn_jax.maps.shapes import Map, adjacency

# Of neighbourhoods, one after the other. Without them smooth filters on an 8x4 map, shuffled, came
# to 0.85 of their order, with 5 to 0.93, with 20 to all of it; 80 are no better.
_WIDTHS = 20


def arrange(correlations: np.ndarray, map: Map | tuple[int, int]) -> np.ndarray:
    """Returns a placement of neurons on a map in which neighbours correlate as they can.

    The neurons are embedded by the leading principal components of their correlations, as many as
    the map's positions have coordinates, and assigned to the places of the map (a linear sum
    assignment); assigned again to where those like them have come to lie, in a neighbourhood that
    narrows, as in a self-organising map; and then swapped, the best pair each time, until no swap
    of two neurons raises the mean correlation of neighbours. That is a local optimum of a quadratic
    assignment problem, which is hard to solve outright. 512 neurons take some ten seconds.

    Args:
      correlations: symmetric `(neurons, neurons)`, finite, such as `filter_correlations` returns.
      map: of as many places; `(m, n)` for a grid.

    Returns:
      int `(neurons,)`: the neuron that goes to each place, so that
      `kernel[..., arrange(...)]` is the arranged layer. The same for the same input.

    Reference:
      The assignments in a narrowing neighbourhood are those of Quadrianto, Song and Smola,
      "Kernelized Sorting", 2009, with the map's neighbourhood as one of the kernels.

    Raises:
      ValueError: if the shapes do not fit, a correlation is not finite, or two of one pair differ.

    Example:
      >>> stripes = np.repeat(np.eye(4), 4, axis=1)  # four kinds of neurons
      >>> shuffled = stripes[:, np.random.default_rng(0).permutation(16)]
      >>> shuffled[:, arrange(np.corrcoef(shuffled.T), (4, 4))].argmax(axis=0).reshape(4, 4)
      array([[3, 3, 2, 2],
             [3, 3, 2, 2],
             [1, 1, 0, 0],
             [1, 1, 0, 0]])
    """
    correlations = np.array(correlations, np.float64)
    map = as_map(map)
    if correlations.shape != (map.count, map.count):
        raise ValueError(f"map {map} does not fit correlations of shape {correlations.shape}.")
    if not np.isfinite(correlations).all():
        raise ValueError("correlations must be finite.")
    if not np.allclose(correlations, correlations.T, rtol=1e-6, atol=0):
        raise ValueError("correlations must be symmetric.")
    correlations = (correlations + correlations.T) / 2
    placed = _narrow(correlations, _embed(correlations, map), map)
    np.fill_diagonal(correlations, 0.0)
    return _swap(correlations, placed, csr_array(adjacency(map)))


def _embed(correlations, map):
    """Places neurons by their leading principal components."""
    count, positions = map.count, map.positions
    centred = correlations - correlations.mean(axis=0)
    centred -= centred.mean(axis=1, keepdims=True)
    _, vectors = np.linalg.eigh((centred + centred.T) / 2)
    coordinates = positions.shape[1]
    axes = np.zeros((count, coordinates))
    axes[:, : min(coordinates, count)] = vectors[:, ::-1][:, :coordinates]
    # Signs are those of the largest entry; the longest side of the map takes the leading component.
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), range(coordinates)])
    low, extent = positions.min(axis=0), np.ptp(positions, axis=0) + 1
    axes = axes[:, np.argsort(np.argsort(-extent, kind="stable"))]
    # By rank, so that the neurons spread evenly over the map whatever their distribution.
    ranks = axes.argsort(axis=0, kind="stable").argsort(axis=0, kind="stable") / count
    places = (positions - low + 0.5) / extent
    cost = (((places[:, None] - ranks[None]) * extent) ** 2).sum(axis=2)
    return linear_sum_assignment(cost)[1]


def _narrow(correlations, placed, map):
    """Assigns neurons anew to where those like them lie, in ever narrower neighbourhoods."""
    squared = np.square(map.distances())
    widest = (np.ptp(map.positions, axis=0).max() + 1) / 2
    for width in np.geomspace(max(widest, 0.5), 0.5, _WIDTHS):
        near = np.exp(-squared / (2 * width**2))
        placed = linear_sum_assignment(near @ correlations[placed], maximize=True)[1]
    return placed


def _swap(correlations, placed, adjacent):
    """Makes the best swap of two neurons as long as one helps."""
    placed = placed.copy()
    between = correlations[placed][:, placed]  # of the neurons at two places
    # What the neuron at the second place would have around it at the first.
    around = adjacent @ between
    enough = 1e-9 * np.abs(between).max()  # less than that is rounding, and may go on for ever
    while True:
        own = np.diag(around)
        # Two that touch would each count the other where it no longer is.
        gain = around + around.T - own[:, None] - own + 2 * adjacent.toarray() * between
        a, b = np.unravel_index(gain.argmax(), gain.shape)
        if gain[a, b] <= enough:
            return placed
        placed[[a, b]] = placed[[b, a]]
        between[[a, b]] = between[[b, a]]
        between[:, [a, b]] = between[:, [b, a]]
        around = adjacent @ between
