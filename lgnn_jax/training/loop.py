"""The loop of a run: steps whose metrics are read late, tests, checkpoints, and when to stop."""

import time
from collections.abc import Callable

import jax
import numpy as np
from jax.experimental import multihost_utils

from lgnn_jax.maps.table import path_name
from lgnn_jax.methods.settling import find_places
from lgnn_jax.models.network import at_path
from lgnn_jax.training.checkpoint import Checkpoints
from lgnn_jax.training.errors import RunError
from lgnn_jax.training.log import Log
from lgnn_jax.training.session import Session
from lgnn_jax.training.signals import Stopped
from lgnn_jax.training.steps import Metrics, TrainState

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
    """Reads metrics, one call late, off the hot path, and writes them down."""

    def __init__(self, session, log):
        self._session, self._log = session, log
        self._pending = None
        self._started, self._first = time.perf_counter(), 0

    def begin(self, step):
        """Starts the clock for the steps after `step`."""
        self._started, self._first = time.perf_counter(), step

    def note(self, first, count, metrics):
        """Takes the metrics of `count` steps after step `first`; looks at those of the call before.

        To look at these would be to wait for them, and a device that has nothing else to do.
        """
        self.drain()
        self._pending = first, count, metrics

    def drain(self):
        """Looks at the metrics that were taken last, and writes lines of metrics.jsonl."""
        if self._pending is None:
            return
        (first, count, metrics), self._pending = self._pending, None
        metrics = Metrics(*map(np.atleast_1d, jax.device_get(metrics)))
        due = []
        for i, one in enumerate(zip(*metrics, strict=True)):
            step, one = first + i + 1, Metrics(*one)
            if one.bad >= 0:
                self._not_finite(step, one)
            if _is_line(step, self._session):
                due.append((step, one))
        last = first + count
        self._log.progress(last, Metrics(*(x[-1] for x in metrics)))
        if due:
            seconds = time.perf_counter() - self._started
            rate = (last - self._first) * self._session.config.batch_size / seconds
            for step, one in due:
                self._record(step, "train", one, rate)
            self.begin(last)

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
        first, path = next(iter(plan.layers.items()))
        found, shape = plan.maps.get(path), at_path(plan.shapes, path).shape
        if found and len(shape) == 4:  # height, width, colours and neurons: pictures
            self._log.filters(
                step,
                found.map,
                lambda: jax.device_get(
                    plan.weights(state.params, first, find_places(state.opt_state))
                ),
            )

    def check(self, state, step):
        """Raises RunError if anything in the state is not finite: a step does not look at all."""
        for part in (*state.network, state.opt_state):
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
        # They are float32: digits beyond the seventh are noise.
        epoch = (step - 1) // self._session.plan.steps_per_epoch
        schedules = {"learning_rate": self._session.learning_rates, "sigma": self._session.sigmas}
        return {name: float(f"{values[epoch]:.7g}") for name, values in schedules.items()}

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


def _is_line(step: int, session: Session) -> bool:
    """Whether metrics.jsonl has a line of a step: each so many of an epoch, and its last."""
    steps = session.plan.steps_per_epoch
    return step % steps == 0 or step % steps % session.config.log_every == 0


def _epoch(session, state, epoch, recorder, signalled):
    """Makes the steps of an epoch that are left, until one is asked to stop."""
    steps = session.plan.steps_per_epoch
    rows, done = session.epoch_order(epoch), int(state.step) % steps
    stop = None
    recorder.begin(epoch * steps + done)
    for i, j in session.calls(done):
        state, metrics = session.train_steps(state, rows[i:j], epoch)
        recorder.note(epoch * steps + i, j - i, metrics)
        if jax.process_count() == 1:
            stop = signalled()
        elif any(_is_line(epoch * steps + k, session) for k in range(i + 1, j + 1)):
            # Several must stop at one step, and to agree on it costs them a message; not while a
            # step is under way, whose own messages it might be taken for.
            recorder.drain()
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
