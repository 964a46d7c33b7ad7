"""Maps by name, as a config and the command line name them."""

import re

from lgnn_jax.maps.grid import grid, line, ring, som_dimensions
from lgnn_jax.maps.hexagonal import hexagonal
from lgnn_jax.maps.shapes import Map
from lgnn_jax.maps.sphere import sphere
from lgnn_jax.maps.words import did_you_mean
from lgnn_jax.training import own

SHAPES = ("grid", "hexagonal", "line", "ring", "sphere")  # of Som.map
_WITH_SIDES = ("grid", "torus", "hexagonal")
_TEXT = re.compile(r"(?:([a-z]+):)?(\d{1,9}(?:x\d{1,9})*)")


def named_map(name: str, neurons: int, *, wrap: bool = False) -> Map:
    """Returns the map of a layer of so many neurons.

    Args:
      name: one of `SHAPES`, or a Python file that defines `map(neurons)`, which is run. Grids and
        hexagons have the most nearly square sides.
      neurons: at least 1.
      wrap: whether a grid or hexagons wrap around.

    Raises:
      ValueError: if a file, or its function, fails or gives no map; for hexagons that wrap in an
        odd number of rows.

    Example:
      >>> print(named_map("grid", 32), named_map("ring", 32), sep=", ")
      8x4, ring of 32
    """
    if own.is_file(name):
        found = own.call(name, "map", neurons)
        if not isinstance(found, Map):
            raise ValueError(f"{name}: map must return a Map, got {type(found).__name__}.")
        return found
    m, n = som_dimensions(neurons)
    shapes = {
        "grid": lambda: grid(m, n, wrap=wrap),
        "hexagonal": lambda: hexagonal(m, n, wrap=wrap),
        "line": lambda: line(neurons),
        "ring": lambda: ring(neurons),
        "sphere": lambda: sphere(neurons),
    }
    return shapes[name]()


def map_from_text(text: str, neurons: int) -> Map:
    """Returns the map that a word of the command line means, for a layer of so many neurons.

    Args:
      text: one of `SHAPES`, "torus", or a Python file, see `named_map`; or with sides of one's own:
        "40x32" for a grid of 40 rows and 32 columns, "torus:40x32" or "hexagonal:40x32".
      neurons: at least 1.

    Raises:
      ValueError: for another text, sides that do not hold the neurons, and as `named_map`.

    Example:
      >>> print(map_from_text("torus:8x4", 32), map_from_text("sphere", 32), sep=", ")
      8x4 torus, sphere of 32
    """
    if own.is_file(text):
        found = named_map(text, neurons)
    elif text == "torus":
        found = named_map("grid", neurons, wrap=True)
    elif text in SHAPES:
        found = named_map(text, neurons)
    else:
        found = _with_sides(text)
    if found.count != neurons:
        raise ValueError(f"map {found} has {found.count} places for {neurons} neurons.")
    return found


def _with_sides(text: str) -> Map:
    parts = _TEXT.fullmatch(text)
    shape, sides = parts.groups() if parts else ("", "")
    if shape not in (None, *_WITH_SIDES):
        close = did_you_mean(text, [*SHAPES, "torus"])
        raise ValueError(
            f"no map {text!r:.80}{close} A map is ROWSxCOLUMNS, torus:ROWSxCOLUMNS, "
            f"hexagonal:ROWSxCOLUMNS, torus, {', '.join(SHAPES)}, or a Python file."
        )
    sides = [int(side) for side in sides.split("x")]
    if shape != "hexagonal":
        return grid(*sides, wrap=shape == "torus")
    if len(sides) != 2:
        raise ValueError(f"map {text!r:.80}: hexagons have two sides, rows and columns.")
    return hexagonal(*sides)
