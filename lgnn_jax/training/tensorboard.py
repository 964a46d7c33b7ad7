"""Event files of a run for TensorBoard: its metrics, and the first layer's map as it forms."""

from pathlib import Path
from typing import Any

import numpy as np
from tensorboardX import SummaryWriter

from lgnn_jax.analysis.filters import normalized_filters
from lgnn_jax.maps.grid import as_map
from lgnn_jax.maps.shapes import Map

FOLDER = "tensorboard"
_TILE = 32  # pixels of a filter, at least
_GAP = 2  # pixels between filters, at least
_LINE = 128  # of grey: each filter has a black and a white of its own


class Events:
    """Writes event files beside the metrics of a run."""

    def __init__(self, run_dir: Path, step: int):
        """Begins in `run_dir / "tensorboard"`; TensorBoard drops what is there of later steps."""
        folder = str(Path(run_dir) / FOLDER)
        # A file's name has the second in which it was begun: one of the same second would take its
        # place. TensorBoard reads them in the order of their names.
        self._writer = SummaryWriter(
            folder, purge_step=step + 1 if step else None, filename_suffix=f".{step:010}"
        )

    def scalars(self, record: dict[str, Any]) -> None:
        """Takes a line of metrics.jsonl: its numbers, under the name of its split."""
        for name, value in record.items():
            if name not in ("step", "epoch", "split", "seconds"):
                self._writer.add_scalar(f"{record['split']}/{name}", value, record["step"])
        self._writer.flush()

    def filters(self, kernel: np.ndarray, map: Map, step: int) -> None:
        """Takes the first layer's weights `(height, width, colours, neurons)`, shown as a map."""
        self._writer.add_image("filters", mosaic(kernel, map), step, dataformats="HWC")
        self._writer.flush()

    def close(self) -> None:
        """Ends the files."""
        self._writer.close()


def mosaic(kernel: np.ndarray, map: Map | tuple[int, int]) -> np.ndarray:
    """Returns filters as one picture, each scaled by itself, where they lie on their map.

    Args:
      kernel: weights `(height, width, colours, neurons)`, finite, of one or three colours; of
        others the mean over them is shown.
      map: of as many places; `(m, n)` for a grid.

    Returns:
      uint8 `(rows, columns, 1 or 3)`; grey between filters, two pixels at least.

    Raises:
      ValueError: see `lgnn_jax.analysis.filters.normalized_filters`; and for a map that does not
        fit.

    Example:
      >>> mosaic(np.zeros((3, 3, 3, 8)), (4, 2)).shape
      (138, 68, 3)
    """
    if kernel.shape[2] not in (1, 3):
        kernel = kernel.mean(axis=2, keepdims=True)
    factor = -(-_TILE // max(kernel.shape[:2]))
    tiles = (255 * normalized_filters(kernel)).round().astype(np.uint8)
    tiles = tiles.repeat(factor, axis=1).repeat(factor, axis=2)
    map = as_map(map)
    if map.count != len(tiles):
        raise ValueError(f"map {map} does not fit {len(tiles)} filters.")
    _, height, width, colours = tiles.shape
    corners = _corners(map, (height + _GAP, width + _GAP))
    rows, columns = corners.max(axis=0)
    picture = np.full((rows + height, columns + width, colours), _LINE, np.uint8)
    for (top, left), tile in zip(corners, tiles, strict=True):
        picture[top : top + height, left : left + width] = tile
    return picture


def _corners(map: Map, pitch: tuple[int, int]) -> np.ndarray:
    """Pixels at the top left of each place, int `(places, 2)`; `pitch` down or right is between."""
    centres = map.layout().centres
    apart = np.abs(centres[:, None] - centres).max(axis=-1)
    np.fill_diagonal(apart, 1)  # which is the least of a grid
    corners = (centres - centres.min(axis=0)) * pitch / apart.min()
    return np.ceil(corners - 1e-6).astype(int)
