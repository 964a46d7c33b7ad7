"""The run directory: its files, what may begin or go on in it, and one process at a time."""

import contextlib
import errno
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import filelock

from lgnn_jax.training import own
from lgnn_jax.training.config import Config, difference, from_json
from lgnn_jax.training.errors import RunError
from lgnn_jax.training.files import replace_text

CONFIG, METRICS, SUMMARY = "config.json", "metrics.jsonl", "summary.json"
CHECKPOINTS = "checkpoints"
_OWN = "own_files.json"  # digests of the user's files that the config names
_LOCK = ".lock"
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP}
# What a resumed run may have otherwise than it was begun: nothing of it changes a step.
FREE = ("name", "checkpoint_every", "log_every", "on_nan")


def check_run_dir(run_dir: Path, config: Config, *, resume: bool) -> None:
    """Checks that a run can begin, or go on, in a directory.

    A run may go on with another name, other steps between checkpoints and log lines, and another
    rule for steps that are not finite. It may be given more epochs, unless its sigma decreases:
    equation 4 divides by their number, so that the steps before would have been others.

    Raises:
      RunError: if `resume` is not set and the directory holds a run or part of one; if `resume` is
        set and it holds none, or one whose config differs in anything else.
    """
    if resume:
        old_config = load_config(run_dir)
        check_own_files(run_dir, config)
        for name, old, new in difference(old_config, config):
            longer = name == "epochs" and new > old and not config.is_annealed
            if name in FREE or longer:
                continue
            hint = ""
            if name == "epochs":
                hint = " Epochs can be added, not taken away."
                if config.is_annealed:
                    hint = " Epochs can be added, but not where sigma decreases with their number."
            raise RunError(
                f"cannot resume {run_dir} with another {name}: it was begun with {old!r}, "
                f"not {new!r}.{hint}"
            )
        return
    place = next(p for p in (run_dir, *run_dir.absolute().parents) if p.exists())
    if not place.is_dir():
        raise RunError(f"{place} is a file: name another place with --run-dir.")
    if not os.access(place, os.W_OK):
        raise RunError(f"{place} may not be written to: name another place with --run-dir.")
    if (run_dir / CONFIG).exists():
        raise RunError(
            f"{run_dir} already holds a run: pass --resume to go on with it, or name another "
            "place with --run-dir."
        )
    for name in (METRICS, SUMMARY, CHECKPOINTS):
        if (run_dir / name).exists():
            raise RunError(
                f"{run_dir} holds a {name} of something else: name another place with --run-dir."
            )


def load_config(run_dir: Path) -> Config:
    """Reads the config of a run.

    Raises:
      RunError: if `run_dir` holds no run, or its config.json is not a valid config.
    """
    path = run_dir / CONFIG
    try:
        return from_json(path.read_text())
    except FileNotFoundError:
        raise RunError(f"{run_dir} holds no run: there is no {path}.") from None
    except OSError as error:  # a folder of that name, or no permission
        raise RunError(f"{path} cannot be read: {error.strerror}.") from None
    except ValueError as error:
        raise RunError(f"{path}: {error}") from None


def keep_own_files(run_dir: Path, config: Config) -> None:
    """Writes down what the user's files were that a run begins with, if it names any."""
    if config.own_files and not (run_dir / _OWN).exists():
        digests = {file: own.digest(file) for file in config.own_files}
        replace_text(run_dir / _OWN, json.dumps(digests, indent=1) + "\n")


def check_own_files(run_dir: Path, config: Config) -> None:
    """Raises RunError if a file that a run names was changed since it began, before it is run."""
    if not config.own_files or not (run_dir / _OWN).exists():
        return
    try:
        digests = dict(json.loads((run_dir / _OWN).read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise RunError(f"{run_dir / _OWN} is damaged: {error}.") from None
    for file in config.own_files:
        if digests.get(file) != own.digest(file):
            raise RunError(
                f"{file} is not the file that the run in {run_dir} began with: bring that back, or "
                "begin another run."
            )


@contextlib.contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Locks a run directory; the system unlocks it if this process dies.

    Raises:
      RunError: if another process has it.
    """
    owner = run_dir / f"{_LOCK}.owner"
    lock = filelock.FileLock(run_dir / _LOCK, timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout:
        who = owner.read_text().strip() if owner.exists() else "another process"
        raise RunError(f"{run_dir} is in use: {who} trains in it.") from None
    except (NotImplementedError, OSError) as error:
        # A file system without locks: better to train than not to.
        if getattr(error, "errno", errno.ENOSYS) not in _NO_LOCKS:
            raise
    else:
        owner.write_text(f"process {os.getpid()} on {socket.gethostname()}\n")
    try:
        yield
    finally:
        lock.release()
