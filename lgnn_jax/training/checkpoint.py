"""Checkpoints of a run, each with the digests of its files; the only module that knows orbax.

`checkpoints/<step>/` holds what orbax wrote, in `state/`, and `manifest.json`: the SHA-256 of each
file, the shape and type of each array. It is written beside, under a name that begins with a dot,
and renamed once it is whole: a folder with a step's name is a checkpoint, or was one before
something damaged it.
"""

import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from lgnn_jax.training.files import sync
from lgnn_jax.training.run_dir import CHECKPOINTS

_STATE, _MANIFEST, _WRITING = "state", "manifest.json", ".writing-"
_KEPT = 2


class CheckpointError(Exception):
    """A checkpoint that cannot be written or read; one clear line."""


class Checkpoints:
    """The checkpoints in a run directory."""

    def __init__(self, run_dir: Path, *, say: Callable[[str], None] = print):
        """Looks at `run_dir / "checkpoints"`; `say` is told of damaged ones."""
        self._folder, self._say = (Path(run_dir) / CHECKPOINTS).resolve(), say

    def steps(self) -> list[int]:
        """Returns the steps that there are checkpoints of, ascending."""
        if not self._folder.is_dir():
            return []
        return sorted(int(path.name) for path in self._folder.iterdir() if path.name.isdecimal())

    def save(self, step: int, state: Any) -> None:
        """Saves a tree of arrays under a step's number; returns once it is on disk.

        The two newest checkpoints are kept, this one among them. A run of several processes calls
        it in the first one alone.

        Raises:
          CheckpointError: if it cannot be written; earlier ones are as they were.
        """
        writing, final = self._folder / f"{_WRITING}{step}", self._folder / str(step)
        try:
            self._folder.mkdir(exist_ok=True)
            self.remove_leftovers()
            _write(writing, step, jax.device_get(state))
            for later in [s for s in self.steps() if s >= step]:  # damaged: the run went on before
                aside = self._folder / f"{later}.damaged"
                shutil.rmtree(aside, ignore_errors=True)
                (self._folder / str(later)).rename(aside)
            writing.rename(final)
            sync(self._folder)
            sync(self._folder.parent)
        except Exception as error:  # whatever class the storage below raises
            shutil.rmtree(writing, ignore_errors=True)
            raise CheckpointError(
                f"cannot write the checkpoint of step {step} to {final}: {_reason(error)}"
            ) from error
        for old in self.steps()[:-_KEPT]:
            try:
                shutil.rmtree(self._folder / str(old))
            except OSError as error:
                self._say(f"checkpoint {old} cannot be removed: {_reason(error)}")

    def remove_leftovers(self) -> None:
        """Removes what a run that was killed had not finished writing."""
        for rest in self._folder.glob(f"{_WRITING}*"):
            shutil.rmtree(rest, ignore_errors=True)

    def restore(self, target: Any) -> Any | None:
        """Returns the newest checkpoint that is whole, or None if there is none at all.

        Damaged ones are named and passed over. Loading runs no code: a checkpoint is arrays.

        Args:
          target: a tree with the structure, shapes and types that the checkpoint must have. A dict
            may have some of the parts of the state alone: only they are read.

        Raises:
          CheckpointError: if all that there are are damaged, or the newest whole one is of other
            arrays than `target`.
        """
        some = set(target) if isinstance(target, dict) else None
        folder, arrays = self._newest()
        if folder is None:
            return None
        if some is not None:
            arrays = {k: a for k, a in arrays.items() if k.partition("/")[0] in some}
        _compare(folder, arrays, _arrays(target))
        shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(np.shape(leaf), leaf.dtype), target)
        with _naming(folder):
            return _read(folder / _STATE, shapes, partial=some is not None)

    def arrays(self, part: str) -> dict[str, np.ndarray]:
        """Returns arrays of the newest checkpoint that is whole, whatever else it holds.

        Args:
          part: of the paths of those that are read, such as "/places/".

        Returns:
          By what follows `part` in the path; empty if there are none.

        Raises:
          CheckpointError: if all that there are are damaged.
        """
        folder, arrays = self._newest()
        if not any(part in name for name in arrays):
            return {}
        with _naming(folder):
            found = _read_some(folder / _STATE, lambda name: part in name)
        return {name.partition(part)[2]: x for name, x in found.items()}

    def _newest(self) -> tuple[Path | None, dict[str, Any]]:
        """The newest checkpoint that is whole, and the type and shape of its arrays."""
        steps = self.steps()
        for step in reversed(steps):
            folder = self._folder / str(step)
            try:
                return folder, _verified(folder)["arrays"]
            except CheckpointError as error:
                self._say(f"checkpoint {step} is passed over: {error}")
        if steps:
            raise CheckpointError(f"{self._folder} holds no checkpoint that is whole.")
        return None, {}


