"""A loss that draws the activations of neighbours together, and keeps all others apart."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lgnn_jax.maps.grid import as_map
from lgnn_jax.maps.shapes import Map
from lgnn_jax.maps.swaps import squared_distances
from lgnn_jax.maps.windows import one_line

_NARROWEST = 0.25  # map units; next neighbours weigh 3e-4 of a neuron itself then


def pull(
    activations: jax.Array,
    places: jax.typing.ArrayLike,
    map: Map | tuple[int, int],
    width: jax.typing.ArrayLike = 2.0,
    inhibition: jax.typing.ArrayLike = 1.0,
) -> jax.Array:
    """Returns how little neighbours on a map answer alike: a term for the loss of a training step.

    For each neuron it rewards the correlation, over the batch, of its activation and the weighted
    mean of its neighbours', and penalises the squared correlation with all neurons: what is near is
    drawn together, and the rest is kept apart. Without the penalty all neurons come to do the same;
    if it is not squared, halves of a map come to do the opposite of each other, and little else.

        mean over neurons i of
            1 - corr(a_i, sum_j K_ij a_j) + inhibition * mean over j != i of corr(a_i, a_j)^2

    `a_i` is the activation of neuron i, less its mean over the batch and divided by its deviation.
    `K_ij` is a Gaussian of the distance of i and j on the map, and 0 for i itself.

    The mean over all layers, each by its number of neurons, weighed by 0.5 in the loss, gave clear
    maps in our runs, and cost 0.6 points of accuracy.

    It costs a few passes over `(batch, neurons)`, the product with the window, which is one along
    each side of a grid, and one of all neurons or of all samples with each other.

    Args:
      activations: of a layer, before or after its nonlinearity, `(batch, ..., neurons)`,
        floating-point; of more than two axes the mean over those between is taken. Of the whole
        batch: correlations are over it, so under a mapped axis gather it first,
        `jax.lax.all_gather(x, axis_name, tiled=True)`.
      places: int `(neurons,)`, the neuron at each place, as of `lgnn_jax.settle` or
        `lgnn_jax.places`. It may be traced.
      map: with one place for each neuron; `(m, n)` for a grid.
      width: of the Gaussian in map units, at least 0.25. It may be traced.
      inhibition: weight of the penalty, at least 0. It may be traced.

    Returns:
      float32 (float64 for float64) `()`, in [0, 2 + inhibition]; about 1
      where neurons have nothing in common. A neuron that is constant over the batch counts as one
      that correlates with none, and has no gradient.

    Raises:
      ValueError: for shapes that do not fit, fewer than 2 samples, places that are known and no
        permutation, or a width or inhibition out of its range.

    Reference:
      Attraction of what is near and inhibition of what is far is how von der Malsburg,
      "Self-organization of orientation sensitive cells in the striate cortex", 1973, has maps form;
      squared correlations keep features apart in Zbontar et al., "Barlow Twins", 2021.

    Example:
      >>> rng = np.random.default_rng(0)
      >>> signal = np.sin(np.linspace(0, 6, 16) + rng.uniform(0, 6, (128, 1)))
      >>> in_order, shuffled = np.arange(16), rng.permutation(16)
      >>> bool(pull(signal, in_order, (16, 1)) < pull(signal, shuffled, (16, 1)))
      True
    """
    map = as_map(map)
    x, places = check_activations("activations", activations), _as_array("places", places)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"activations must be floating-point, got {x.dtype} {x.shape}.")
    if map.count != x.shape[-1] or places.shape != (map.count,):
        raise ValueError(
            f"map {map} has {map.count} places, activations of shape {x.shape} have "
            f"{x.shape[-1]} neurons and places have shape {places.shape}: the numbers must be "
            "equal."
        )
    if not jnp.issubdtype(places.dtype, jnp.integer):
        raise ValueError(f"places must be integers, got {places.dtype}.")
    known = not isinstance(places, jax.core.Tracer)
    if known and not np.array_equal(np.sort(places), np.arange(map.count)):
        raise ValueError(
            f"places must name each of {map.count} neurons once, from 0, got "
            f"{one_line(np.asarray(places)):.80}."
        )
    check_width(width)
    check_number("inhibition", inhibition, 0)
    # By place and sample from here on: rows are moved at once, and lines of the map are axes.
    x = standardised(means(x)).T[places]
    count, samples = x.shape
    near = _near(x, map, jnp.asarray(width, x.dtype))
    squares = jnp.square(near).sum(axis=1)
    some = squares > _rounding(x.dtype) ** 2  # neighbours that cancel have no direction
    size = jnp.where(some, jax.lax.rsqrt(jnp.where(some, squares, 1)), 0)
    loss = 1 - ((x * near).sum(axis=1) * size).mean()
    inhibits = isinstance(inhibition, jax.core.Tracer) or inhibition > 0
    if inhibits and count > 1:
        # Of all pairs, less each neuron with itself. x x' and x' x have equal sums of squares.
        first, last = (x, x.T) if count < samples else (x.T, x)
        products = jnp.matmul(first, last, precision=jax.lax.Precision.HIGHEST)
        pairs = jnp.square(products).sum() - jnp.square(jnp.square(x).sum(axis=1)).sum()
        loss += inhibition * pairs / (count * (count - 1))
    return loss


def means(x: jax.Array) -> jax.Array:
    """Returns `(batch, neurons)`: means over the axes between, in float32 or float64."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return x.mean(axis=tuple(range(1, x.ndim - 1)))


