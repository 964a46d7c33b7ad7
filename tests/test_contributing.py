"""The three errands of CONTRIBUTING, carried out as they stand there."""

import re
from pathlib import Path

import numpy as np
import pytest

import lgnn_jax as lgnn
from lgnn_jax.cli import main
from lgnn_jax.maps.shapes import Map
from lgnn_jax.training.own import load

TEXT = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()
FILES = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", TEXT, re.DOTALL))
TINY = [
    "train", "--epochs", "1", "--batch-size", "16", "--data.train-images", "32",
    "--optimizer.decay-epochs", "1",
]  # fmt: skip


@pytest.fixture
def errands(folder):
    for name, text in FILES.items():
        (folder / name).write_text(text)
    return folder


def test_there_are_three():
    assert set(FILES) == {"moebius.py", "neighbours.py", "small.py"}


def test_a_shape_of_ones_own(errands):
    map = load("moebius.py", "map")(12)
    assert (map.count, str(map)) == (12, "Moebius strip of 12")
    assert isinstance(map, Map)
    # Above the strip's first end lies the second one's lower row.
    edges = {tuple(pair) for pair in map.edges().tolist()}
    assert {(0, 1), (0, 6), (0, 11), (5, 6)} <= edges
    assert (0, 5) not in edges
    assert (np.bincount(map.laplacian().astype(bool).sum(0)) > 0).any()
    tx = lgnn.transform({12: map})
    params = {"kernel": np.zeros((1, 1, 2, 12), np.float32)}
    params["kernel"][..., 0] = 1
    spread = np.asarray(tx.update(params, tx.init(params))[0]["kernel"][0, 0, 0])
    assert spread[11] == pytest.approx(spread[1], rel=0.1)
    assert spread[11] > 2 * spread[5] > 0  # across the seam, and at a corner beyond it


@pytest.mark.parametrize(
    ("option", "name"),
    [("--som.map", "moebius.py"), ("--variant", "neighbours.py"), ("--model.name", "small.py")],
)
def test_each_is_trained(errands, capsys, option, name):
    main([*TINY, "--model.width", "0.0625", option, name, "--run-dir", "run"])
    out = capsys.readouterr().out
    assert "test accuracy" in out
    assert (option != "--som.map") or "Moebius strip of" in out
    main(["evaluate", "run"])
    assert "test accuracy" in capsys.readouterr().out
