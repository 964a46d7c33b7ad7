"""Run directories that another process is in, or whose config is none."""

import contextlib
import dataclasses
import errno
import re
import subprocess
import sys

import filelock
import pytest
import runs

from lgnn_jax.training import run as run_lib
from lgnn_jax.training import run_dir as run_dir_lib
from lgnn_jax.training.errors import RunError


@pytest.mark.usefixtures("one_device")
def test_a_run_that_another_process_began_meanwhile_is_left_alone(
    tiny_config, tiny_dataset, tmp_path, monkeypatch
):
    locked = run_lib.locked

    @contextlib.contextmanager
    def late(run_dir):
        with locked(run_dir):
            (run_dir / "config.json").write_text("{}")
            yield

    monkeypatch.setattr(run_lib, "locked", late)
    with pytest.raises(RunError, match="already holds a run"):
        runs.train(tiny_config, tiny_dataset, tmp_path / "run")
    assert (tmp_path / "run/config.json").read_text() == "{}"


@pytest.mark.usefixtures("one_device")
def test_a_file_system_without_locks_is_trained_on(
    tiny_config, tiny_dataset, tmp_path, monkeypatch
):
    def without(self):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(filelock.FileLock, "acquire", without)
    runs.train(dataclasses.replace(tiny_config, epochs=1), tiny_dataset, tmp_path / "run")


@pytest.mark.usefixtures("one_device")
def test_two_processes_on_one_run_directory(tiny_config, tiny_dataset, tmp_path):
    """The second one stops; once the first is killed, its lock is gone."""
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    script = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from lgnn_jax.training.run_dir import locked\n"
        "with locked(Path(sys.argv[1])):\n"
        "    print('locked', flush=True)\n"
        "    time.sleep(600)\n"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", script, str(run_dir)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(RunError, match=rf"is in use: process {other.pid} on \S+ trains in it"):
            runs.train(tiny_config, tiny_dataset, run_dir)
        assert not (run_dir / "config.json").exists()
    finally:
        other.kill()
        other.communicate()
    config = dataclasses.replace(tiny_config, epochs=1)
    runs.train(config, tiny_dataset, run_dir)


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "../../etc"}', '{"name": "/tmp/x"}', '{"name": "a/b"}', '{"epochs": 1e400}',
        '{"epochs": 99999999999999999999999}', '{"seed": -1}', '{"model": {"width": NaN}}',
        '{"model": {"__class__": "os.system"}}', '{"som": {"table": {"(": [4, 4]}}}', "[]", "",
        "nul", '{"model": {"width": 1e300}}', '{"optimizer": {"decay_epochs": [1e99]}}',
        '{"epochs": "__import__(1)"}', '{"batch_size": true}',
    ],
)  # fmt: skip
def test_a_hostile_config_is_refused_in_one_line(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(RunError) as error:
        run_dir_lib.load_config(tmp_path)
    assert "\n" not in str(error.value)
    assert re.search(r"config\.json: ", str(error.value))
