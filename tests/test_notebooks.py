"""Notebooks are run as a reader would, and kept as they came out."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from flags import FAST

FOLDER = Path(__file__).parents[1] / "notebooks"
NAMES = sorted(path.stem for path in FOLDER.glob("*.ipynb"))

_spec = importlib.util.spec_from_file_location("execute", FOLDER / "execute.py")
execute = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(execute)


def _execute(which, folder, *, flags=""):
    """A notebook's outputs, of a process of its own: what its kernel warns of is not ours."""
    out = folder / "out"
    out.mkdir(exist_ok=True)
    subprocess.run(
        [sys.executable, FOLDER / "execute.py", which, "--folder", folder, "--out", out],
        env=os.environ | {"XLA_FLAGS": flags},
        check=True,
        timeout=3000,
    )
    return nbformat.read(out / Path(which).with_suffix(".ipynb").name, as_version=4)


def _read(name):
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def _outputs(notebook):
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def test_there_are_four():
    assert NAMES == ["colab_tpu", "quickstart", "see_a_network", "your_own_network"]


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_kept_with_outputs_of_one_clean_execution(name):
    notebook = _read(name)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = _outputs(notebook)
    assert not [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]
    assert sum("image/png" in o.get("data", {}) for o in outputs) >= 2
    assert (FOLDER / f"{name}.ipynb").stat().st_size < 1_000_000


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_says_nothing_of_the_machine_that_it_ran_on(name):
    notebook = _read(name)
    assert notebook.metadata == execute.METADATA
    assert not any(cell.metadata for cell in notebook.cells)
    assert execute.paths(notebook) == []
    # What no reader would scroll through.
    assert all(text.count("\n") < 60 for text in execute.texts(notebook))


@pytest.mark.parametrize("name", NAMES)
def test_the_first_cell_says_what_it_is_how_long_it_takes_and_on_what(name):
    first = _read(name).cells[0]
    assert first.cell_type == "markdown"
    assert first.source.startswith("# ")
    assert "minute" in first.source
    assert "CPU cores" in first.source


def test_paths_of_a_machine_are_found_and_addresses_are_not():
    output = nbformat.v4.new_output(
        "stream", text="see https://a.org/b/c and runs/quickstart, 3/4, /home/me/lib.py:3"
    )
    cell = nbformat.v4.new_code_cell("", outputs=[output])
    assert execute.paths(nbformat.v4.new_notebook(cells=[cell])) == ["/home/me/lib.py"]


def test_a_long_run_is_one_short_output_in_a_notebook(tmp_path):
    source = """
from pathlib import Path
from types import SimpleNamespace

from rich.console import Console

from lgnn_jax.training.log import Log
from lgnn_jax.cli.stages import Stages

with Log() as log:
    log.say("begun")
    with log.doing("compiling"):
        pass
    log.start(Path("metrics.jsonl"), write=True, total_steps=3000, steps_per_epoch=10)
    for step in range(1, 3001):
        log.progress(step, SimpleNamespace(loss=0.25, accuracy=0.5))
        if step % 10 == 0:
            log.record(step=step, epoch=step // 10 - 1, split="test", accuracy=0.75)
with Log(Console(quiet=True)) as log, log.doing("nothing that is to be seen"):
    pass
with Stages(Console()) as stages:
    for i in range(100):
        stages("numbers", i, 100)
"""
    path = tmp_path / "long.ipynb"
    cell = nbformat.v4.new_code_cell(source)
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
    [log, stages] = _outputs(_execute(str(path), tmp_path))
    lines = log.data["text/plain"].splitlines()
    assert lines[0] == "begun"
    assert lines[3] == "... 289 lines ..."
    assert lines[-2] == "epoch 300/300  test 75.00%"
    bar, _, status = lines[-1].partition("  ")
    assert bar == 40 * "\u2501"
    assert status == "epoch 300/300  step 3000/3000  loss 0.250  accuracy 50.0%"
    assert len(lines) == 14
    assert stages.data["text/plain"] == ""  # nothing is left of what only waited


def test_interrupting_a_cell_writes_a_checkpoint_and_the_kernel_lives_on(tmp_path):
    source = """
import os
import signal
from pathlib import Path

from lgnn_jax.training import data
from lgnn_jax.training.config import Config, Data, Model
from lgnn_jax.training.log import Log
from lgnn_jax.training.run import run
from lgnn_jax.training.signals import Stopped

config = Config(epochs=1000, model=Model(width=1 / 16), data=Data("digits", train_images=256))


class Interrupted(Log):
    def progress(self, step, metrics):
        if step == 3:
            os.kill(os.getpid(), signal.SIGINT)  # as a notebook's button does


try:
    with Interrupted() as log:
        run(config, data.load("digits", train_images=256), Path("run"), log)
except Stopped as stopped:
    print(stopped, os.listdir("run/checkpoints"))
"""
    path = tmp_path / "interrupted.ipynb"
    cells = [nbformat.v4.new_code_cell(text) for text in (source, "print('alive')")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    flags = FAST
    first, second = _execute(str(path), tmp_path, flags=flags).cells
    assert first.outputs[-1].text == "SIGINT ['4']\n"
    assert second.outputs[0].text == "alive\n"


@pytest.mark.soak
@pytest.mark.parametrize("name", ["quickstart", "your_own_network"])
def test_a_notebook_runs_from_top_to_bottom(name, tmp_path):
    notebook = _execute(name, tmp_path)
    assert not [o for o in _outputs(notebook) if o.get("name") == "stderr"]


@pytest.mark.soak
def test_the_notebook_for_tpus_runs_on_two_devices_and_goes_on_after_a_disconnect(tmp_path):
    def last_line(notebook):
        return next(t for t in execute.texts(notebook) if t.startswith("test accuracy"))

    # Beside other work a device may keep the other one waiting for longer than XLA's 40 seconds.
    flags = (
        "--xla_force_host_platform_device_count=2 "
        "--xla_cpu_collective_call_terminate_timeout_seconds=600"
    )
    first = _execute("colab_tpu", tmp_path, flags=flags)
    assert any(text.startswith("2 x ") for text in execute.texts(first))
    [run_dir] = (tmp_path / "runs").iterdir()
    (run_dir / "summary.json").unlink()
    checkpoints = sorted((run_dir / "checkpoints").iterdir(), key=lambda path: int(path.name))
    shutil.rmtree(checkpoints[-1])
    second = _execute("colab_tpu", tmp_path, flags=flags)
    assert last_line(second) == last_line(first)
