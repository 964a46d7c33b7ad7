"""The neurons of a trained network find their places: like beside like, by what they do."""

import warnings
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from lgnn_jax.maps import starts
from lgnn_jax.maps.grid import as_map, grid, som_dimensions
from lgnn_jax.maps.likeness import Likeness, likeness
from lgnn_jax.maps.shapes import Map, check_map
from lgnn_jax.maps.swaps import squared_distances
from lgnn_jax.maps.swaps import sweeps as swap
from lgnn_jax.maps.windows import one_line

# Of the longest side of a map: how wide the first neighbourhood is, by the start.
_FIRST_WIDTHS = {"spectral": 1 / 8, "pca": 1 / 4, "random": 1 / 2}
_NARROWEST = 0.1  # in map units; next neighbours weigh 2e-22 then, which float32 still holds
_FEW = 100  # samples; correlations of unrelated neurons spread by a tenth then
Start = Literal["spectral", "pca", "random"]


def settle(
    features: Any,
    map: Map | tuple[int, int] | None = None,
    *,
    start_width: float | None = None,
    end_width: float = 0.5,
    sweeps: int = 60,
    start: Start | Any = "spectral",
    seed: int = 0,
) -> np.ndarray:
    """Returns the neuron at each place of a map, so that neurons that do similar things touch.

    Nothing is trained, and nothing in the network changes. Features are what a layer's neurons
    answer to images, or to other samples: its activations, from any framework.

    Neurons begin where a few coordinates of their correlations put them. Then they swap places, two
    by two, as long as that brings correlated neurons together, in a neighbourhood that narrows: see
    `lgnn_jax.maps.swaps`. On a network of 1,280 neurons 60 sweeps come as far as 200.

    Args:
      features: `(samples, neurons)`, real numbers of any type, finite; numpy, JAX or what numpy
        takes. At least 2 samples. With n samples, the correlations of unrelated neurons spread by
        1/sqrt(n), and chance correlations shape the map as well: check it on other samples, see
        `lgnn_jax.analysis.settled`.
      map: with one place for each neuron; `(m, n)` for a grid. If None, the most nearly square
        grid, the one that `som_table` gives.
      start_width: of the neighbourhood in the first sweep, in map units; the standard deviation of
        a Gaussian. If None, an eighth of the map's longest side, a quarter for "pca", half of it
        for "random", 1 for places that are given; but never less than `end_width`.
      end_width: in the last sweep, at least 0.1, at most `start_width`; between them the widths
        fall geometrically. 0.5 is for next neighbours.
      sweeps: how many, at least 0.
      start: "spectral", modes of the graph that joins neurons that are alike; "pca", principal
        components; "random"; or places, int `(neurons,)`, to go on from.
      seed: of a random start; other starts do not use it.

    Returns:
      int32 `(places,)`: the neuron at each place; `features[:, places]` is the layer in the map's
      order. Neurons that are constant over the samples correlate with none: they lie at the rim,
      on a closed map at its first places, and a warning counts and names them.

    Raises:
      ValueError: for features of another shape or not finite, fewer than 2 samples, a map that
        does not fit, or an argument out of its range.

    Reference:
      The widths fall as in Kohonen, "Self-organized formation of topologically correct feature
      maps", 1982. To give each neuron a place of its own is a quadratic assignment problem, as in
      Quadrianto, Song and Smola, "Kernelized sorting", 2009.

    Example:
      >>> rng = np.random.default_rng(0)
      >>> angles = rng.permutation(np.linspace(0, np.pi, 64))  # what each of 64 neurons is tuned to
      >>> features = np.cos(rng.uniform(0, np.pi, (500, 1)) - angles)
      >>> places = settle(features, (64, 1))
      >>> turned = np.diff(angles[places])
      >>> bool((turned > 0).all() or (turned < 0).all())  # they lie in order
      True
    """
    features = checked_features(features, "features")
    neurons = features.shape[1]
    map = grid(*som_dimensions(neurons)) if map is None else _fitting(map, neurons)
    if line := few_line(features, "features"):
        warnings.warn(line, stacklevel=2)
    found = likeness(features)
    if found.constant.any():
        warnings.warn(constant_line(found.constant, "features"), stacklevel=2)
    return place(found, map, start_width, end_width, sweeps, start, seed)


def place(
    found: Likeness,
    map: Map,
    start_width: float | None,
    end_width: float,
    sweeps: int,
    start: Start | Any,
    seed: int,
) -> np.ndarray:
    """Returns the neuron at each place of a map with as many, see `settle`."""
    start = _checked_start(start, map.count)
    check_count("seed", seed)
    widths = _widths(map, start_width, end_width, sweeps, start)
    squares = squared_distances(map)
    places = _begin(found, map, squares, start, seed)
    fixed = found.constant[places]
    moved = swap(found.values, jnp.asarray(places, jnp.int32), widths, squares, fixed)
    return np.asarray(moved)


def _begin(found, map, squares, start, seed):
    """Places before the first sweep; constant neurons lie at the rim."""
    rim, inner = _rim(squares, np.count_nonzero(found.constant))
    dead, live = np.flatnonzero(found.constant), np.flatnonzero(~found.constant)
    if not isinstance(start, str):
        # Those that lie elsewhere change places with neurons of the rim.
        places = start.copy()
        off = inner[found.constant[places[inner]]]
        for_them = rim[~found.constant[places[rim]]]
        places[off], places[for_them] = places[for_them], places[off]
        return places
    places = np.empty(map.count, int)
    places[rim] = dead
    if start == "random":
        places[inner] = np.random.default_rng(seed).permutation(live)
    elif len(live) <= 2:
        places[inner] = live
    else:
        values = np.asarray(found.values)
        values = values[np.ix_(live, live)] if len(dead) else values
        embed = starts.spectral if start == "spectral" else starts.principal
        coordinates = embed(values, map.positions.shape[1])
        places[inner] = live[starts.lay_out(coordinates, map, inner)]
    return places


