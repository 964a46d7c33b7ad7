"""A method as a value: all that makes a map in training, each part of it optional."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import optax

from lgnn_jax.maps.table import SomTable
from lgnn_jax.maps.windows import check_sigma, check_size
from lgnn_jax.methods import filtering
from lgnn_jax.methods.schedules import constant_sigma, decreasing_sigma
from lgnn_jax.methods.transform import transform

Schedule = Literal["constant", "decreasing"]


@dataclass(frozen=True)
class Filter:
    """A low-pass filter of the gradients over the map: Algorithm 1 of the paper.

    Attributes:
      sigma: width in map units, at least 0; in the first epoch, if it decreases.
      schedule: "constant", or "decreasing" to 0 with the epochs (equation 4).
      kernel_size: side of the window on a grid, odd; None for the whole map.
      padding: what lies beyond a grid's edge.
      form: how the filter is computed.
      floor: share of the gradient that passes unfiltered, in [0, 1].

    Raises:
      ValueError: if an attribute is out of its range.
    """

    sigma: float = 0.5
    schedule: Schedule = "constant"
    kernel_size: int | None = 3
    padding: filtering.Padding = "replicate"
    form: filtering.Form = "auto"
    floor: float = 0.0

    def __post_init__(self):
        """Checks what the attributes promise."""
        check_sigma(self.sigma)
        if self.kernel_size is not None:
            check_size(self.kernel_size)
        filtering.check_choice("schedule", self.schedule, Schedule)
        filtering.check_choice("padding", self.padding, filtering.Padding)
        filtering.check_choice("form", self.form, filtering.Form)
        filtering.check_floor(self.floor)

    def width(self, *, steps_per_epoch: int, epochs: int) -> optax.Schedule:
        """Returns sigma by step."""
        if self.schedule == "decreasing":
            return decreasing_sigma(self.sigma, steps_per_epoch=steps_per_epoch, epochs=epochs)
        return constant_sigma(self.sigma)


@dataclass(frozen=True)
class Method:
    """What makes a map in training; without any part nothing does.

    Attributes:
      filter: of the gradients.
      own: of a table, returns a transformation of one's own, which comes after the filter.

    Example:
      >>> Method(Filter(sigma=1.0, kernel_size=5)).filter.padding, Method().filter
      ('replicate', None)
    """

    filter: Filter | None = None
    own: Callable[[SomTable], optax.GradientTransformation] | None = None

    def transformations(
        self, table: SomTable, *, steps_per_epoch: int, epochs: int
    ) -> list[optax.GradientTransformation]:
        """Returns what comes first in an optax chain, before weight decay and momentum.

        Args:
          table: see `lgnn_jax.transform`.
          steps_per_epoch: updates in an epoch, at least 1.
          epochs: of the whole run, at least 1.
        """
        found = []
        if self.filter is not None:
            sigma = self.filter.width(steps_per_epoch=steps_per_epoch, epochs=epochs)
            low_pass = transform(
                table,
                sigma=sigma,
                kernel_size=self.filter.kernel_size,
                padding=self.filter.padding,
                method=self.filter.form,
                floor=self.filter.floor,
            )
            found.append(low_pass)
        if self.own is not None:
            found.append(self.own(table))
        return found


# Those of the paper; section IV-A.
NAMED = {
    "baseline": Method(),
    "constant": Method(Filter()),
    "decreasing": Method(Filter(schedule="decreasing")),
}
