"""A whole run: config and images in, a trained network and its run directory out."""

import contextlib
import errno
import json
import os
import platform
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock
import flax
import jax
import numpy as np
import optax
from jax.experimental import multihost_utils

import lgnn_jax
from lgnn_jax.models.network import Network
from lgnn_jax.training import checkpoint, data, loop
from lgnn_jax.training.config import Config, difference, from_json, to_json
from lgnn_jax.training.files import replace_text
from lgnn_jax.training.log import Log
from lgnn_jax.training.session import Plan, RunError, Session, tree_sha256
from lgnn_jax.training.signals import held_back
from lgnn_jax.training.steps import TrainState

CONFIG, METRICS, SUMMARY = "config.json", "metrics.jsonl", "summary.json"
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
        for name, old, new in difference(old_config, config):
            longer = name == "epochs" and new > old and config.variant != "decreasing"
            if name in FREE or longer:
                continue
            hint = ""
            if name == "epochs":
                hint = " Epochs can be added, not taken away."
                if config.variant == "decreasing":
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
    for name in (METRICS, SUMMARY, checkpoint.FOLDER):
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


def run(
    config: Config,
    dataset: data.Dataset,
    run_dir: Path,
    log: Log,
    *,
    resume: bool = False,
    network: Network | None = None,
) -> tuple[dict[str, Any], Plan, TrainState]:
    """Trains a network from a config, or goes on from the newest checkpoint.

    Args:
      config: the run.
      dataset: its images.
      run_dir: where config.json, metrics.jsonl, checkpoints/ and summary.json go.
      log: shows the progress, and keeps the metrics.
      resume: whether to go on with the run in `run_dir`.
      network: to train, instead of the one that `config.model` names. A run that goes on needs the
        same again.

    Returns:
      The summary (as in summary.json), the plan and the final state.

    Raises:
      RunError: see `check_run_dir` and `Session`; if another process trains in `run_dir`; if a
        loss or gradient is not finite; if a checkpoint or metrics.jsonl is damaged or cannot be
        written; if a finished run has lost its checkpoints; if this is one of several processes and
        another one is gone, or found another state to go on from.
      Stopped: if SIGINT or SIGTERM came; there is a checkpoint of the last step.
    """
    check_run_dir(run_dir, config, resume=resume)
    session = Session(config, dataset, network=network)
    try:
        multihost_utils.sync_global_devices("run directory checked")  # before process 0 changes it
        if jax.process_index() != 0:
            summary, state = _train(session, run_dir, log)
            return summary, session.plan, state
        run_dir.mkdir(parents=True, exist_ok=True)
        with _locked(run_dir):
            check_run_dir(run_dir, config, resume=resume)  # what another one did until now
            replace_text(run_dir / CONFIG, to_json(config))
            summary, state = _train(session, run_dir, log)
            replace_text(run_dir / SUMMARY, json.dumps(summary, indent=2) + "\n")
    except OSError as error:
        where = error.filename or run_dir
        raise RunError(f"cannot write to {where}: {error.strerror or error}.") from error
    except checkpoint.CheckpointError as error:
        raise RunError(str(error)) from error
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1:
            raise
        raise RunError(
            f"process {jax.process_index()} cannot go on: {str(error).splitlines()[0]}: if another "
            "process has ended, start all of them again, with --resume."
        ) from error
    return summary, session.plan, state


@contextlib.contextmanager
def _locked(run_dir: Path) -> Iterator[None]:
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


def _train(session, run_dir, log):
    """Trains from the newest checkpoint, if there is one; returns the summary and the state."""
    config, steps_per_epoch = session.config, session.plan.steps_per_epoch
    checkpoints = checkpoint.Checkpoints(run_dir, say=log.say)
    restored = checkpoints.restore(session.initial_state)
    if restored is None and (run_dir / SUMMARY).exists():
        raise RunError(
            f"{run_dir} holds a run that was finished, and none of its checkpoints: name another "
            "place with --run-dir to train it again."
        )
    if restored is None and (run_dir / METRICS).exists():
        log.say("There is no checkpoint yet: the run begins anew.")
    state = session.initial_state if restored is None else restored
    first_step = int(state.step)
    _check_agreed(run_dir, first_step, state)
    state = session.place(state)
    compile_seconds = 0.0
    if first_step < config.epochs * steps_per_epoch:
        with log.doing("compiling"):
            compile_seconds = session.compile()
        log.say(f"compiled in {compile_seconds:.1f} s")
    try:
        log.start(
            run_dir / METRICS,
            write=jax.process_index() == 0,
            total_steps=config.epochs * steps_per_epoch,
            steps_per_epoch=steps_per_epoch,
            step=first_step,
        )
    except ValueError as error:
        raise RunError(str(error)) from error
    if jax.process_index() == 0:
        checkpoints.remove_leftovers()
        if first_step < config.epochs * steps_per_epoch:
            (run_dir / SUMMARY).unlink(missing_ok=True)  # of fewer epochs
    with held_back() as signalled:
        state = loop.train(session, state, checkpoints, log, signalled)
    return _summary(session, state, run_dir, compile_seconds, log), state


def _check_agreed(run_dir, step, state):
    """Raises RunError unless all processes go on from the same state."""
    if jax.process_count() == 1:
        return
    own = np.array([step, int(tree_sha256(state)[:7], 16)])
    for i, other in enumerate(multihost_utils.process_allgather(own)):
        if (other != own).any():
            raise RunError(
                f"process {jax.process_index()} found the state of step {step} in {run_dir}, "
                f"process {i} that of step {other[0]}: all must see the same run directory, and "
                "have the same versions."
            )


def _summary(session, state, run_dir, compile_seconds, log):
    """Returns what goes into summary.json: of a run that was complete before, what is there."""
    if compile_seconds == 0.0 and (run_dir / SUMMARY).exists():
        return _read_summary(run_dir / SUMMARY)
    tested = [record for record in log.records if record["split"] == "test"]
    config = session.config
    if len(tested) < config.epochs:
        log.say(f"{METRICS} has {len(tested)} of {config.epochs} tests: the best is of those.")
    return {
        "name": config.name,
        "variant": config.variant,
        "seed": config.seed,
        "test_accuracy": tested[-1]["accuracy"],
        "best_test_accuracy": max(record["accuracy"] for record in tested),
        "skipped_steps": int(state.skipped),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        "init_sha256": session.init_sha256,
        "wall_seconds": round(compile_seconds + log.seconds(), 1),
        "compile_seconds": round(compile_seconds, 1),
        "devices": [device.device_kind for device in session.devices],
        "versions": {
            "python": platform.python_version(),
            "lgnn_jax": lgnn_jax.__version__,
            **{package.__name__: package.__version__ for package in (jax, flax, optax, np)},
        },
    }


def _read_summary(path):
    try:
        summary = json.loads(path.read_text())
        for name in ("test_accuracy", "best_test_accuracy", "wall_seconds"):
            summary[name] + 0.0
    except (ValueError, KeyError, TypeError):
        raise RunError(f"{path} is damaged: once it is removed, --resume makes it anew.") from None
    return summary