def _rim(squares, count):
    """So many places that are farthest from the others, and the rest."""
    # The mean squared distance of a place is the sum of those along the axes.
    means = np.zeros(())
    for x in squares:
        means = np.add.outer(means, x.mean(axis=1, dtype=np.float64))
    order = np.argsort(-means.ravel().round(6), kind="stable")
    return order[:count], np.sort(order[count:])


def checked_features(features: Any, name: str) -> np.ndarray:
    """Returns features as float32 or float64; raises ValueError in words if they cannot be."""
    try:
        if np.ma.is_masked(features):
            raise ValueError
        found = np.asarray(features)
        if found.dtype.kind not in "fiub" and found.dtype != jnp.bfloat16:
            raise TypeError
        exact = found.dtype.itemsize <= 2 or found.dtype in (np.float32, bool)
        found = found.astype(np.float32 if exact else np.float64)
    except (TypeError, ValueError):
        raise ValueError(
            f"{name} must be real numbers (samples, neurons), none masked, got "
            f"{one_line(features):.80}."
        ) from None
    if found.ndim != 2 or not found.shape[1]:
        raise ValueError(
            f"{name} must have shape (samples, neurons), got {found.shape}"
            + (": take the mean over pixels or tokens first." if found.ndim > 2 else ".")
        )
    if len(found) < 2:
        raise ValueError(
            f"{name} must have 2 samples or more, better hundreds, got {len(found)}: what "
            "neurons have in common shows in how they differ from sample to sample."
        )
    finite = np.isfinite(found)
    if not finite.all():
        sample, neuron = np.argwhere(~finite)[0]
        others = np.count_nonzero(~finite.all(axis=0)) - 1
        raise ValueError(
            f"{name} must be finite: neuron {neuron} has {found[sample, neuron]} on sample "
            f"{sample}" + (f"; so have {others} more of the neurons." if others else ".")
        )
    return found


def _fitting(map, neurons):
    map = as_map(map)
    if not type(map).__module__.startswith("lgnn_jax."):
        check_map(map)
    if map.count != neurons:
        raise ValueError(
            f"map {map} has {map.count} places, and features have {neurons} neurons: the "
            "numbers must be equal."
        )
    return map


def _checked_start(start, neurons):
    """A start by name, or places."""
    if isinstance(start, str):
        if start not in _FIRST_WIDTHS:
            raise ValueError(
                f"start must be one of {', '.join(_FIRST_WIDTHS)}, or places, got {start!r:.80}."
            )
        return start
    try:
        places = np.asarray(start)
    except ValueError:  # lists of several lengths
        places = np.zeros(0)
    valid = places.shape == (neurons,) and places.dtype.kind in "iu"
    if not valid or not np.array_equal(np.sort(places), np.arange(neurons)):
        raise ValueError(
            f"places to start from must name each of {neurons} neurons once, from 0, got "
            f"{one_line(start):.80}."
        )
    return places.astype(int)


def check_count(name: str, value: Any) -> None:
    """Raises ValueError for what is no whole number, or below 0."""
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{name} must be a whole number, at least 0, got {one_line(value):.80}.")


def _widths(map, first, last, sweeps, start):
    check_count("sweeps", sweeps)
    for name, width in (("end_width", last), ("start_width", first)):
        number = isinstance(width, (int, float, np.number)) and not isinstance(width, bool)
        if not (number and _NARROWEST <= width < np.inf) and (name, width) != ("start_width", None):
            raise ValueError(
                f"{name} must be a number, at least {_NARROWEST}, got {one_line(width):.80}."
            )
    if first is None:
        side = np.ptp(map.positions, axis=0).max() + 1
        first = max(last, side * _FIRST_WIDTHS[start] if isinstance(start, str) else 1.0)
    if first < last:
        raise ValueError(
            f"start_width must be at least end_width, as neighbourhoods narrow, got {first} and "
            f"{last}."
        )
    widths = np.geomspace(first, last, max(sweeps, 2))
    return widths[len(widths) - sweeps :].astype(np.float32)  # a single sweep is the last one


def few_line(features: np.ndarray, name: str) -> str:
    """Returns what it means that there are so few samples; "" if there are enough."""
    count = len(features)
    if count >= _FEW:
        return ""
    return (
        f"{name} have {count} samples: correlations of unrelated neurons spread by "
        f"{1 / np.sqrt(count):.2f} then, and part of the order is chance."
    )


def constant_line(constant: np.ndarray, name: str) -> str:
    """Returns how many neurons are constant, and which."""
    neurons = np.flatnonzero(constant)
    some = ", ".join(map(str, neurons[:10])) + (", ..." if len(neurons) > 10 else "")
    are, lie = ("are", "lie") if len(neurons) > 1 else ("is", "lies")
    return (
        f"{name}: {len(neurons)} of {len(constant)} neurons {are} constant over the samples, and "
        f"{lie} at the rim of the map: {some}."
    )
