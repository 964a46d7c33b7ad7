"""A whole run: config and images in, a trained network and its run directory out."""

import contextlib
import json
import math
import platform
import signal
import threading
import time
from pathlib import Path
from typing import Any

import flax
import jax
import numpy as np
import optax
from jax.experimental import multihost_utils

import lgnn_jax
from lgnn_jax import checkpoint, data, optimizer
from lgnn_jax.config import Config, difference, from_json, to_json
from lgnn_jax.log import Log, replace_text
from lgnn_jax.session import Plan, RunError, Session
from lgnn_jax.train import TrainState

CONFIG, METRICS, SUMMARY = "config.json", "metrics.jsonl", "summary.json"


def check_run_dir(run_dir: Path, config: Config, *, resume: bool) -> None:
    """Checks that a run can begin, or go on, in a directory.

    Raises:
      RunError: if `resume` is not set and the directory holds a run or part of one; if `resume` is
        set and it holds none, or one of another config.
    """
    if resume:
        for name, old, new in difference(load_config(run_dir), config):
            raise RunError(
                f"cannot resume {run_dir} with another {name}: it was begun with {old!r}, "
                f"not {new!r}."
            )
        return
    if run_dir.exists() and not run_dir.is_dir():
        raise RunError(f"{run_dir} is a file: name another place with --run-dir.")
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
    except OSError:
        raise RunError(f"{run_dir} holds no run: there is no {path}.") from None
    except ValueError as error:
        raise RunError(f"{path}: {error}") from None


def run(
    config: Config, dataset: data.Dataset, run_dir: Path, log: Log, *, resume: bool = False
) -> tuple[dict[str, Any], Plan, TrainState]:
    """Trains a network from a config, or goes on from the newest checkpoint.

    Args:
      config: the run.
      dataset: its images.
      run_dir: where config.json, metrics.jsonl, checkpoints/ and summary.json go.
      log: shows the progress, and keeps the metrics.
      resume: whether to go on with the run in `run_dir`.

    Returns:
      The summary (as in summary.json), the plan and the final state.

    Raises:
      RunError: see `check_run_dir` and `Session`; if the loss is not finite; if a checkpoint or
        metrics.jsonl is damaged or cannot be written.
    """
    check_run_dir(run_dir, config, resume=resume)
    session = Session(config, dataset)
    multihost_utils.sync_global_devices("run directory checked")  # before process 0 changes it
    is_main = jax.process_index() == 0
    if is_main and not resume:
        try:
            run_dir.mkdir(parents=True, exist_ok=True)
            replace_text(run_dir / CONFIG, to_json(config))
        except OSError as error:
            raise RunError(f"cannot write to {run_dir}: {error.strerror}.") from error
    try:
        with checkpoint.Checkpoints(run_dir) as checkpoints:
            summary, state = _train(session, run_dir, checkpoints, log)
    except checkpoint.CheckpointError as error:
        raise RunError(str(error)) from error
    if is_main:
        replace_text(run_dir / SUMMARY, json.dumps(summary, indent=2) + "\n")
    return summary, session.plan, state


