"""The loop of a run: steps whose metrics are read late, tests, checkpoints, and when to stop."""

import time
from collections.abc import Callable

import jax
import numpy as np
from jax.experimental import multihost_utils

from lgnn_jax import optimizer
from lgnn_jax.checkpoint import Checkpoints
from lgnn_jax.log import Log
from lgnn_jax.session import RunError, Session
from lgnn_jax.signals import Stopped
from lgnn_jax.som import path_name
from lgnn_jax.train import TrainState

_ADVICE = "Try a lower rate, or --on-nan skip to leave such steps out."


def train(
    session: Session,
    state: TrainState,
    checkpoints: Checkpoints,
    log: Log,
    signalled: Callable[[], int | None],
) -> TrainState:
    """Trains up to the last epoch of a run.

    Args:
      session: the run, made ready.
      state: on the devices, at any step; it is used up.
      checkpoints: of the run.
      log: started at that step.
      signalled: returns the signal that asks the run to stop, or None.

    Raises:
      RunError: if a loss or gradient is not finite and `config.on_nan` is "stop": at that step or,
        where it was a kernel's gradient alone, at the next, at a test or before a checkpoint; and
        if anything in the state is not finite that is to be kept.
      CheckpointError: if a checkpoint cannot be written.
      Stopped: after a signal, once a checkpoint of the last step is written.
    """
    config, steps = session.config, session.plan.steps_per_epoch
    recorder = _Recorder(session, log)
    step = int(state.step)
    if step and step % steps == 0 and not _agreed(recorder.is_tested(step)):
        recorder.test(state, step)  # the run ended between an epoch and its test
    for epoch in range(step // steps, config.epochs):
        state, stop = _epoch(session, state, epoch, recorder, signalled)
        step = int(state.step)
        ended = step % steps == 0
        if ended:
            recorder.test(state, step)
            stop = stop or _agreed(signalled())
        due = ended and ((epoch + 1) % config.checkpoint_every == 0 or epoch + 1 == config.epochs)
        if (due or stop) and jax.process_index() == 0:
            host = jax.device_get(state)
            recorder.check(host, step)
            log.sync()
            checkpoints.save(step, host)
        if stop:
            raise Stopped(stop)
    return state


class _Recorder:
    """Reads metrics, one step late, off the hot path, and writes them down."""

    def __init__(self, session, log):
        self._session, self._log = session, log
        config, steps = session.config, session.plan.steps_per_epoch
        self._schedules = {
            "learning_rate": optimizer.learning_rate(config, steps),
            "sigma": optimizer.sigma(config, steps),
        }
        self._pending = None

    def note(self, step, metrics):
        """Takes the metrics of a step, and looks at those of the step before."""
        self.drain()
        self._pending = step, metrics

    def drain(self):
        """Looks at the metrics that were taken last."""
        if self._pending is None:
            return
        (step, metrics), self._pending = self._pending, None
        metrics = jax.device_get(metrics)
        if metrics.bad >= 0:
            self._not_finite(step, metrics)
        self._log.progress(step, metrics)

    def train(self, step, metrics, images_per_second):
        self._record(step, "train", jax.device_get(metrics), images_per_second)

    def is_tested(self, step):
        return any(r["split"] == "test" and r["step"] == step for r in self._log.records)

    def test(self, state, step):
        started = time.perf_counter()
        metrics = self._session.evaluate(state)
        seconds = time.perf_counter() - started
        if not np.isfinite(metrics.loss):
            raise RunError(f"the test loss is {metrics.loss} {self._where(step)}. {_ADVICE}")
        self._record(step, "test", metrics, len(self._session.dataset.test_images) / seconds)
        plan = self._session.plan
        first = plan.model.first_layer
        if dims := plan.maps.get(f"{first}/kernel"):
            self._log.filters(step, dims, lambda: jax.device_get(state.params[first]["kernel"]))

    def check(self, state, step):
        """Raises RunError if anything in the state is not finite: a step does not look at all."""
        for part in (state.params, state.batch_stats, state.opt_state):
            for path, leaf in jax.tree_util.tree_leaves_with_path(part):
                if not np.isfinite(leaf).all():
                    raise RunError(
                        f"{path_name(path)} is not finite {self._where(step)}: training has "
                        f"diverged. {_ADVICE}"
                    )

    def _not_finite(self, step, metrics):
        names = self._session.parameter_names
        what = f"gradient of {names[metrics.bad]}" if metrics.bad < len(names) else "loss"
        found = f"the {what} is not finite {self._where(step)}"
        if self._session.config.on_nan == "skip":
            self._log.say(f"{found}: the step is skipped.")
            return
        raise RunError(f"{found}: training has diverged. {_ADVICE}")

    def _where(self, step):
        epoch = (step - 1) // self._session.plan.steps_per_epoch + 1
        return f"at step {step}, epoch {epoch}, learning rate {self._values(step)['learning_rate']}"

    def _values(self, step):
        # Schedules are evaluated where they were applied: at the count before the update. They are
        # float32: digits beyond the seventh are noise.
        return {name: float(f"{f(step - 1):.7g}") for name, f in self._schedules.items()}

    def _record(self, step, split, metrics, images_per_second):
        self._log.record(
            step=step,
            epoch=(step - 1) // self._session.plan.steps_per_epoch,
            split=split,
            loss=float(metrics.loss),
            accuracy=float(metrics.accuracy),
            **self._values(step),
            images_per_second=images_per_second,
        )


def _epoch(session, state, epoch, recorder, signalled):
    """Makes the steps of an epoch that are left, until one is asked to stop."""
    config, steps = session.config, session.plan.steps_per_epoch
    done = int(state.step) % steps
    window_started, window_first, stop = time.perf_counter(), done, None
    for i, indices in enumerate(session.epoch_order(epoch)[done:], start=done):
        state, metrics = session.train_step(state, indices)
        recorder.note(epoch * steps + i + 1, metrics)
        checked = (i + 1) % config.log_every == 0 or i + 1 == steps
        if checked:
            recorder.drain()  # waits for the step, and writes down nothing that is not finite
            now = time.perf_counter()
            rate = (i + 1 - window_first) * config.batch_size / (now - window_started)
            window_started, window_first = now, i + 1
            recorder.train(epoch * steps + i + 1, metrics, rate)
        # Several processes must stop at one step, and to agree on it costs them a message.
        if checked or jax.process_count() == 1:
            stop = _agreed(signalled())
        if stop:
            break
    recorder.drain()
    return state, stop


def _agreed(own: int | None) -> int | None:
    """The largest that any of the processes has, or None: of signals, or of yes and no."""
    if jax.process_count() == 1:
        return own or None
    return int(multihost_utils.process_allgather(np.int32(own or 0)).max()) or None
