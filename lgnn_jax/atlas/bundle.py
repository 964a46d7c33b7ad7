"""The files of an analysis: analysis.json with its numbers, analysis.npz with its arrays, figures.

What was measured can be read back, and drawn again without the runs and their images.
"""

import dataclasses
import hashlib
import io
import json
import re
import tempfile
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from lgnn_jax.atlas import plots
from lgnn_jax.atlas.draw import SAFE
from lgnn_jax.atlas.measured import Measured
from lgnn_jax.maps.shapes import Map
from lgnn_jax.training.errors import RunError
from lgnn_jax.training.files import replace_bytes, replace_text

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
    document = {**measured.numbers, "figures": list(drawn)}
    earlier = _figures_before(out)
    try:
        for name, figure in drawn.items():
            plots.save(figure, out / FOLDER / name)
        for name in earlier - set(drawn):
            for suffix in plots.SUFFIXES:
                (out / FOLDER / (name + suffix)).unlink(missing_ok=True)
        replace_bytes(out / ARRAYS, _packed(measured))
        replace_text(out / NUMBERS, json.dumps(document, indent=1, allow_nan=False) + "\n")
    except OSError as error:
        where = str(error.filename or out).removesuffix(".tmp")
        raise RunError(f"cannot write to {where}: {error.strerror}.") from error
    return document


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
    """Raises RunError unless files can be made in the folder and in that of its figures."""
    for folder in (out, out / FOLDER):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise RunError(f"cannot write to {folder}: {error.strerror}.") from error
    for path in (out / NUMBERS, out / ARRAYS):
        if path.is_dir():
            raise RunError(f"cannot write to {path}: it is a folder.")


def _figures_before(out: Path) -> set[str]:
    """The names of the figures that the analysis.json in a folder says that there are."""
    try:
        names = json.loads((out / NUMBERS).read_text())["figures"]
        return {name for name in names if re.fullmatch(rf"[{SAFE}]+", name)}
    except (OSError, ValueError, KeyError, TypeError):
        return set()  # there is none, or it is something else


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
