import dataclasses
import gc
import json
import os
import signal

import jax
import numpy as np
import pytest
from jax import monitoring

from lgnn_jax.training import loop
from lgnn_jax.training import session as session_lib
from lgnn_jax.training.config import Optimizer
from lgnn_jax.training.errors import RunError
from lgnn_jax.training.log import Log
from lgnn_jax.training.run import run
from lgnn_jax.training.session import Session
from lgnn_jax.training.signals import Stopped

STEPS = 6  # of an epoch of `tiny_dataset`


@pytest.fixture
def four_steps_a_call(monkeypatch):
    """As on a GPU, where a call makes more: an epoch is one of four steps and two of one."""
    monkeypatch.setattr(session_lib, "_even_share", lambda steps, most: 4)


@pytest.fixture
def compiled():
    """The names of all programs that are compiled in a test."""
    found, own = [], []

    def listen(event, seconds, **names):
        del seconds
        if event == "/jax/core/compile/backend_compile_duration" and own:
            found.append(names.get("fun_name", event))

    own.append(True)
    monitoring.register_event_duration_secs_listener(listen)
    session_lib._programs.cache_clear()
    yield found
    own.clear()


def _slow(config, **changes):
    """At 0.1 rounding grows within twenty steps to what a comparison would see."""
    optimizer = Optimizer(learning_rate=0.001, decay_epochs=())
    return dataclasses.replace(config, optimizer=optimizer, **changes)


@pytest.mark.parametrize(
    ("steps", "most", "expected"),
    [(390, 100, 78), (390, 1, 1), (199, 100, 99), (100, 100, 100), (7, 100, 7), (1, 100, 1)],
)
def test_the_steps_of_a_call(steps, most, expected):
    """78 divides 390; 199 is prime, and leaves a step of 2 x 99."""
    assert session_lib._even_share(steps, most) == expected


@pytest.mark.parametrize("size", [0, STEPS + 1])
def test_more_steps_a_call_than_there_are(tiny_config, tiny_dataset, size):
    with pytest.raises(RunError, match=f"steps_per_call must be at least 1 and at most 6.*{size}"):
        Session(tiny_config, tiny_dataset, jax.devices()[:1], steps_per_call=size)


@pytest.mark.parametrize("size", [1, 2, 4, 5, 6])
@pytest.mark.parametrize("start", range(STEPS + 1))
def test_calls_make_each_step_once_and_by_the_same_program_wherever_they_begin(
    tiny_config, tiny_dataset, size, start
):
    session = Session(tiny_config, tiny_dataset, jax.devices()[:1], steps_per_call=size)
    calls = session.calls(start)
    assert [k for i, j in calls for k in range(i, j)] == list(range(start, STEPS))
    aligned = -(-start // size) * size  # one by one up to here
    assert [call for call in calls if call[0] >= aligned] == [
        call for call in session.calls(0) if call[0] >= aligned
    ]
    assert all(j - i == 1 for i, j in calls if i < aligned)


@pytest.mark.parametrize(("variant", "devices"), [("baseline", 1), ("decreasing", 8)])
def test_many_steps_a_call_equal_one_by_one(tiny_config, tiny_dataset, variant, devices):
    """Two epochs, so that sigma decreases; on all devices too."""
    config = _slow(tiny_config, variant=variant)
    results = []
    for size in (1, 3):
        session = Session(config, tiny_dataset, jax.devices()[:devices], steps_per_call=size)
        state, seen = session.place(session.initial_state), []
        for epoch in range(2):
            rows = session.epoch_order(epoch)
            for i, j in session.calls(0):
                state, metrics = session.train_steps(state, rows[i:j], epoch)
                seen.append(jax.tree.map(np.atleast_1d, jax.device_get(metrics)))
        seen = jax.tree.map(lambda *parts: np.concatenate(parts), *seen)
        kept = state.params, state.batch_stats, state.opt_state, seen
        results.append((*jax.device_get(kept), session.evaluate(state)))
    one, many = results
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), many, one)


@pytest.mark.parametrize("size", [1, 4])
def test_a_second_seed_compiles_nothing(tiny_config, tiny_dataset, compiled, size):
    """Nor does what follows `compile`: with four steps a call two are left to another program."""

    def train(**changes):
        config = dataclasses.replace(tiny_config, **changes)
        session = Session(config, tiny_dataset, jax.devices()[:2], steps_per_call=size)
        session.compile()
        before = len(compiled)
        state = session.place(session.initial_state)
        for i, j in session.calls(0):
            state, metrics = session.train_steps(state, session.epoch_order(0)[i:j], 0)
            jax.block_until_ready(metrics)
        session.evaluate(state)
        assert len(compiled) == before
        return session.init_sha256

    first = train(seed=0)
    network = {name for name in compiled if name in ("jit(init_state)", "jit(_fun)")}
    assert len(network) == 2  # the initial weights, and the steps
    compiled.clear()
    assert train(seed=1) != first
    assert not compiled
    if size > 1:  # sigma is data there
        train(variant="decreasing", epochs=5)
        assert not network & set(compiled)


