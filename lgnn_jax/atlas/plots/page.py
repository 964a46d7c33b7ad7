"""Pages, on which parts lie where they are told to; and the files that hold them."""

import io
import textwrap
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lgnn_jax.training.files import replace_bytes

SUFFIXES = (".png", ".svg")
PAGE = 7.0  # inches
OUTLINES = ("#D55E00", "#009E73", "#0072B2", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LEFT, GAP = 0.5, 0.4  # inches before the first map, and between two
styled = matplotlib.rc_context({"font.size": 8, "axes.titlesize": 8, "figure.titlesize": 9})


def save(figure: Figure, path: Path) -> list[Path]:
    """Writes a figure as `path` with .png (200 dots an inch) and .svg; returns both paths.

    Raises:
      OSError: if a file cannot be written; what was there before is as it was.
    """
    paths = [path.with_name(path.name + suffix) for suffix in SUFFIXES]
    path.parent.mkdir(parents=True, exist_ok=True)
    options = ({"format": "png", "dpi": 200}, {"format": "svg", "metadata": {"Date": None}})
    with matplotlib.rc_context({"svg.hashsalt": "lgnn_jax"}):  # the same file for the same figure
        for path, option in zip(paths, options, strict=True):
            content = io.BytesIO()
            figure.savefig(content, bbox_inches="tight", **option)
            replace_bytes(path, content.getvalue())
    return paths


@dataclass(frozen=True)
class Page:
    """A figure whose parts lie where they are told to, in inches from the left and the title.

    Maps have a fixed aspect: matplotlib's layouts leave bands around them, and its colour bars are
    of another height.
    """

    figure: Figure
    width: float
    height: float
    head: float

    @classmethod
    def of(cls, width: float, height: float, title: str) -> "Page":
        """Returns an empty page of so many inches below its title."""
        head = 0.2 * (title.count("\n") + 1)
        figure = Figure(figsize=(width, height + head))
        figure.suptitle(plain(title), y=1, va="top")
        return cls(figure, width, height + head, head)

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        """Returns new axes."""
        bottom = self.height - self.head - top - height
        x, y = self.width, self.height
        return self.figure.add_axes((left / x, bottom / y, width / x, height / y))

    def bar(self, left: float, top: float, height: float) -> Axes:
        """Returns axes for a colour bar beside a map that ends at `left`."""
        return self.axes(left + 0.12, top, 0.1, height)

    def text(self, left: float, top: float, text: str) -> None:
        """Writes a line in bold."""
        x, y = left / self.width, 1 - (self.head + top) / self.height
        self.figure.text(x, y, plain(text), weight="bold", va="bottom")


def plain_figure(width: float, height: float, title: str) -> Figure:
    """Returns an empty figure of so many inches whose parts matplotlib places."""
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(plain(title))
    return figure


def plain(text: str) -> str:
    """Returns a text with no formulas in it."""
    return text.replace("$", r"\$")


def folded(text: str, width: float) -> str:
    """Returns a text in lines of so many inches."""
    lines = textwrap.wrap(text.replace("/", "/ "), max(4, int(width / 0.07)))  # paths as well
    return plain("\n".join(lines).replace("/ ", "/"))


def label_of(name: str) -> str:
    """Returns a name for a legend; matplotlib leaves out those that begin with an underscore."""
    return " " * name.startswith("_") + folded(name, 2)


def colours(count: int) -> list[str]:
    """Returns colours of outlines, over again where there are not enough."""
    return [OUTLINES[i % len(OUTLINES)] for i in range(count)]
