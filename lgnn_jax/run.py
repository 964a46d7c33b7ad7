"""A whole run: config and images in, a trained network and its run directory out."""

import json
import platform
import time
from pathlib import Path
from typing import Any

import flax
import jax
import numpy as np
import optax

import lgnn_jax
from lgnn_jax import checkpoint, data, optimizer
from lgnn_jax.config import Config, difference, from_json, to_json
from lgnn_jax.log import Log
from lgnn_jax.session import Plan, RunError, Session
from lgnn_jax.train import TrainState

CONFIG, METRICS, SUMMARY = "config.json", "metrics.jsonl", "summary.json"


def check_run_dir(run_dir: Path, config: Config, *, resume: bool) -> None:
    """Checks that a run can begin, or go on, in a directory.

    Raises:
      RunError: if the directory holds a run and `resume` is not set; if it holds none, one of
        another config, or no checkpoint, and `resume` is set.
    """
    if not resume:
        if (run_dir / CONFIG).exists():
            raise RunError(
                f"{run_dir} already holds a run: pass --resume to go on with it, or name another "
                "place with --run-dir."
            )
        return
    for name, old, new in difference(load_config(run_dir), config):
        raise RunError(
            f"cannot resume {run_dir} with another {name}: it was begun with {old!r}, not {new!r}."
        )
    if checkpoint.latest_step(run_dir) is None:
        raise RunError(
            f"nothing to resume: {run_dir} holds no checkpoint yet; remove it to begin again."
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
      RunError: see `prepare_run_dir` and `Session`.
    """
    is_main = jax.process_index() == 0
    if is_main:
        check_run_dir(run_dir, config, resume=resume)
    session = Session(config, dataset)
    steps_per_epoch = session.plan.steps_per_epoch
    if is_main and not resume:
        try:
            run_dir.mkdir(parents=True, exist_ok=True)
            (run_dir / CONFIG).write_text(to_json(config))
        except OSError as error:
            raise RunError(f"cannot write to {run_dir}: {error.strerror}.") from error
    checkpoints = checkpoint.Checkpoints(run_dir)
    state = session.initial_state
    if resume:
        state = checkpoints.restore(state)
    state = session.place(state)
    first_step = int(state.step)
    compile_seconds = 0.0
    if first_step < config.epochs * steps_per_epoch:
        with log.console.status("compiling"):
            compile_seconds = session.compile()
        log.say(f"compiled in {compile_seconds:.1f} s")
    log.start(
        run_dir / METRICS if is_main else None,
        total_steps=config.epochs * steps_per_epoch,
        steps_per_epoch=steps_per_epoch,
        step=first_step,
    )
    schedules = {
        "learning_rate": optimizer.learning_rate(config, steps_per_epoch),
        "sigma": optimizer.sigma(config, steps_per_epoch),
    }

    def record(step, epoch, split, metrics, images_per_second):
        # Schedules are evaluated where they were applied: at the count before the update. They are
        # float32: digits beyond the seventh are noise.
        values = {name: float(f"{schedule(step - 1):.7g}") for name, schedule in schedules.items()}
        log.record(
            step=step,
            epoch=epoch,
            split=split,
            loss=float(metrics.loss),
            accuracy=float(metrics.accuracy),
            **values,
            images_per_second=images_per_second,
        )

    for epoch in range(first_step // steps_per_epoch, config.epochs):
        state = _train_epoch(session, state, epoch, log, record)
        step = int(state.step)
        started = time.perf_counter()
        tested = session.evaluate(state)
        seconds = time.perf_counter() - started
        record(step, epoch, "test", tested, len(dataset.test_images) / seconds)
        if (epoch + 1) % config.checkpoint_every == 0 or epoch + 1 == config.epochs:
            checkpoints.save(step, state)
    checkpoints.close()
    tested = [r for r in log.records if r["split"] == "test"]
    summary = {
        "name": config.name,
        "variant": config.variant,
        "seed": config.seed,
        "test_accuracy": tested[-1]["accuracy"],
        "best_test_accuracy": max(r["accuracy"] for r in tested),
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
    if is_main:
        (run_dir / SUMMARY).write_text(json.dumps(summary, indent=2) + "\n")
    return summary, session.plan, state


def restore(config: Config, dataset: data.Dataset, run_dir: Path) -> tuple[Session, TrainState]:
    """Returns a session of a run that was begun, and the state of its newest checkpoint.

    Raises:
      RunError: if `run_dir` holds no checkpoint.
    """
    if checkpoint.latest_step(run_dir) is None:
        raise RunError(f"{run_dir} holds no checkpoint.")
    session = Session(config, dataset)
    checkpoints = checkpoint.Checkpoints(run_dir)
    state = session.place(checkpoints.restore(session.initial_state))
    checkpoints.close()
    return session, state


def _train_epoch(session, state, epoch, log, record):
    """Makes the steps of an epoch that are left; reads their metrics late, off the hot path."""
    config, steps = session.config, session.plan.steps_per_epoch
    done = int(state.step) % steps
    pending = None
    window_started, window_first = time.perf_counter(), done
    for i, indices in enumerate(session.epoch_order(epoch)[done:], start=done):
        state, metrics = session.train_step(state, indices)
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
