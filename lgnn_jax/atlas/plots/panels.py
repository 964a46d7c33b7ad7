"""How several maps of a kind share a page: beside each other, or below where they are wide."""

from dataclasses import dataclass

from lgnn_jax.atlas.plots.page import GAP, LEFT
from lgnn_jax.atlas.view import View

_WIDE = 2.0  # times as wide as tall
_STRIP = 8.0  # of these each has a row for itself
_WIDEST = 2.6  # inches for one of several that are wide, at least
_TALLEST = 3.4  # inches
_LEAST = 0.25  # inches of height: the places of a strip are taller than wide
_BETWEEN = 0.65  # inches for the title and the labels of the map below


@dataclass(frozen=True)
class Panels:
    """Maps in rows, row by row.

    Attributes:
      columns: maps in a row.
      rows: of maps.
      width: of each, in inches; so are all that follow.
      height: of each.
      step: from one to the next in its row.
      down: from one row to the next.
    """

    columns: int
    rows: int
    width: float
    height: float
    step: float
    down: float

    @classmethod
    def of(cls, view: View, count: int, *, most: float, least: float, room: float) -> "Panels":
        """Returns where `count` maps lie.

        Args:
          view: of each.
          count: at least 1.
          most: inches of width, of maps that are not wide.
          least: inches from one to the next, apart from the gap.
          room: inches for a row.
        """
        # A grid of two dimensions has all its maps in one row, however wide it is.
        aspect = view.width / view.height
        columns = count
        if view.block is None and aspect > _WIDE:
            columns = 1 if aspect > _STRIP else min(count, max(1, int(room // _WIDEST)))
            most = room
        width = min(most, room / columns - GAP, _TALLEST * view.width / view.height)
        height = width * view.height / view.width
        if view.block is None:
            height = max(height, _LEAST)
        rows = -(-count // columns)
        return cls(columns, rows, width, height, max(width, least) + GAP, height + _BETWEEN)

    @property
    def all_wide(self) -> float:
        """From the left of the first to the right of the last in a row."""
        return (self.columns - 1) * self.step + self.width

    @property
    def all_high(self) -> float:
        """From the top of the first to the bottom of the last."""
        return (self.rows - 1) * self.down + self.height

    def at(self, number: int) -> tuple[float, float]:
        """Returns the left of a map on its page, and its top below that of the first."""
        row, column = divmod(number, self.columns)
        return LEFT + column * self.step, row * self.down

    def line(self, view: View) -> float:
        """Returns the width in points of a line that leaves most of a place to be seen."""
        return min(1.5, 0.2 * 72 * (self.width / view.width))
