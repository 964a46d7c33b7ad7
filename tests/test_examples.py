"""The examples run, and print what they promise; on a few images and for a few steps."""

import sys
from pathlib import Path

import numpy as np
import pytest

from lgnn_jax.training import data

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))

import train_a_map


@pytest.fixture(autouse=True)
def few_images(monkeypatch):
    rng = np.random.default_rng(0)

    def images(count):
        labels = np.arange(count, dtype=np.int32) % 10
        noise = rng.integers(0, 90, (count, 32, 32, 3))
        return (noise + 15 * labels[:, None, None, None]).astype(np.uint8), labels

    few = data.Dataset("few", *images(256), *images(100), tuple("abcdefghij"))
    monkeypatch.setattr(data, "load", lambda *_: few)
    monkeypatch.setattr(train_a_map, "SHOWN", 100)
    _, table = train_a_map.NETWORKS["transformer"]
    small = train_a_map.VisionTransformer(blocks=1)
    monkeypatch.setitem(train_a_map.NETWORKS, "transformer", (small, table))


@pytest.mark.parametrize("network", train_a_map.NETWORKS)
def test_a_map_is_trained_in(network, capsys):
    train_a_map.main(network, steps=12)
    heading, columns, plain, trained = capsys.readouterr().out.splitlines()
    assert heading.startswith(f"{network}, 12 steps, 100 test images")
    assert columns.split() == [
        "accuracy", "neighbours", "class", "maps", "trustworthiness", "dimension",
    ]  # fmt: skip
    for line, name in ((plain, "plain, settled"), (trained, "trained into a map")):
        assert line.startswith(name)
        assert len(line) == len(columns)
        accuracy, neighbours = line.removeprefix(name).split()[0:3:2]
        assert 0 <= float(accuracy) <= 100
        assert -1 <= float(neighbours) <= 1
