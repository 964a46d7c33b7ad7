"""What a map is: places for the neurons of a layer, and how far they lie apart.

The unit of length is the distance of neighbours. A new shape is a frozen dataclass in a file of its
own that says where its places are; what statistics, filters and figures ask of it follows from
that, unless it knows better.
"""

import abc
import functools
from typing import NamedTuple

import numpy as np

# Distances are sums and roots in various orders: those that differ by less are equal.
_ROUNDING = 9
# Of the weights of a Laplacian. On a sphere of 512 the first eigenvalues, 2 and 6 in theory, are
# 1.99 and 5.91 to 5.92 so, 1.98 and 5.78 with a width of 1; with weights for neighbours alone they
# spread from 1.55 to 2.04 and from 4.99 to 6.37.
_WIDTH = 0.6
# The outline of a place: its sides are above, to the right, below and to the left.
SQUARE = np.array([[-0.5, -0.5], [-0.5, 0.5], [0.5, 0.5], [0.5, -0.5]])


class Layout(NamedTuple):
    """A map on paper.

    Attributes:
      centres: float64 `(places, 2)`: down and to the right, in map units.
      outline: float64 `(corners, 2)`: of each place, around its centre.
      beyond: int `(places, corners)`: the place on the other side of each side of the outline, from
        a corner to the next; -1 at the map's edge. It may lie elsewhere on paper, where the map is
        cut open, and be the place itself, where the surface comes back to it or has no edge.
    """

    centres: np.ndarray
    outline: np.ndarray
    beyond: np.ndarray


class Map(abc.ABC):
    """A shape with places for neurons: neuron `j` of a layer lies at place `j`.

    Subclasses are frozen dataclasses, so that maps can be compared and hashed. They define `count`,
    `positions` and `__str__`; `distances`, where the way from place to place is not the straight
    one; and `layout`, where places do not lie in a plane.
    """

    count: int  # of places, at least 1: a field, a property or a plain attribute

    @property
    @abc.abstractmethod
    def positions(self) -> np.ndarray:
        """Where the places are, float64 `(places, dimensions)`; neighbours lie 1 apart."""

    @abc.abstractmethod
    def __str__(self) -> str:
        """The map in a word or two, as in a figure's title."""

    def distances(self) -> np.ndarray:
        """Returns how far places lie apart, along the surface: float64 `(places, places)`."""
        apart = self.positions[:, None] - self.positions
        return np.sqrt(np.square(apart).sum(axis=-1))

    def edges(self) -> np.ndarray:
        """Returns the pairs of neighbours, int `(edges, 2)`, the smaller number first.

        Two places are neighbours if no third lies in the sphere between them, whose diameter is
        their distance: left and right, above and below on a grid; the six around a hexagon. Looked
        for among the 24 nearest of each place.

        Reference:
          Gabriel and Sokal, "A new statistical approach to geographic variation analysis", 1969.
        """
        squares = np.square(self.distances())
        near = np.argsort(squares, axis=1, kind="stable")[:, 1:25]
        to_near = np.take_along_axis(squares, near, axis=1)
        pairs = []
        for i, others in enumerate(near):
            # From i to a third place, and on to the second. On the sphere itself counts as in it.
            way = to_near[i][:, None] + squares[np.ix_(others, others)]
            np.fill_diagonal(way, np.inf)
            free = way.min(axis=0, initial=np.inf) > to_near[i] * (1 + 1e-9)
            pairs += [(i, j) for j in sorted(others[free].tolist()) if j > i]
        return np.array(pairs, int).reshape(-1, 2)

    def laplacian(self) -> np.ndarray:
        """Returns the Laplacian of the surface at the places, float64 `(places, places)`.

        Symmetric, positive semidefinite, and its rows add up to 0. In map units: what spreads by
        `exp(-t * laplacian)` has the variance `2 t` along each dimension, as long as it is far from
        an edge. The weights are a Gaussian of distance, so that no direction is preferred.

        Reference:
          Belkin and Niyogi, "Laplacian eigenmaps for dimensionality reduction and data
          representation", 2003.
        """
        squares = np.square(self.distances())
        weights = np.exp(-squares / (2 * _WIDTH**2))
        np.fill_diagonal(weights, 0)
        # Places at an edge have fewer around them, and may be most of a map: they do not count.
        spread = np.quantile((weights * squares).sum(axis=1), 0.9) / self.dimensions
        return graph_laplacian(weights * (2 / spread) if spread else weights)

    @property
    def dimensions(self) -> int:
        """Of the surface on which the places lie."""
        return self.positions.shape[1]

    def layout(self) -> Layout:
        """Returns the map on paper. As it is, it serves maps of two dimensions with an edge."""
        # As large as fit, where places lie closer than on a grid.
        across = np.abs(self.positions[:, None] - self.positions).max(axis=-1)
        np.fill_diagonal(across, 1)
        square = SQUARE * min(1.0, across.min())
        steps = SQUARE + np.roll(SQUARE, -1, axis=0)  # to the middle of a side, and as far again
        beside = self.positions[:, None] + steps
        apart = np.abs(beside[:, :, None] - self.positions).max(axis=-1)
        beyond = np.where(apart.min(axis=-1) < 0.1, apart.argmin(axis=-1), -1)
        return Layout(self.positions, square, beyond)


