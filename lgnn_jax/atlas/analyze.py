"""Trained runs made visible: the paper's figures, and numbers of their maps beside their nulls.

An analysis is three steps, which can be taken apart: `lgnn_jax.atlas.measure` (runs to numbers and
arrays), `lgnn_jax.atlas.draw` (these to figures) and `lgnn_jax.atlas.bundle` (all to files, and
back).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lgnn_jax.atlas import bundle
from lgnn_jax.atlas.bundle import FOLDER, NUMBERS
from lgnn_jax.atlas.draw import draw
from lgnn_jax.atlas.measure import Progress, Request, measure, scope
from lgnn_jax.training import data
from lgnn_jax.training.trained import Trained

__all__ = ["FOLDER", "NUMBERS", "Progress", "Request", "analyze"]


def analyze(
    trained: Sequence[Trained],
    dataset: data.Dataset,
    out: Path,
    request: Request,
    *,
    progress: Progress,
) -> dict[str, Any]:
    """Writes analysis.json and analysis.npz into a folder, and figures into `out / "figures"`.

    Args:
      trained: see `lgnn_jax.training.trained.load`.
      dataset: their images; the test images are used.
      out: a folder.
      request: what to look at.
      progress: called with a stage in words, how much of it is done, and of how much.

    Returns:
      What analysis.json holds.

    Raises:
      RunError: for a layer or a class that does not exist, for maps of one layer that differ from
        run to run, activations that are not finite, and a folder that cannot be written to.
    """
    scope(trained, dataset, request)  # what cannot be done is said before a folder is made
    bundle.check_writable(out)
    measured = measure(trained, dataset, request, progress=progress)
    return bundle.write(out, measured, draw(measured))
