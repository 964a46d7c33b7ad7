"""The kit of benchmarks/gpu, on a CPU at its tiny size."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

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


def _kit(*argv, **options):
    """Starts the kit; its children are of its process group."""
    return subprocess.Popen(
        [sys.executable, str(GPU / "kit.py"), *map(str, argv)],
        env=os.environ | {"XLA_FLAGS": "--xla_backend_optimization_level=0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        **options,
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


def test_what_is_done_is_not_done_again_and_what_failed_is(tmp_path):
    """The first tasks; a result that is torn, and one that failed, are made again."""
    out, store = tmp_path / "out", tmp_path / "store"
    command = ["work", "--tiny", "--only", "machine", "smoke/forms", "--store", store, "--out", out]
    process = _kit(*command)
    said = process.communicate()[0]
    assert process.returncode == 0, said
    results = out / "results.jsonl"
    lines = results.read_text().splitlines()
    assert [json.loads(line)["task"] for line in lines] == ["machine", "smoke/forms"]
    assert "relative error: auto, float32" in said
    failed = {"task": "machine", "status": "failed", "why": "it was unplugged"}
    results.write_text(json.dumps(failed) + "\n" + lines[1][:40])
    said = _kit("report", "--out", out).communicate()[0]
    assert "machine failed: it was unplugged" in said
    _kit(*command).communicate()
    again = results.read_text().splitlines()
    assert [json.loads(line)["task"] for line in again[2:]] == ["machine", "smoke/forms"]
    before = results.read_bytes()
    _kit(*command).communicate()
    assert results.read_bytes() == before


def test_without_a_gpu_the_kit_says_so_and_stops(tmp_path):
    process = _kit("work", "--store", tmp_path / "store", "--out", tmp_path / "out")
    said = process.communicate()[0]
    assert "machine: JAX finds no GPU: install jax[cuda12]" in said
    assert len((tmp_path / "out" / "results.jsonl").read_text().splitlines()) == 1


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