def _checkpointer():
    """Orbax for this process alone: what it reads and writes here is the same in all."""
    alone = ocp.options.MultiprocessingOptions(
        primary_host=jax.process_index(),
        active_processes={jax.process_index()},
        barrier_sync_key_prefix=f"process_{jax.process_index()}",
    )
    handler = ocp.StandardCheckpointHandler(multiprocessing_options=alone)
    return ocp.Checkpointer(handler, multiprocessing_options=alone)


def _read(folder: Path, shapes: Any, *, partial: bool) -> Any:
    if not partial:
        return _checkpointer().restore(folder, args=ocp.args.StandardRestore(shapes))
    arguments = ocp.checkpoint_utils.construct_restore_args(shapes)
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        return checkpointer.restore(
            folder,
            args=ocp.args.PyTreeRestore(item=shapes, restore_args=arguments, partial_restore=True),
        )


def _read_some(folder: Path, wanted: Callable[[str], bool]) -> dict[str, np.ndarray]:
    """The arrays whose path is wanted, by their path."""
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        tree = checkpointer.metadata(folder).item_metadata.tree
        some = jax.tree_util.tree_map_with_path(
            lambda path, x: (
                jax.ShapeDtypeStruct(x.shape, x.dtype) if wanted(_name(path)) else ocp.PLACEHOLDER
            ),
            tree,
        )
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), some)
        found = checkpointer.restore(
            folder, args=ocp.args.PyTreeRestore(item=some, restore_args=as_numpy)
        )
    leaves = {_name(path): x for path, x in jax.tree_util.tree_leaves_with_path(found)}
    return {name: x for name, x in leaves.items() if wanted(name)}


@contextlib.contextmanager
def _naming(folder: Path) -> Iterator[None]:
    """Names the checkpoint that cannot be read."""
    try:
        yield
    except Exception as error:
        raise CheckpointError(f"{folder} cannot be read: {_reason(error)}") from error


def _name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _write(folder: Path, step: int, state: Any) -> None:
    folder.mkdir()
    _checkpointer().save(folder / _STATE, args=ocp.args.StandardSave(state))
    files = {}
    paths = sorted(folder.rglob("*"))
    for path in (p for p in paths if p.is_file()):
        files[path.relative_to(folder).as_posix()] = {
            "bytes": path.stat().st_size,
            "sha256": _digest(path),
        }
    for path in paths:
        sync(path)
    manifest = {"step": step, "files": files, "arrays": _arrays(state)}
    manifest["sha256"] = _seal(manifest)
    path = folder / _MANIFEST
    path.write_text(json.dumps(manifest, indent=1) + "\n")
    sync(path)
    sync(folder)


def _verified(folder: Path) -> dict[str, Any]:
    """Returns the manifest of a checkpoint, once all files are what it says.

    Raises:
      CheckpointError: names the first file that is not.
    """
    path = folder / _MANIFEST
    try:
        manifest = json.loads(path.read_text())
        whole = manifest.pop("sha256") == _seal(manifest)
        files = {
            name: (entry["bytes"], entry["sha256"]) for name, entry in manifest["files"].items()
        }
        manifest["arrays"]
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing.") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged ({type(error).__name__}).") from None
    if not whole:
        raise CheckpointError(f"{path} is damaged: its SHA-256 is not the one at its end.")
    for name, (size, digest) in files.items():
        path = folder / name
        try:
            found, same = path.stat().st_size, _digest(path) == digest
        except FileNotFoundError:
            raise CheckpointError(f"{path} is missing.") from None
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read: {_reason(error)}") from None
        if found != size:
            raise CheckpointError(f"{path} has {found} bytes, not {size}.")
        if not same:
            raise CheckpointError(f"{path} is damaged: its SHA-256 is not that of the manifest.")
    return manifest


def _compare(folder: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raises CheckpointError for the first array that is not as wanted."""
    for name in [*wanted, *found]:
        if name not in found:
            raise CheckpointError(f"{folder} has no {name}, {_describe(wanted[name])}.")
        if name not in wanted:
            raise CheckpointError(f"{folder} has a {name}, which this run has not.")
        if found[name] != wanted[name]:
            raise CheckpointError(
                f"{folder}: {name} is {_describe(found[name])}, this run's is "
                f"{_describe(wanted[name])}."
            )


def _arrays(tree: Any) -> dict[str, Any]:
    """Type and shape of each array, by path."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        _name(path): [
            np.dtype(leaf.dtype).name,
            list(np.shape(leaf)),
        ]
        for path, leaf in leaves
    }


def _describe(array: Any) -> str:
    dtype, shape = array
    return f"{dtype} {tuple(shape)}"


def _seal(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest).encode()).hexdigest()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}."
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]:.200}"
