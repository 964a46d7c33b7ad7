"""Schedules by epoch: the width of the neighbourhood (equation 4) and the learning rate (section
IV-A).

Each returns an `optax.Schedule`: step -> value, with `epoch = step // steps_per_epoch`, constant
within an epoch. A run of `epochs` epochs has the epochs 0, 1, ..., `epochs - 1`.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import optax

from lgnn_jax.maps import windows


def constant_sigma(sigma: float = 0.5) -> optax.Schedule:
    """Returns the schedule of the paper's "LGNN-Constant": `sigma` at every step.

    Args:
      sigma: width of the neighbourhood in map units, finite, at least 0.

    Raises:
      ValueError: if `sigma` is negative or not finite.

    Example:
      >>> float(constant_sigma(0.5)(1000))
      0.5
    """
    windows.check_sigma(sigma)
    return optax.constant_schedule(sigma)


def decreasing_sigma(sigma: float = 0.5, *, steps_per_epoch: int, epochs: int) -> optax.Schedule:
    """Returns the schedule of the paper's "LGNN-Decreasing": `sigma * (1 - epoch / epochs)`.

    Args:
      sigma: width in the first epoch, in map units, finite, at least 0.
      steps_per_epoch: updates in an epoch, at least 1.
      epochs: epochs of the whole run, at least 1. The last epoch has `sigma / epochs`; from
        `epochs` on the schedule is 0, the identity filter.

    Raises:
      ValueError: if an argument is out of its range.

    Reference:
      Equation (4) of the paper.

    Example:
      >>> schedule = decreasing_sigma(0.5, steps_per_epoch=390, epochs=200)
      >>> [round(float(schedule(step)), 4) for step in (0, 389, 390, 100 * 390, 200 * 390)]
      [0.5, 0.5, 0.4975, 0.25, 0.0]
    """
    windows.check_sigma(sigma)
    _check_at_least_one("steps_per_epoch", steps_per_epoch)
    _check_at_least_one("epochs", epochs)

    def schedule(step):
        epoch = jnp.minimum(jnp.asarray(step) // steps_per_epoch, epochs)
        return sigma * (epochs - epoch).astype(float) / epochs

    return schedule


def annealed_sigma(start: float, end: float, *, steps: int) -> optax.Schedule:
    """Returns the schedule of a self-organising map: `start`, falling geometrically to `end`.

    A neighbourhood as wide as the map lays out its coarse order, a narrow one the details. Widths
    of more than about 1 need the whole map as their window: `kernel_size=None`.

    Args:
      start: width at step 0, in map units, positive.
      end: width from step `steps` on, positive, at most `start`.
      steps: updates that the fall takes, at least 1.

    Raises:
      ValueError: if an argument is out of its range.

    Reference:
      Erwin, Obermayer and Schulten, "Self-organizing maps: ordering, convergence properties and
      energy functions", 1992: a map forms fastest from a neighbourhood as wide as itself, and a
      narrow one may be caught in a twisted state.

    Example:
      >>> schedule = annealed_sigma(4.0, 0.5, steps=300)
      >>> [round(float(schedule(step)), 3) for step in (0, 100, 200, 300, 1000)]
      [4.0, 2.0, 1.0, 0.5, 0.5]
    """
    for name, value in (("start", start), ("end", end)):
        if not 0 < value < float("inf"):
            raise ValueError(f"{name} must be positive and finite, got {value}.")
    if end > start:
        raise ValueError(f"end must be at most start, got {end} and {start}.")
    _check_at_least_one("steps", steps)

    def schedule(step):
        done = jnp.minimum(jnp.asarray(step), steps).astype(float) / steps
        return start * (end / start) ** done

    return schedule


def piecewise_schedule(
    init_value: float, factor: float, epochs: Sequence[int], steps_per_epoch: int
) -> optax.Schedule:
    """Returns a learning rate that is multiplied by `factor` at the start of each epoch in
    `epochs`.

    Args:
      init_value: learning rate of the first epoch, positive.
      factor: multiplier, positive.
      epochs: epochs at whose first step the rate changes, increasing, at least 1.
      steps_per_epoch: updates in an epoch, at least 1.

    Raises:
      ValueError: if an argument is out of its range.

    Reference:
      Section IV-A of the paper: 0.1 times 0.2 at epochs (40, 70, 90) of 100 for VGG-11, at
      (60, 120, 160) of 200 for the other networks.

    Example:
      >>> schedule = piecewise_schedule(0.1, 0.2, epochs=(60, 120, 160), steps_per_epoch=390)
      >>> [round(float(schedule(step)), 6) for step in (0, 60 * 390 - 1, 60 * 390, 199 * 390)]
      [0.1, 0.1, 0.02, 0.0008]
    """
    for name, value in (("init_value", init_value), ("factor", factor)):
        if not 0 < value < float("inf"):
            raise ValueError(f"{name} must be positive and finite, got {value}.")
    _check_at_least_one("steps_per_epoch", steps_per_epoch)
    epochs = tuple(epochs)
    if any(epoch < 1 for epoch in epochs) or list(epochs) != sorted(set(epochs)):
        raise ValueError(f"epochs must be increasing and at least 1, got {epochs}.")
    return optax.piecewise_constant_schedule(
        init_value, {epoch * steps_per_epoch: factor for epoch in epochs}
    )


def _check_at_least_one(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}.")
