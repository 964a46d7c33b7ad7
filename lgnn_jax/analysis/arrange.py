"""The control: filters laid out on a map after training, so that neighbours are alike.

A network that was trained without the filter has no order on its maps, but some order can always be
made by sorting. What training adds is what is beyond that.
"""

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array

from lgnn_jax.som import SomDimensions

# Of neighbourhoods, one after the other. Without them smooth filters on an 8x4 map, shuffled, came
# to 0.85 of their order, with 5 to 0.93, with 20 to all of it; 80 are no better.
_WIDTHS = 20


def arrange(correlations: np.ndarray, dims: SomDimensions) -> np.ndarray:
    """Returns a placement of neurons on a map in which direct neighbours correlate as they can.

    The neurons are embedded in a plane by the two leading principal components of their
    correlations and assigned to the places of the map (a linear sum assignment); assigned again to
    where those like them have come to lie, in a neighbourhood that narrows, as in a self-organising
    map; and then swapped, the best pair each time, until no swap of two neurons raises the mean
    correlation of neighbours. That is a local optimum of a quadratic assignment problem, which is
    hard to solve outright. 512 neurons take some ten seconds.

    Args:
      correlations: symmetric `(neurons, neurons)`, finite, such as `filter_correlations` returns.
      dims: SOM dimensions `(m, n)` with `m * n == neurons`.

    Returns:
      int `(neurons,)`: the neuron that goes to each place, row by row, so that
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
    m, n = dims
    if min(m, n) < 1 or correlations.shape != (m * n, m * n):
        raise ValueError(f"map {(m, n)} does not fit correlations of shape {correlations.shape}.")
    if not np.isfinite(correlations).all():
        raise ValueError("correlations must be finite.")
    if not np.allclose(correlations, correlations.T, rtol=1e-6, atol=0):
        raise ValueError("correlations must be symmetric.")
    correlations = (correlations + correlations.T) / 2
    placed = _narrow(correlations, _embed(correlations, dims), dims)
    np.fill_diagonal(correlations, 0.0)
    return _swap(correlations, placed, _adjacency(dims))


def _embed(correlations, dims):
    """Places neurons by their leading principal components."""
    m, n = dims
    centred = correlations - correlations.mean(axis=0)
    centred -= centred.mean(axis=1, keepdims=True)
    _, vectors = np.linalg.eigh((centred + centred.T) / 2)
    axes = vectors[:, [-1, -2]] if m * n > 1 else np.zeros((1, 2))
    # The longer side of the map takes the leading component; signs are those of the largest entry.
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), [0, 1]])
    if n > m:
        axes = axes[:, ::-1]
    # By rank, so that the neurons spread evenly over the map whatever their distribution.
    ranks = axes.argsort(axis=0, kind="stable").argsort(axis=0, kind="stable") / (m * n)
    rows, columns = np.divmod(np.arange(m * n), n)
    places = np.stack([(rows + 0.5) / m, (columns + 0.5) / n], axis=1)
    scale = np.array([m, n])
    cost = (((places[:, None] - ranks[None]) * scale) ** 2).sum(axis=2)
    return linear_sum_assignment(cost)[1]


def _narrow(correlations, placed, dims):
    """Assigns neurons anew to where those like them lie, in ever narrower neighbourhoods."""
    rows, columns = np.divmod(np.arange(dims[0] * dims[1]), dims[1])
    squared = (rows[:, None] - rows) ** 2 + (columns[:, None] - columns) ** 2
    for width in np.geomspace(max(max(dims) / 2, 0.5), 0.5, _WIDTHS):
        near = np.exp(-squared / (2 * width**2))
        placed = linear_sum_assignment(near @ correlations[placed], maximize=True)[1]
    return placed


def _adjacency(dims):
    """1 for places that touch, up, down, left or right."""
    rows, columns = np.divmod(np.arange(dims[0] * dims[1]), dims[1])
    distance = abs(rows[:, None] - rows) + abs(columns[:, None] - columns)
    return csr_array((distance == 1).astype(np.float64))


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
