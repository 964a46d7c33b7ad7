"""The files of an analysis: analysis.json with its numbers, analysis.npz with its arrays, figures.

What was measured can be read back, and drawn again without the runs and their images.
"""

import dataclasses
import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from lgnn_jax.atlas.folder import Folder
from lgnn_jax.atlas.measured import Measured
from lgnn_jax.maps.shapes import Map
from lgnn_jax.training.errors import RunError

FOLDER, NUMBERS, ARRAYS = "figures", "analysis.json", "analysis.npz"
_ABOUT = "about"  # the array that holds what is neither a number nor an array, as JSON
# What reading raises where a file is cut short or holds something else.
_DAMAGED = (
    OSError, EOFError, ValueError, KeyError, TypeError, AttributeError,
    zipfile.BadZipFile, zlib.error,
)  # fmt: skip


def write(out: Path, measured: Measured, drawn: Mapping[str, Figure]) -> dict[str, Any]:
    """Writes all files of an analysis, each whole or not at all.

    Figures that an earlier analysis wrote into the folder, and this one does not have, are removed.

    Args:
      out: a folder; made if there is none.
      measured: what analysis.npz and analysis.json hold.
      drawn: figures by name, see `lgnn_jax.atlas.draw.draw`.

    Returns:
      What analysis.json holds.

    Raises:
      RunError: if a file cannot be written.
    """
    return _folder(out).write(measured.numbers, _packed(measured), drawn)


def load(folder: Path) -> Measured:
    """Returns what an analysis measured, from its folder.

    Raises:
      RunError: if the folder holds no analysis, or not the whole of one.
    """
    try:
        numbers = json.loads((folder / NUMBERS).read_text())
        content = io.BytesIO((folder / ARRAYS).read_bytes())
        with np.load(content, allow_pickle=False) as file:
            arrays = dict(file)
        about = json.loads(str(arrays.pop(_ABOUT)))
        numbers.pop("figures")
        same = about["numbers"] == _digest(numbers)
        maps = {layer: _map(entry) for layer, entry in about["maps"].items()}
    except FileNotFoundError as error:
        raise RunError(f"{folder} holds no analysis: {error.filename} is missing.") from None
    except _DAMAGED as error:
        raise RunError(f"the analysis in {folder} is damaged: {error}.") from None
    if not same:
        raise RunError(f"{NUMBERS} and {ARRAYS} in {folder} are not of the same analysis.")
    return Measured(
        numbers,
        arrays,
        maps,
        class_names=tuple(about["class_names"]),
        looked_at=tuple(about["looked_at"]),
        first_filters=about["first_filters"],
        pictures_of_all=about["pictures_of_all"],
    )


def check_writable(out: Path) -> None:
    """Makes the folder, and raises RunError unless all files can be written there."""
    _folder(out).check()


def _folder(out: Path) -> Folder:
    return Folder(out, NUMBERS, ARRAYS, FOLDER)


def _packed(measured: Measured) -> bytes:
    """The bytes of analysis.npz."""
    about = {
        "numbers": _digest(measured.numbers),
        "maps": {layer: _entry(map) for layer, map in measured.maps.items()},
        "class_names": measured.class_names,
        "looked_at": measured.looked_at,
        "first_filters": measured.first_filters,
        "pictures_of_all": measured.pictures_of_all,
    }
    content = io.BytesIO()
    np.savez_compressed(content, **measured.arrays, **{_ABOUT: np.array(json.dumps(about))})
    return content.getvalue()


def _digest(numbers: Mapping[str, Any]) -> str:
    """What tells that numbers and arrays are of the same analysis."""
    return hashlib.sha256(json.dumps(numbers, sort_keys=True).encode()).hexdigest()


def _entry(map: Map) -> list[Any]:
    """A map for JSON: its shape and the values of its fields."""
    return [_name_of(type(map)), dataclasses.asdict(map)]


def _map(entry: list[Any]) -> Map:
    """The map of an entry; raises RunError for a shape that is not defined in this process."""
    shape, fields = entry
    known = {_name_of(cls): cls for cls in _subclasses(Map)}
    if shape not in known:
        raise RunError(
            f"a map is of the shape {shape}, which is not defined here: import the module that "
            "defines it first."
        )
    fields = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
    return known[shape](**fields)


def _name_of(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _subclasses(cls: type) -> list[type]:
    return [x for below in cls.__subclasses__() for x in (below, *_subclasses(below))]
