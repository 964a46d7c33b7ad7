"""A method as a value: all that makes a map in training, each part of it optional."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import optax

from lgnn_jax.maps.table import SomTable
from lgnn_jax.maps.windows import check_sigma, check_size
from lgnn_jax.methods import filtering
from lgnn_jax.methods.pull import check_number, check_width
from lgnn_jax.methods.schedules import constant_sigma, decreasing_sigma
from lgnn_jax.methods.settling import Settling
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
class Settles:
    """Neurons that find their places while the network trains; see `lgnn_jax.Settling`.

    Attributes:
      every: epochs from one settling to the next, positive.
      until: the share of the run after which neurons stay where they are, in (0, 1].
      sweeps: of each settling.
      start_width: of the first neighbourhood, in map units; None for half of the longest side.
      end_width: of the last one.
      on: what is alike, beside gradients: "activations", "weights", or the share of activations in
        both.
      gradients: their share in what is alike, in [0, 1]; `on` says what the rest is.
    """

    every: float = 1.0
    until: float = 1.0
    sweeps: int = 60
    start_width: float | None = None
    end_width: float = 0.5
    on: Literal["activations", "weights"] | float = "activations"
    gradients: float = 0.65

    def __post_init__(self):
        """Checks what the attributes promise."""
        if not (_is_number(self.every) and 0 < self.every <= 10**6):
            raise ValueError(
                f"every must be positive and at most 1,000,000 epochs, got {self.every!r:.80}."
            )
        if not (_is_number(self.until) and 0 < self.until <= 1):
            raise ValueError(f"until must be in (0, 1], got {self.until!r:.80}.")
        self.by_step(steps_per_epoch=1, epochs=1)  # checks the rest

    def by_step(self, *, steps_per_epoch: int, epochs: int) -> Settling:
        """Returns the same, counted in updates."""
        return Settling(
            max(1, round(self.every * steps_per_epoch)),
            self.sweeps,
            self.start_width,
            self.end_width,
            # Without an end it is the same however long the run is, and so is the program.
            None if self.until == 1 else max(1, round(self.until * epochs * steps_per_epoch)),
            self.on,
            self.gradients,
        )


@dataclass(frozen=True)
class Pull:
    """A loss that draws the activations of neighbours together; see `lgnn_jax.pull`.

    Attributes:
      weight: of the mean over all neurons, beside the cross entropy.
      width: of the neighbourhood in map units, at least 0.25.
      inhibition: how strongly all others are kept apart, at least 0.
    """

    weight: float = 0.5
    width: float = 2.0
    inhibition: float = 1.0

    def __post_init__(self):
        """Checks what the attributes promise."""
        if not (_is_number(self.weight) and 0 <= self.weight < math.inf):
            raise ValueError(f"weight must be finite, at least 0, got {self.weight!r:.80}.")
        check_width(self.width)
        check_number("inhibition", self.inhibition, 0)


@dataclass(frozen=True)
class Method:
    """What makes a map in training; without any part nothing does.

    Attributes:
      filter: of the gradients.
      settles: whether neurons find their places, and how.
      pull: on their activations.
      own: of a table, returns a transformation of one's own, which comes after the filter.

    Example:
      >>> Method(Filter(sigma=1.0, kernel_size=5)).filter.padding, Method().filter
      ('replicate', None)
    """

    filter: Filter | None = None
    settles: Settles | None = None
    pull: Pull | None = None
    own: Callable[[SomTable], optax.GradientTransformation] | None = None

    @property
    def reads_activations(self) -> bool:
        """Whether a training step has to look at what neurons do."""
        if self.pull is not None or self.settles is None:
            return self.pull is not None
        return self.settles.by_step(steps_per_epoch=1, epochs=1).shares[0] > 0

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
        time = {"steps_per_epoch": steps_per_epoch, "epochs": epochs}
        settle = None if self.settles is None else self.settles.by_step(**time)
        if self.filter is not None:
            low_pass = transform(
                table,
                sigma=self.filter.width(**time),
                kernel_size=self.filter.kernel_size,
                padding=self.filter.padding,
                method=self.filter.form,
                floor=self.filter.floor,
                settle=settle,
            )
            found.append(low_pass)
        elif settle is not None:
            found.append(transform(table, sigma=0.0, settle=settle))
        if self.own is not None:
            found.append(self.own(table))
        return found


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


PAPER = ("baseline", "constant", "decreasing")  # section IV-A
NAMED = {
    "baseline": Method(),
    "constant": Method(Filter()),
    "decreasing": Method(Filter(schedule="decreasing")),
    "self_organizing": Method(settles=Settles(), pull=Pull()),
}