@functools.lru_cache(maxsize=64)
def check_map(map: Map) -> None:
    """Raises ValueError, in one line, for a shape that does not keep what `Map` promises."""

    def require(valid, what, right, got):
        if not valid:
            raise ValueError(f"{type(map).__name__}.{what} must be {right}, got {got}.")

    count = getattr(map, "count", None)
    valid = isinstance(count, (int, np.integer)) and not isinstance(count, bool) and count >= 1
    require(valid, "count", "a whole number, at least 1", repr(count))
    positions = np.asarray(map.positions, dtype=object if map.positions is None else None)
    valid = positions.ndim == 2 and len(positions) == count
    require(valid, "positions", f"an array ({count}, dimensions)", f"shape {positions.shape}")
    finite = np.issubdtype(positions.dtype, np.number) and np.isfinite(positions).all()
    require(finite, "positions", "finite numbers", positions.dtype)
    distances = np.asarray(map.distances())
    valid = distances.shape == (count, count)
    require(valid, "distances()", f"an array ({count}, {count})", f"shape {distances.shape}")
    right = "finite, symmetric, 0 from a place to itself and positive elsewhere"
    valid = np.isfinite(distances).all() and np.allclose(distances, distances.T)
    valid = valid and ((distances > 0) == ~np.eye(count, dtype=bool)).all()
    require(valid, "distances()", right, "others")
    if count > 1:
        nearest_ = np.median(np.where(np.eye(count, dtype=bool), np.inf, distances).min(axis=1))
        right = "in units of the distance of neighbours: about 1 to the nearest place"
        require(0.4 < nearest_ < 2.5, "distances()", right, f"{nearest_:.3g}")


def graph_laplacian(weights: np.ndarray) -> np.ndarray:
    """Returns the Laplacian of a graph with symmetric `weights`, `(places, places)`."""
    return np.diag(weights.sum(axis=1)) - weights


def adjacency(map: Map) -> np.ndarray:
    """Returns 1 for the pairs of neighbours of a map, 0 for others: float64 `(places, places)`."""
    found = np.zeros((map.count, map.count))
    first, second = map.edges().T
    found[first, second] = found[second, first] = 1
    return found


def pairs_within(map: Map, reach: float) -> np.ndarray:
    """Returns the pairs of places at most `reach` apart, int `(pairs, 2)`, the smaller number
    first.

    Args:
      map: any map.
      reach: in map units. On a grid 1 is up, down, left and right, 1.5 all that touch.

    Example:
      >>> from lgnn_jax.maps.grid import grid
      >>> pairs_within(grid(2, 2), 1.5).tolist()
      [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]]
    """
    first, second = np.nonzero(np.triu(map.distances() <= reach + 10**-_ROUNDING, 1))
    return np.stack([first, second], axis=1)


def nearest(map: Map, k: int) -> np.ndarray:
    """Returns the `k` nearest places of each, float64 `(places, places)`.

    1 to those that are among its `k` nearest, 0 to others; those that tie for the last of the `k`
    share what is left in equal parts.

    Args:
      map: any map of more than `k` places.
      k: at least 1.

    Example:
      >>> from lgnn_jax.maps.grid import line
      >>> nearest(line(4), 1).tolist()[1]
      [0.5, 0.0, 0.5, 0.0]
    """
    distances = map.distances().round(_ROUNDING)
    np.fill_diagonal(distances, np.inf)
    last = np.sort(distances, axis=1)[:, k - 1 : k]
    nearer, tied = distances < last, distances == last
    left = k - nearer.sum(axis=1, keepdims=True)
    return nearer + tied * left / tied.sum(axis=1, keepdims=True)


def regions(map: Map, chosen: np.ndarray) -> list[np.ndarray]:
    """Returns the parts into which chosen places fall, each connected by edges.

    Args:
      map: any map.
      chosen: bool `(places,)`.

    Returns:
      int `(size,)` each, ascending; in the order of their first places.

    Example:
      >>> from lgnn_jax.maps.grid import line, ring
      >>> ends = np.array([True, False, False, True])
      >>> [part.tolist() for part in regions(line(4), ends)]
      [[0], [3]]
      >>> [part.tolist() for part in regions(ring(4), ends)]
      [[0, 3]]
    """
    return connected(map.edges(), np.asarray(chosen, bool))


def connected(edges: np.ndarray, chosen: np.ndarray) -> list[np.ndarray]:
    """Returns what `regions` does, of edges that are known."""
    parent = list(range(len(chosen)))

    def root(i):
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for i, j in edges[chosen[edges].all(axis=1)].tolist():
        i, j = sorted((root(i), root(j)))
        parent[j] = i
    parts = {}
    for i in np.flatnonzero(chosen).tolist():
        parts.setdefault(root(i), []).append(i)
    return [np.array(part) for part in parts.values()]
