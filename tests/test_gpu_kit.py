"""The kit of benchmarks/gpu, on a CPU at its tiny size."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from flags import FAST

GPU = Path(__file__).resolve().parents[1] / "benchmarks" / "gpu"


@pytest.fixture
def pieces(monkeypatch):
    monkeypatch.syspath_prepend(GPU)
    import pieces

    return pieces


@pytest.fixture
def packed(pieces, tiny_dataset, tmp_path, monkeypatch):
    """Two pieces: their size is made as small as half of the images."""
    monkeypatch.setattr(pieces, "_STRIP", 25)
    monkeypatch.setattr(pieces, "MOST_BYTES", 250_000)
    written = pieces.pack(tiny_dataset, tmp_path / "kit")
    assert [path.name for path in written] == ["manifest.json", "random_1.zip", "random_2.zip"]
    return tmp_path / "kit"


def _kit(*argv, script=GPU / "kit.py"):
    """Starts the kit; its children are of its process group."""
    return subprocess.Popen(
        [sys.executable, str(script), *map(str, argv)],
        env=os.environ | {"XLA_FLAGS": FAST},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def test_images_come_out_as_they_went_in(pieces, packed, tiny_dataset):
    found = pieces.unpack(packed)
    assert found.class_names == tiny_dataset.class_names
    for name in ("train_images", "train_labels", "test_images", "test_labels"):
        np.testing.assert_array_equal(getattr(found, name), getattr(tiny_dataset, name))
        assert getattr(found, name).dtype == getattr(tiny_dataset, name).dtype


def test_pieces_are_received_one_by_one(packed, tmp_path, pieces):
    store = tmp_path / "store"
    (second := packed / "random_2.zip").rename(tmp_path / "later.zip")
    said = _kit("receive", "--kit", packed, "--store", store).communicate()[0]
    assert said == "missing: random_2.zip\n"
    with pytest.raises(pieces.PieceError, match=r"random_2\.zip is missing: bring it"):
        pieces.unpack(store)
    (packed / "random_1.zip").unlink()  # it need not come again
    (tmp_path / "later.zip").rename(second)
    said = _kit("receive", "--kit", packed, "--store", store).communicate()[0]
    assert said == "the data set is complete\n"
    assert len(pieces.unpack(store).train_images) == 100


def test_a_damaged_piece_is_named(packed, tmp_path, pieces):
    piece = packed / "random_1.zip"
    data = bytearray(piece.read_bytes())
    data[len(data) // 2] ^= 1
    piece.write_bytes(data)
    with pytest.raises(pieces.PieceError, match=r"random_1\.zip is damaged: its SHA-256"):
        pieces.unpack(packed)
    process = _kit("receive", "--kit", packed, "--store", tmp_path / "store")
    assert "random_1.zip is damaged: its SHA-256 is" in process.communicate()[0]
    assert process.returncode == 1
    (packed / "manifest.json").write_text("{")
    with pytest.raises(pieces.PieceError, match=r"manifest\.json cannot be read"):
        pieces.unpack(packed)


def test_grey_images_are_refused(pieces, tiny_dataset, tmp_path):
    import dataclasses

    grey = {f"{s}_images": getattr(tiny_dataset, f"{s}_images")[..., :1] for s in ("train", "test")}
    with pytest.raises(pieces.PieceError, match="must have 3 channels, got 1"):
        pieces.pack(dataclasses.replace(tiny_dataset, **grey), tmp_path)


def _lines(out):
    return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]


def test_what_is_done_is_not_done_again_and_what_failed_is(tmp_path):
    """The first tasks; a result that is torn, and one that failed, are made again."""
    out, store = tmp_path / "out", tmp_path / "store"
    command = ["work", "--tiny", "--only", "machine", "smoke/forms", "--store", store, "--out", out]
    process = _kit(*command)
    said = process.communicate()[0]
    assert process.returncode == 0, said
    found = [(line["task"], line["status"]) for line in _lines(out)]
    expected = [(task, s) for task in ("machine", "smoke/forms") for s in ("begun", "done")]
    assert found == expected
    assert "relative error: auto, float32" in said
    failed = {"task": "machine", "status": "failed", "why": "it was unplugged"}
    results, torn = out / "results.jsonl", json.dumps(_lines(out)[-1])[:40]
    results.write_text(json.dumps(failed) + "\n" + torn)
    said = _kit("report", "--out", out).communicate()[0]
    assert "machine failed: it was unplugged" in said
    _kit(*command).communicate()
    assert results.read_text().splitlines()[1] == torn
    results.write_text(results.read_text().replace(torn + "\n", ""))
    assert [(line["task"], line["status"]) for line in _lines(out)[1:]] == expected
    before = results.read_bytes()
    _kit(*command).communicate()
    assert results.read_bytes() == before


@pytest.fixture
def with_tasks(monkeypatch, tmp_path):
    """Returns a function that works down a list of other tasks; it gives what is said, and lines.

    They are written as Python, `name: body`, and take the place of those of tasks.py.
    """

    def start(bodies, *options):
        folder = tmp_path / "gpu"
        shutil.copytree(GPU, folder, dirs_exist_ok=True)
        text = (GPU / "tasks.py").read_text()
        functions = "".join(f"def _{name}(kit):\n    {body}\n" for name, body in bodies.items())
        listed = ", ".join(f"Task('{name}', 'alone', 0, _{name})" for name in bodies)
        main = text.index("if __name__")
        replaced = f"{functions}\ndef tasks():\n    return [{listed}]\n\n"
        (folder / "tasks.py").write_text(text[:main] + replaced + text[main:])
        command = ["work", "--tiny", "--store", tmp_path / "store", "--out", tmp_path / "out"]
        return _kit(*command, *options, script=folder / "kit.py")

    return start


def test_a_task_that_ends_its_process_costs_no_other_task(with_tasks, tmp_path):
    process = with_tasks(
        {"one": "return {}", "two": "os.abort()", "three": "1 / 0", "four": "return {'a': 4}"}
    )
    said = process.communicate()[0]
    assert process.returncode == 1
    assert "two: its process ended with status -6" in said
    last = {line["task"]: line for line in _lines(tmp_path / "out")}
    statuses = {"one": "done", "two": "failed", "three": "failed", "four": "done"}
    assert {name: line["status"] for name, line in last.items()} == statuses
    assert last["three"]["why"] == "ZeroDivisionError: division by zero"
    assert "2 tasks are left: two, three" in said


@pytest.mark.parametrize("how", ["time", signal.SIGTERM, signal.SIGINT])
def test_what_is_under_way_is_asked_to_end(with_tasks, tmp_path, how):
    """By an exception in the task; then tables are printed. The next call begins it again."""
    mark = tmp_path / "ended"
    body = f"""
    try:
        time.sleep(60)
    finally:
        Path({str(mark)!r}).touch()"""
    seconds = "4" if how == "time" else "60"
    started = time.time()
    process = with_tasks({"one": "return {}", "long": body}, "--seconds", seconds)
    if how != "time":
        while '"long"' not in _text(tmp_path / "out" / "results.jsonl"):
            time.sleep(0.1)
        if how == signal.SIGINT:  # from a terminal, to all of its processes
            os.killpg(process.pid, how)
        else:
            process.send_signal(how)
    said = process.communicate()[0]
    assert time.time() - started < 30
    assert mark.exists()
    if how == signal.SIGTERM:
        assert process.returncode == 143
    else:
        assert "1 tasks are left: long" in said
    assert [line["status"] for line in _lines(tmp_path / "out")] == ["begun", "done", "begun"]
    again = with_tasks({"one": "1 / 0", "long": "return {}"})
    said = again.communicate()[0]
    assert again.returncode == 0, said


def _text(path):
    return path.read_text() if path.exists() else ""


def test_without_a_gpu_the_kit_says_so_and_stops(tmp_path):
    process = _kit("work", "--store", tmp_path / "store", "--out", tmp_path / "out")
    said = process.communicate()[0]
    assert "machine: JAX finds no GPU: install jax[cuda12]" in said
    assert process.returncode == 1
    assert {line["task"] for line in _lines(tmp_path / "out")} == {"machine"}


@pytest.mark.soak
def test_a_kit_that_is_killed_three_times_has_the_same_results_in_the_end(tmp_path):
    """All but PyTorch's tasks and the timings, from the one command to its last line."""

    def results(name, kills=()):
        out = tmp_path / name / "out"
        only = ["machine", "smoke", "filter", "time", "profile", "table", "together/in", "flags"]
        command = ["work", "--tiny", "--seconds", "3600", "--store", tmp_path / name / "store"]
        command += ["--out", out, "--only", *only]
        for seconds in kills:
            process = _kit(*command)
            time.sleep(seconds)
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        process = _kit(*command)
        said = process.communicate()[0]
        assert process.returncode == 0, said
        lines = map(json.loads, (out / "results.jsonl").read_text().splitlines())
        found = {entry["task"]: entry for entry in lines}
        assert {entry["status"] for entry in found.values()} == {"done"}
        for entry in found.values():
            entry.pop("seconds")
            entry["result"].pop("timing", None)
        return found

    whole = results("whole")
    seconds = sorted(random.uniform(5, 90) for _ in range(3))
    assert results("cut", seconds) == whole
