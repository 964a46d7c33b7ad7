"""Where neurons lie before they settle: laid out by a few coordinates of what they do."""

import numpy as np

from lgnn_jax.maps.shapes import Map

# Neurons that each is joined to, those most like it. 10 and 30 led to maps that are as good.
_JOINED = 10
_STEPS = 64  # of the search for leading vectors; 200 led to maps that are as good
_ROWS = 2**22  # numbers looked at together, for memory


def spectral(likeness: np.ndarray, dimensions: int) -> np.ndarray:
    """Returns coordinates in which neurons that are alike, directly or by others, lie together.

    The slowest modes of a walk from neuron to neuron, on the graph that joins each to those most
    like it.

    Args:
      likeness: float32 `(neurons, neurons)`, symmetric.
      dimensions: how many coordinates.

    Returns:
      float64 `(neurons, dimensions)`, the slowest first.

    Reference:
      Belkin and Niyogi, "Laplacian eigenmaps for dimensionality reduction and data
      representation", 2003.
    """
    neighbours, begins = _graph(likeness)
    degrees = np.diff(begins, append=len(neighbours))
    scale = 1 / np.sqrt(degrees)
    trivial = np.sqrt(degrees / degrees.sum())  # the mode that is the same everywhere

    def walked(vector):
        vector = scale * np.add.reduceat((scale * vector)[neighbours], begins)
        return vector - trivial * (trivial @ vector)

    return _leading(walked, len(likeness), dimensions) * scale[:, None]


def principal(likeness: np.ndarray, dimensions: int) -> np.ndarray:
    """Returns the leading principal coordinates of the neurons.

    Args and returns as of `spectral`.
    """
    rows = likeness.mean(axis=0, keepdims=True)
    centred = likeness - rows - rows.T + rows.mean()
    np.fill_diagonal(centred, np.diag(centred) + 1)  # of a neuron with itself
    return _leading(lambda vector: centred @ vector, len(likeness), dimensions)


def lay_out(coordinates: np.ndarray, map: Map, places: np.ndarray) -> np.ndarray:
    """Returns which neuron goes to each of some places: they keep their order, side by side.

    Places are cut in two across their longest side, and the neurons in as many by the coordinate
    that belongs to it; and so on with both halves.

    Args:
      coordinates: `(neurons, dimensions)`, one for each of the map's; the leading one belongs to
        its longest side.
      map: any map.
      places: int `(neurons,)`: those to be taken.

    Returns:
      int `(neurons,)`, in the order of `places`.

    Example:
      >>> from lgnn_jax.maps.grid import grid
      >>> shuffled = np.array([2, 5, 0, 4, 1, 3])  # the place that suits each neuron
      >>> suits = np.stack(np.divmod(shuffled, 2), axis=1)
      >>> lay_out(suits, grid(3, 2), np.arange(6)).tolist()
      [2, 4, 0, 5, 3, 1]
    """
    positions = map.positions[places]
    longest_first = np.argsort(-np.ptp(positions, axis=0), kind="stable")
    suits = np.empty_like(coordinates)
    suits[:, longest_first] = coordinates
    found = np.empty(len(places), int)
    parts = [(np.arange(len(places)), np.arange(len(places)))]
    while parts:
        where, neurons = parts.pop()
        if len(where) == 1:
            found[where] = neurons
            continue
        axis = np.ptp(positions[where], axis=0).argmax()
        where = where[positions[where, axis].argsort(kind="stable")]
        neurons = neurons[suits[neurons, axis].argsort(kind="stable")]
        # Between two rows, not within one.
        cuts = np.flatnonzero(np.diff(positions[where, axis]) > 1e-9) + 1
        half = len(where) // 2
        half = cuts[np.abs(cuts - half).argmin()] if len(cuts) else half
        parts += [(where[:half], neurons[:half]), (where[half:], neurons[half:])]
    return found


def _graph(likeness):
    """Joins each neuron to those most like it, and these to it.

    Returns the neurons that each is joined to, one after the other, and where those of each begin.
    Two that chose each other are joined twice.
    """
    count = len(likeness)
    joined = min(_JOINED, count - 1)
    step = max(1, _ROWS // count)
    near = np.empty((count, joined), int)
    for start in range(0, count, step):
        part = -likeness[start : start + step]
        part[np.arange(len(part)), np.arange(start, start + len(part))] = np.inf  # itself
        near[start : start + step] = np.argpartition(part, joined - 1, axis=1)[:, :joined]
    ones, others = np.repeat(np.arange(count), joined), near.ravel()
    first, second = np.concatenate([[ones, others], [others, ones]], axis=1)
    order = first.argsort(kind="stable")
    return second[order], np.searchsorted(first[order], np.arange(count))


def _leading(multiplied, count, dimensions):
    """The eigenvectors of a symmetric matrix with the largest eigenvalues, as far as a start needs.

    By the method of Lanczos, from a fixed vector: `multiplied` says what the matrix makes of one.
    """
    vector = multiplied(np.random.default_rng(0).normal(size=count))
    basis, products = np.empty((0, count)), np.empty((0, count))
    while len(basis) < min(_STEPS, count):
        for _ in range(2):  # once leaves some rounding, and that grows
            vector = vector - (basis @ vector) @ basis
        length = np.linalg.norm(vector)
        if length < 1e-9:
            break  # all that the matrix makes of the first vector is found
        basis = np.vstack([basis, vector / length])
        vector = multiplied(basis[-1])
        products = np.vstack([products, vector])
    small = basis @ products.T
    _, mixed = np.linalg.eigh((small + small.T) / 2)
    leading = mixed[:, ::-1][:, :dimensions].T @ basis
    found = np.zeros((count, dimensions))
    found[:, : len(leading)] = leading.T
    # Signs are those of the largest entries, so that a start depends on nothing else.
    largest = np.abs(found).argmax(axis=0)
    return found * np.where(found[largest, range(dimensions)] < 0, -1, 1)
