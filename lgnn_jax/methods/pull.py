"""A loss that draws the activations of neighbours together, and keeps all others apart."""

import numbers
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
    width: jax.typing.ArrayLike = 1.0,
    inhibition: float = 1.0,
) -> jax.Array:
    """Returns how little neighbours on a map answer alike: a term for the loss of a training step.

    For each neuron it rewards the correlation, over the batch, of its activation and the weighted
    mean of its neighbours', and penalises the squared correlation with all neurons: what is near is
    drawn together, and the rest is kept apart. Without the penalty all neurons come to do the same;
    if it is not squared, halves of a map come to do the opposite of each other, and little else.

        mean over neurons i of
            1 - corr(a_i, sum_j K_ij a_j) + inhibition * mean over j != i of corr(a_i, a_j)^2

    `K_ij` is a Gaussian of the distance of i and j on the map, and 0 for i itself.

    It costs a few passes over `(batch, neurons)`, the product with the window, which is one along
    each side of a grid, and one of all neurons or of all samples with each other.

    Args:
      activations: of a layer, `(batch, ..., neurons)`, floating-point; of more than two axes the
        mean over those between is taken. Of the whole batch: correlations are over it, so under a
        mapped axis gather it first, `jax.lax.all_gather(x, axis_name, tiled=True)`.
      places: int `(neurons,)`, the neuron at each place, as of `lgnn_jax.settle` or
        `lgnn_jax.places`. It may be traced.
      map: with one place for each neuron; `(m, n)` for a grid.
      width: of the Gaussian in map units, at least 0.25. It may be traced.
      inhibition: weight of the penalty, at least 0 and finite.

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
    x, places = jnp.asarray(activations), jnp.asarray(places)
    if x.ndim < 2 or not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(
            f"activations must be floating-point (batch, ..., neurons), got {x.dtype} {x.shape}."
        )
    if x.shape[0] < 2:
        raise ValueError(f"activations must be of 2 samples or more, got shape {x.shape}.")
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
    check_inhibition(inhibition)
    # By place and sample from here on: rows are moved at once, and lines of the map are axes.
    x = standardised(means(x)).T[places]
    count, samples = x.shape
    near = _near(x, map, jnp.asarray(width, x.dtype))
    squares = jnp.square(near).sum(axis=1)
    some = squares > _rounding(x.dtype) ** 2  # neighbours that cancel have no direction
    size = jnp.where(some, jax.lax.rsqrt(jnp.where(some, squares, 1)), 0)
    loss = 1 - ((x * near).sum(axis=1) * size).mean()
    if inhibition and count > 1:
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
    scale = jax.lax.stop_gradient(jnp.abs(x).max(axis=0, keepdims=True))
    x = x - x.mean(axis=0, keepdims=True)
    squares = jnp.square(x).sum(axis=0, keepdims=True)
    varies = squares > (_rounding(x.dtype) * scale) ** 2 * len(x)
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


def check_width(width: Any) -> None:
    """Raises ValueError if a width is known, and no number or out of its range."""
    if isinstance(width, jax.core.Tracer):
        return
    try:
        valid = _NARROWEST <= float(width) < np.inf
    except (TypeError, ValueError):
        valid = False
    if not valid:
        raise ValueError(
            f"width must be a number, at least {_NARROWEST}, got {one_line(width):.80}."
        )


def check_inhibition(inhibition: Any) -> None:
    """Raises ValueError if it is no number, or out of its range."""
    if not (isinstance(inhibition, numbers.Real) and 0 <= inhibition < np.inf):
        raise ValueError(
            f"inhibition must be a number, at least 0 and finite, got {one_line(inhibition):.80}."
        )
