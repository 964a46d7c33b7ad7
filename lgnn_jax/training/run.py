"""A whole run: config and images in, a trained network and its run directory out."""

import json
import platform
from pathlib import Path
from typing import Any

import flax
import jax
import numpy as np
import optax
from jax.experimental import multihost_utils

import lgnn_jax
from lgnn_jax.models.network import Network
from lgnn_jax.training import checkpoint, data, loop
from lgnn_jax.training.config import Config, to_json
from lgnn_jax.training.errors import RunError
from lgnn_jax.training.files import replace_text
from lgnn_jax.training.log import Log
from lgnn_jax.training.run_dir import (
    CONFIG,
    METRICS,
    SUMMARY,
    check_run_dir,
    keep_own_files,
    locked,
)
from lgnn_jax.training.session import Plan, Session, tree_sha256
from lgnn_jax.training.signals import held_back
from lgnn_jax.training.steps import TrainState


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
        with locked(run_dir):
            check_run_dir(run_dir, config, resume=resume)  # what another one did until now
            replace_text(run_dir / CONFIG, to_json(config))
            keep_own_files(run_dir, config)
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
