"""Runs that are killed."""

import dataclasses
import json
import time

import numpy as np
import pytest
import runs

from lgnn_jax.training import checkpoint


def _kill_at_random(process, run_dir, rng):
    """Kills a process up to 1.5 s after its first epoch, in which it makes some more.

    Now and then that is while it writes a checkpoint: one takes a tenth of the time.
    """
    before = max(checkpoint.Checkpoints(run_dir).steps(), default=0)
    metrics, limit = run_dir / "metrics.jsonl", time.monotonic() + 120
    # A run that goes on first cuts its metrics off at its checkpoint, into a new file.
    old = metrics.stat().st_ino if metrics.exists() else None
    while not metrics.exists() or metrics.stat().st_ino == old or _last_step(metrics) <= before:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < limit
        time.sleep(0.01)
    time.sleep(rng.uniform(0, 1.5))
    process.kill()
    process.communicate()


def _last_step(metrics):
    """The step of the last line that is written whole; 0 if there is none."""
    lines = metrics.read_text().split("\n")[:-1]
    return json.loads(lines[-1])["step"] if lines else 0


@pytest.mark.parametrize(
    "kills", [20, pytest.param(200, marks=pytest.mark.soak)], ids=["20 kills", "200 kills"]
)
def test_a_run_that_is_killed_again_and_again(tiny_config, tmp_path, launch, kills):
    # A fast machine makes some six epochs from one kill to the next: the run is not to end before.
    config = dataclasses.replace(tiny_config, epochs=8 * kills, variant="decreasing")
    rng = np.random.default_rng(kills)
    # Checkpoints on the way take time and change nothing.
    straight = dataclasses.replace(config, checkpoint_every=config.epochs)
    process = launch(straight, tmp_path / "straight")
    assert process.wait(1200) == 0, process.communicate()[0]
    process.communicate()
    run_dir = tmp_path / "killed"
    resumed = []
    for _ in range(kills):
        process = launch(config, run_dir)
        _kill_at_random(process, run_dir, rng)
        resumed.append(checkpoint.Checkpoints(run_dir).steps()[-1:])
    assert resumed == sorted(resumed)  # a checkpoint is never lost
    assert len({str(step) for step in resumed}) > kills / 4  # and there were many to lose
    process = launch(config, run_dir)
    output = process.communicate(timeout=1200)[0]
    assert process.returncode == 0, output
    for name in ("straight", "killed"):
        assert [path.name for path in (tmp_path / name / "checkpoints").glob(".*")] == []
    assert runs.records(run_dir) == runs.records(tmp_path / "straight")
    step = str(6 * config.epochs)
    manifests = [
        json.loads((tmp_path / name / "checkpoints" / step / "manifest.json").read_text())
        for name in ("straight", "killed")
    ]
    assert manifests[0]["arrays"] == manifests[1]["arrays"]
    states = [runs.newest(config, tmp_path / name) for name in ("straight", "killed")]
    runs.assert_same(*states)
