"""A folder with figures, and with numbers and arrays in a file each."""

import json
import re
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from lgnn_jax.atlas import plots
from lgnn_jax.training.errors import RunError
from lgnn_jax.training.files import replace_bytes, replace_text

_SAFE = r"\w.+-"  # in names of files


@dataclass(frozen=True)
class Folder:
    """Where they lie.

    Attributes:
      path: of the folder.
      numbers: name of the file in JSON, which also names the figures.
      arrays: name of the file with arrays.
      figures: name of a folder in it with the figures; "" if they lie beside the files.
    """

    path: Path
    numbers: str
    arrays: str
    figures: str = ""

    def check(self) -> None:
        """Makes the folder; raises RunError unless files can be written there."""
        for folder in (self.path, self.path / self.figures):
            try:
                folder.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryFile(dir=folder):
                    pass
            except OSError as error:
                raise RunError(f"cannot write to {folder}: {error.strerror}.") from error
        for name in (self.numbers, self.arrays):
            if (self.path / name).is_dir():
                raise RunError(f"cannot write to {self.path / name}: it is a folder.")

    def write(
        self, numbers: Mapping[str, Any], arrays: bytes, drawn: Mapping[str, Figure]
    ) -> dict[str, Any]:
        """Writes all files, each whole or not at all.

        Figures that were written here before, and are not among those that are drawn, are removed.

        Args:
          numbers: for the file in JSON.
          arrays: the bytes of the file with arrays.
          drawn: figures by name, see `file_names`.

        Returns:
          What the file in JSON holds.

        Raises:
          RunError: if a file cannot be written.
        """
        document = {**numbers, "figures": list(drawn)}
        earlier, figures = self._figures_before(), self.path / self.figures
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            for name, figure in drawn.items():
                plots.save(figure, figures / name)
            for name in earlier - set(drawn):
                for suffix in plots.SUFFIXES:
                    (figures / (name + suffix)).unlink(missing_ok=True)
            replace_bytes(self.path / self.arrays, arrays)
            text = json.dumps(document, indent=1, allow_nan=False) + "\n"
            replace_text(self.path / self.numbers, text)
        except OSError as error:
            where = str(error.filename or self.path).removesuffix(".tmp")
            raise RunError(f"cannot write to {where}: {error.strerror}.") from error
        return document

    def _figures_before(self) -> set[str]:
        """The names of the figures that the file in JSON says that there are."""
        try:
            names = json.loads((self.path / self.numbers).read_text())["figures"]
            return {name for name in names if re.fullmatch(rf"[{_SAFE}]+", name)}
        except (OSError, ValueError, KeyError, TypeError):
            return set()  # there is none, or it is something else


def file_names(names: Iterable[str]) -> list[str]:
    """Returns names that any file system takes, each once, also where case does not count.

    Example:
      >>> file_names(["a/b", "a_b", "A_b"])
      ['a_b', 'a_b_1', 'A_b_2']
    """
    found: dict[str, str] = {}  # by what a file system without cases makes of it
    for name in names:
        short = re.sub(rf"[^{_SAFE}]+", "_", name)
        short = short if len(short) <= 80 else short[:60] + short[-20:]
        while short.casefold() in found:
            short = f"{short}_{len(found)}"
        found[short.casefold()] = short
    return list(found.values())