def test_another_random_generator_is_another_program(tiny_config, tiny_dataset):
    """JAX's own cache of programs does not look at this setting."""

    def initial():
        session = Session(tiny_config, tiny_dataset, jax.devices()[:1])
        return session.init_sha256

    before = initial()
    kind = jax.config.jax_default_prng_impl
    try:
        jax.config.update("jax_default_prng_impl", "rbg")
        assert initial() != before
    finally:
        jax.config.update("jax_default_prng_impl", kind)
    assert initial() == before


def test_programs_of_many_settings_do_not_fill_the_memory(tiny_config, tiny_dataset, monkeypatch):
    """Here at most those of one setting are kept; each makes its own for the initial weights."""
    monkeypatch.setattr(session_lib, "_MOST_PROGRAMS", 1)
    client, counts = jax.devices()[0].client, []
    for decay in (0.1, 0.2, 0.3, 0.4):
        optimizer = Optimizer(weight_decay=decay, decay_epochs=())
        config = dataclasses.replace(tiny_config, optimizer=optimizer)
        Session(config, tiny_dataset, jax.devices()[:1])
        gc.collect()
        counts.append(len(client.live_executables()))
    assert max(counts[1:]) <= counts[1]


def test_class_names_may_be_a_list(tiny_config, tiny_dataset):
    dataset = dataclasses.replace(tiny_dataset, class_names=list("abcde"))
    assert Session(tiny_config, dataset, jax.devices()[:1]).plan.steps_per_epoch == STEPS


@pytest.mark.usefixtures("four_steps_a_call")
@pytest.mark.parametrize("devices", [2])
def test_a_run_of_many_steps_a_call_is_resumed_to_the_same_bits(
    tiny_config, tiny_dataset, tmp_path, monkeypatch, devices
):
    """A signal in the first call of the second epoch; a checkpoint is written after that call."""
    few = jax.devices()[:devices]
    monkeypatch.setattr(jax, "devices", lambda: few)
    step, calls = Session.train_steps, []

    def train_steps(self, *arguments):
        calls.append(1)
        if len(calls) == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, *arguments)

    def train(folder, resume=False):
        with Log() as log:
            return run(tiny_config, tiny_dataset, tmp_path / folder, log, resume=resume)[2]

    whole = train("whole")
    monkeypatch.setattr(Session, "train_steps", train_steps)
    with pytest.raises(Stopped):
        train("cut")
    assert (tmp_path / "cut" / "checkpoints" / "10").exists()
    resumed = train("cut", resume=True)
    jax.tree.map(np.testing.assert_array_equal, resumed, whole)
    lines = [
        [(r["step"], r["loss"], r["sigma"]) for r in map(json.loads, text.splitlines())]
        for text in ((tmp_path / name / "metrics.jsonl").read_text() for name in ("whole", "cut"))
    ]
    assert lines[0] == lines[1]


def test_each_line_of_a_call_is_written_at_its_step(tiny_config, tiny_dataset, tmp_path):
    lines = []
    for size in (1, 6):
        session = Session(
            _slow(tiny_config, log_every=2), tiny_dataset, jax.devices()[:1], steps_per_call=size
        )
        with Log() as log:
            path = tmp_path / f"{size}.jsonl"
            log.start(path, write=True, total_steps=12, steps_per_epoch=STEPS)
            state = session.place(session.initial_state)
            recorder = loop._Recorder(session, log)
            for epoch in (0, 1):
                state, _ = loop._epoch(session, state, epoch, recorder, lambda: None)
            lines.append(log.records)
        assert [line["step"] for line in log.records] == [2, 4, 6, 8, 10, 12]
    for one, many in zip(*lines, strict=True):
        assert many["loss"] == pytest.approx(one["loss"], rel=1e-4)
        assert many["accuracy"] == pytest.approx(one["accuracy"], abs=1 / 16)
        assert many["images_per_second"] > 0


def test_the_step_that_is_not_finite_is_named_within_a_call(tiny_config, tiny_dataset, tmp_path):
    session = Session(tiny_config, tiny_dataset, jax.devices()[:1], steps_per_call=2)
    rows = session.epoch_order(0)
    state = session.place(session.initial_state)
    state, _ = session.train_steps(state, rows[:2], 0)
    infinite = np.asarray(state.sums) * [np.inf, 1, 1]
    state = session.place(jax.device_get(state).replace(sums=infinite.astype(np.float32)))
    with Log() as log:
        log.start(tmp_path / "m.jsonl", write=True, total_steps=12, steps_per_epoch=STEPS)
        recorder = loop._Recorder(session, log)
        with pytest.raises(RunError, match="loss is not finite at step 3, epoch 1"):
            loop._epoch(session, state, 0, recorder, lambda: None)
    assert not log.records