def _train(session, run_dir, checkpoints, log):
    """Trains from the newest checkpoint, if there is one; returns the summary and the state."""
    config, steps_per_epoch = session.config, session.plan.steps_per_epoch
    state = session.initial_state
    if checkpoint.latest_step(run_dir) is not None:
        state = checkpoints.restore(state)
    state = session.place(state)
    first_step = int(state.step)
    compile_seconds = 0.0
    if first_step < config.epochs * steps_per_epoch:
        with log.console.status("compiling"):
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
    except (OSError, ValueError) as error:
        raise RunError(str(error)) from error
    schedules = {
        "learning_rate": optimizer.learning_rate(config, steps_per_epoch),
        "sigma": optimizer.sigma(config, steps_per_epoch),
    }

    def record(step, epoch, split, metrics, images_per_second):
        # Schedules are evaluated where they were applied: at the count before the update. They are
        # float32: digits beyond the seventh are noise.
        values = {name: float(f"{schedule(step - 1):.7g}") for name, schedule in schedules.items()}
        if not np.isfinite(metrics.loss):
            raise RunError(
                f"the {split} loss is {metrics.loss} at step {step}, epoch {epoch + 1}, learning "
                f"rate {values['learning_rate']}: training has diverged; try a lower rate."
            )
        log.record(
            step=step,
            epoch=epoch,
            split=split,
            loss=float(metrics.loss),
            accuracy=float(metrics.accuracy),
            **values,
            images_per_second=images_per_second,
        )

    with _interrupts_between_steps() as check_interrupt:
        for epoch in range(first_step // steps_per_epoch, config.epochs):
            state = _train_epoch(session, state, epoch, log, record, check_interrupt)
            step = int(state.step)
            started = time.perf_counter()
            tested = session.evaluate(state)
            seconds = time.perf_counter() - started
            record(step, epoch, "test", tested, len(session.dataset.test_images) / seconds)
            if (epoch + 1) % config.checkpoint_every == 0 or epoch + 1 == config.epochs:
                checkpoints.save(step, state)
    return _summary(session, state, run_dir, compile_seconds, log), state


def _summary(session, state, run_dir, compile_seconds, log):
    """Returns what goes into summary.json: of a run that was complete before, what is there."""
    if compile_seconds == 0.0 and (run_dir / SUMMARY).exists():
        return json.loads((run_dir / SUMMARY).read_text())
    tested = [record for record in log.records if record["split"] == "test"]
    if not tested:
        raise RunError(f"{run_dir / METRICS} holds no test accuracy of this complete run.")
    config = session.config
    return {
        "name": config.name,
        "variant": config.variant,
        "seed": config.seed,
        "test_accuracy": tested[-1]["accuracy"],
        "best_test_accuracy": max(record["accuracy"] for record in tested),
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


def restore(config: Config, dataset: data.Dataset, run_dir: Path) -> tuple[Session, TrainState]:
    """Returns a session of a run that was begun, and the state of its newest checkpoint.

    The session has as many of the devices as the batch can be shared among.

    Raises:
      RunError: if `run_dir` holds no checkpoint, or a damaged one.
    """
    if checkpoint.latest_step(run_dir) is None:
        raise RunError(f"{run_dir} holds no checkpoint.")
    devices = jax.devices()
    session = Session(config, dataset, devices[: math.gcd(config.batch_size, len(devices))])
    try:
        with checkpoint.Checkpoints(run_dir) as checkpoints:
            state = session.place(checkpoints.restore(session.initial_state))
    except checkpoint.CheckpointError as error:
        raise RunError(str(error)) from error
    return session, state


@contextlib.contextmanager
def _interrupts_between_steps():
    """Holds a Ctrl-C back until the yielded function is called; a second one is not held back.

    An interrupt while orbax begins to write a checkpoint loses it, with a traceback at exit.
    """
    pending = []

    def note(signum, frame):
        if pending:
            raise KeyboardInterrupt
        pending.append(signum)

    def check():
        if pending:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # signals are not ours there
        yield check
        return
    previous = signal.signal(signal.SIGINT, note)
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, previous)


def _train_epoch(session, state, epoch, log, record, check_interrupt):
    """Makes the steps of an epoch that are left; reads their metrics late, off the hot path."""
    config, steps = session.config, session.plan.steps_per_epoch
    done = int(state.step) % steps
    pending = None
    window_started, window_first = time.perf_counter(), done
    for i, indices in enumerate(session.epoch_order(epoch)[done:], start=done):
        state, metrics = session.train_step(state, indices)
        check_interrupt()
        if pending is not None:
            log.progress(*jax.device_get(pending))
        pending = (epoch * steps + i + 1, metrics)
        if (i + 1) % config.log_every == 0 or i + 1 == steps:
            jax.block_until_ready(metrics)
            now = time.perf_counter()
            rate = (i + 1 - window_first) * config.batch_size / (now - window_started)
            window_started, window_first = now, i + 1
            record(epoch * steps + i + 1, epoch, "train", jax.device_get(metrics), rate)
    log.progress(*jax.device_get(pending))
    return state
