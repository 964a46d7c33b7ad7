"""Checkpoints of a run; the only module that knows orbax."""

from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

FOLDER = "checkpoints"
_KEPT = 2


class CheckpointError(Exception):
    """A checkpoint that cannot be written or read; one clear line."""


class Checkpoints:
    """The checkpoints in a run directory, written while training goes on; a context manager."""

    def __init__(self, run_dir: Path):
        """Opens `run_dir / "checkpoints"`, and makes it if need be."""
        self._folder = (Path(run_dir) / FOLDER).resolve()
        self._manager = ocp.CheckpointManager(
            self._folder,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=ocp.checkpoint_managers.LatestN(_KEPT)
            ),
        )

    def __enter__(self) -> "Checkpoints":
        """Returns itself."""
        return self

    def __exit__(self, *exception: Any) -> None:
        """Waits until all that was saved is on disk, also when training was interrupted."""
        self._manager.wait_until_finished()
        self._manager.close()

    def save(self, step: int, state: Any) -> None:
        """Saves a tree of arrays, the same in all processes, under a step's number.

        Returns before it is on disk. Every process must call it; the first one writes.

        Raises:
          CheckpointError: if there is a checkpoint of this step or a later one.
        """
        # As numpy arrays: orbax refuses what pmap returns where there are several processes.
        if not self._manager.save(step, args=ocp.args.StandardSave(jax.device_get(state))):
            raise CheckpointError(
                f"step {step} cannot be saved: {self._folder} holds a checkpoint of step "
                f"{self._manager.latest_step()}."
            )

    def restore(self, target: Any) -> Any:
        """Returns the newest checkpoint, with the structure, shapes and dtypes of `target`.

        Raises:
          CheckpointError: if it cannot be read.
        """
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, target)
        step = self._manager.latest_step()
        try:
            return self._manager.restore(step, args=ocp.args.StandardRestore(abstract))
        except Exception as error:  # whatever class the storage below raises
            raise CheckpointError(
                f"{self._folder / str(step)} is damaged ({type(error).__name__}): remove it to go "
                "on from the checkpoint before it."
            ) from error


def latest_step(run_dir: Path) -> int | None:
    """Returns the step of the newest checkpoint in a run directory, or None."""
    folder = Path(run_dir) / FOLDER
    return max(ocp.utils.checkpoint_steps(folder), default=None) if folder.is_dir() else None
