"""Checkpoints that are damaged, of another run, or cannot be written."""

import errno
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import runs

from lgnn_jax.training import checkpoint


@pytest.fixture
def saved(tmp_path):
    """Checkpoints of steps 3 and 6, and what they hold."""
    states = {step: _state(step) for step in (3, 6)}
    checkpoints = checkpoint.Checkpoints(tmp_path)
    for step, state in states.items():
        checkpoints.save(step, state)
    return tmp_path, states


def _state(step):
    rng = np.random.default_rng(step)
    return {
        "step": np.int32(step),
        "params": {"kernel": rng.normal(size=(3, 3, 4)).astype(np.float32)},
        "moments": [jnp.asarray(rng.normal(size=5), jnp.bfloat16)],
    }


def _files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "a flipped byte": _flip,
    "a truncated file": lambda path: os.truncate(path, path.stat().st_size // 2),
    "an empty file": lambda path: os.truncate(path, 0),
    "a missing file": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_to_any_file_is_noticed_and_the_one_before_is_taken(saved, damage):
    folder, states = saved
    newest = folder / "checkpoints/6"
    whole = folder / "whole"
    shutil.copytree(newest, whole)
    for path in _files(newest):
        DAMAGE[damage](path)
        said = []
        found = checkpoint.Checkpoints(folder, say=said.append).restore(_state(0))
        (line,) = said
        assert line.startswith("checkpoint 6 is passed over: ")
        assert str(path.name) in line
        runs.assert_same(found, states[3])
        shutil.rmtree(newest)
        shutil.copytree(whole, newest)
    runs.assert_same(checkpoint.Checkpoints(folder).restore(_state(0)), states[6])


def test_damaged_checkpoints_do_not_push_out_good_ones(saved):
    """A run that went on from step 3 saves 5: the damaged 6 is put aside and 3 is kept."""
    folder, states = saved
    _flip(_files(folder / "checkpoints/6/state")[0])
    checkpoints = checkpoint.Checkpoints(folder, say=lambda line: None)
    runs.assert_same(checkpoints.restore(_state(0)), states[3])
    checkpoints.save(5, _state(5))
    assert checkpoints.steps() == [3, 5]
    assert (folder / "checkpoints/6.damaged/manifest.json").exists()
    runs.assert_same(checkpoints.restore(_state(0)), _state(5))


@pytest.mark.parametrize(
    ("text", "message"),
    [("[" * 200_000, "RecursionError"), ("{}", "KeyError"), ("[]", "TypeError")],
)
def test_a_hostile_manifest_is_passed_over(saved, text, message):
    folder, states = saved
    (folder / "checkpoints/6/manifest.json").write_text(text)
    said = []
    runs.assert_same(checkpoint.Checkpoints(folder, say=said.append).restore(_state(0)), states[3])
    assert message in said[0]


def test_a_file_that_cannot_be_read_is_passed_over(saved, monkeypatch):
    folder, states = saved
    digest = checkpoint._digest

    def failing(path):
        if "checkpoints/6/" in str(path):
            raise OSError(errno.EIO, "Input/output error", str(path))
        return digest(path)

    monkeypatch.setattr(checkpoint, "_digest", failing)
    said = []
    runs.assert_same(checkpoint.Checkpoints(folder, say=said.append).restore(_state(0)), states[3])
    assert re.search(r"6/state/\S+ cannot be read: Input/output error\.", said[0])


def test_a_disk_that_is_full_only_when_it_is_waited_for(saved, monkeypatch):
    folder, states = saved

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(checkpoint.CheckpointError, match="No space left on device"):
        checkpoint.Checkpoints(folder).save(9, _state(9))
    assert checkpoint.Checkpoints(folder).steps() == [3, 6]
    runs.assert_same(checkpoint.Checkpoints(folder).restore(_state(0)), states[6])


def test_no_old_checkpoint_goes_before_the_new_one_counts(saved, monkeypatch):
    folder, _ = saved

    def failing(self, target):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(checkpoint.CheckpointError, match="step 9"):
        checkpoint.Checkpoints(folder).save(9, _state(9))
    assert checkpoint.Checkpoints(folder).steps() == [3, 6]


def test_no_whole_checkpoint_is_an_error_and_none_is_not(saved, tmp_path):
    folder, _ = saved
    for step in (3, 6):
        _flip(_files(folder / f"checkpoints/{step}/state")[0])
    with pytest.raises(checkpoint.CheckpointError, match="holds no checkpoint that is whole"):
        checkpoint.Checkpoints(folder, say=lambda line: None).restore(_state(0))
    assert checkpoint.Checkpoints(tmp_path / "nothing").restore(_state(0)) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"params": {"kernel": np.zeros((3, 3, 5), np.float32)}},
            r"params/kernel is float32 \(3, 3, 4\), this run's is float32 \(3, 3, 5\)",
        ),
        (
            {"params": {"kernel": np.zeros((3, 3, 4), np.float16)}},
            r"params/kernel is float32 .* float16",
        ),
        ({"params": {"bias": np.zeros(4, np.float32)}}, "has no params/bias, float32"),
        ({"moments": []}, "has a moments/0, which this run has not"),
    ],
)  # fmt: skip
def test_arrays_of_another_run_are_named(saved, change, message):
    folder, _ = saved
    with pytest.raises(checkpoint.CheckpointError, match=message):
        checkpoint.Checkpoints(folder).restore(_state(0) | change)


def test_what_a_killed_run_left_is_removed(saved):
    folder, _ = saved
    (folder / "checkpoints/.writing-9/state").mkdir(parents=True)
    checkpoints = checkpoint.Checkpoints(folder)
    assert checkpoints.steps() == [3, 6]
    checkpoints.save(9, _state(9))
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["6", "9"]


def test_a_full_disk_is_told_and_costs_no_earlier_checkpoint(saved):
    """A limit on the size of files, in a process of its own, stands for the disk."""
    folder, states = saved
    script = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "import numpy as np\n"
        "from lgnn_jax.training.checkpoint import CheckpointError, Checkpoints\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))\n"
        "large = np.random.default_rng(0).normal(size=500_000)\n"
        "try:\n"
        "    Checkpoints(Path(sys.argv[1])).save(9, {'large': large})\n"
        "except CheckpointError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder)], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("cannot write the checkpoint of step 9 to ")
    assert done.stdout.count("\n") == 1
    checkpoints = checkpoint.Checkpoints(folder)
    assert checkpoints.steps() == [3, 6]
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["3", "6"]
    runs.assert_same(checkpoints.restore(_state(0)), states[6])


def test_sys_exit_after_a_save_leaves_it_whole(tmp_path):
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "import numpy as np\n"
        "from lgnn_jax.training.checkpoint import Checkpoints\n"
        "Checkpoints(Path(sys.argv[1])).save(4, {'x': np.arange(1000.0)})\n"
        "sys.exit(3)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
    assert done.returncode == 3
    found = checkpoint.Checkpoints(tmp_path).restore({"x": np.zeros(1000)})
    np.testing.assert_array_equal(found["x"], np.arange(1000.0))