def standardised(x: jax.Array) -> jax.Array:
    """Returns `(batch, neurons)` less its mean and of norm 1 over the batch, or 0 if constant."""
    # Of magnitude 1 first, so that no square is too small or too large for its type.
    scale = jax.lax.stop_gradient(jnp.abs(x).max(axis=0, keepdims=True))
    x = x / jnp.where(scale == 0, 1, scale)
    x = x - x.mean(axis=0, keepdims=True)
    squares = jnp.square(x).sum(axis=0, keepdims=True)
    varies = squares > _rounding(x.dtype) ** 2 * len(x)
    return x * jnp.where(varies, jax.lax.rsqrt(jnp.where(varies, squares, 1)), 0)


def _rounding(dtype: Any) -> float:
    """What is left of a constant once its mean is gone, relative to what it was."""
    return 8 * float(jnp.finfo(dtype).eps)


def _near(x: jax.Array, map: Map, width: jax.Array) -> jax.Array:
    """The sum over the other neurons, each by its weight: `(places, batch)`."""
    found, left = x, 1
    for squares in squared_distances(map, x.dtype):
        window = jnp.exp(-squares / (2 * width**2))
        lines = found.reshape(left, len(window), -1)
        found = jnp.einsum("lsr,st->ltr", lines, window, precision=jax.lax.Precision.HIGHEST)
        left *= len(window)
    return found.reshape(x.shape) - x


def check_activations(name: str, value: Any) -> jax.Array:
    """Returns them as an array; raises ValueError if they are no `(batch, ..., neurons)`."""
    x = _as_array(name, value)
    if x.ndim < 2 or x.size == 0 or jnp.issubdtype(x.dtype, jnp.complexfloating):
        raise ValueError(
            f"{name} must be real numbers (batch, ..., neurons), got {x.dtype} {x.shape}."
        )
    if len(x) < 2:
        raise ValueError(f"{name} must be of 2 samples or more, got shape {x.shape}.")
    return x


def _as_array(name: str, value: Any) -> jax.Array:
    try:
        return jnp.asarray(value)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be an array, got {one_line(value):.80}.") from None


def check_width(width: Any) -> None:
    """Raises ValueError if it is known, and out of its range."""
    check_number("width", width, _NARROWEST)


def check_number(name: str, value: Any, least: float) -> None:
    """Raises ValueError for what is known and no number of float32, or below the least."""
    array = isinstance(value, (jax.Array, np.ndarray, np.generic))
    valid = value.ndim == 0 if array else isinstance(value, (int, float, np.number))
    if valid and not isinstance(value, jax.core.Tracer):
        valid = least <= value <= float(np.finfo(np.float32).max)
    if not valid:
        raise ValueError(f"{name} must be a number, at least {least}, got {one_line(value):.80}.")
