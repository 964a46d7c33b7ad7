"""Checkpoints of a run; the only module that knows orbax."""

from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

FOLDER = "checkpoints"
_KEPT = 2  # the newest, and one to fall back on


class Checkpoints:
    """The checkpoints in a run directory, written while training goes on."""

    def __init__(self, run_dir: Path):
        """Opens `run_dir / "checkpoints"`, and makes it if need be."""
        self._manager = ocp.CheckpointManager(
            (Path(run_dir) / FOLDER).resolve(),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=ocp.checkpoint_managers.LatestN(_KEPT)
            ),
        )

    def save(self, step: int, state: Any) -> None:
        """Saves a tree of arrays, the same in all processes, under a step's number.

        Returns before it is on disk. Every process must call it; the first one writes.
        """
        # As numpy arrays: orbax refuses what pmap returns where there are several processes.
        self._manager.save(step, args=ocp.args.StandardSave(jax.device_get(state)))

    def restore(self, target: Any) -> Any:
        """Returns the newest checkpoint, with the structure, shapes and dtypes of `target`."""
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, target)
        step = self._manager.latest_step()
        return self._manager.restore(step, args=ocp.args.StandardRestore(abstract))

    def close(self) -> None:
        """Waits until all is on disk."""
        self._manager.wait_until_finished()
        self._manager.close()


def latest_step(run_dir: Path) -> int | None:
    """Returns the step of the newest checkpoint in a run directory, or None."""
    folder = Path(run_dir) / FOLDER
    return max(ocp.utils.checkpoint_steps(folder), default=None) if folder.is_dir() else None
