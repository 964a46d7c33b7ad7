import io

import jax
import numpy as np
import pytest
from rich.console import Console

from lgnn_jax.cli import layer_tables
from lgnn_jax.training import trained
from lgnn_jax.training.errors import RunError


def test_tables_fit_80_columns(printed):
    """Whatever the numbers, for the longest names of layers; 0 has no sign."""
    figure = {"value": -0.0004, "shuffled": -0.00001, "shuffled_deviation": 0.1, "z": 0, "p": 0.005}
    weights = dict.fromkeys(("neighbours", "morans_i", "trustworthiness"), figure)
    weights |= {"effective_dimensionality": 99.96, "dead": []}
    layers = {
        layer: {
            "map": [32, 20],
            "weights": weights,
            "untrained_weights": {"effective_dimensionality": 639.6},
            "sorted_after_training": weights,
        }
        for layer in ("stem", "group3_block4/conv2", "group3_block0/shortcut")
    }
    layers["stem"] = layers["stem"] | {
        "weights": weights | {"neighbours": figure | {"value": -0.001, "shuffled": -0.123}}
    }
    said = printed({"runs": {"a": {"step": 1, "layers": layers}}}).splitlines()
    assert max(map(len, said)) <= 80
    (row,) = [line for line in said if line.startswith("stem")]
    assert row.split() == [
        "stem", "32x20", "-0.001", "(-0.123)", "0.005", "0.000", "0.000", "0.000", "100", "(640)"
    ]  # fmt: skip
    assert "-0.000" not in "".join(said)
    assert "conv2" in " ".join(said)
    wide = printed({"runs": {"a": {"step": 1, "layers": layers}}}, width=100)
    assert "group3_block0/shortcut  32x20" in wide


def test_the_table_of_a_run_with_dead_filters(runs, tiny_dataset):
    (t,) = trained.load(runs[1:], tiny_dataset)
    params = jax.tree.map(np.array, t.params)
    params["conv4_1"]["kernel"][:] = 0.1
    console = Console(file=io.StringIO(), width=80)
    layer_tables.topography(console, t.plan, params, {})
    rows = [line.split() for line in console.file.getvalue().splitlines()]
    assert ["conv4_1", "8x4", "\u2013", "\u2013"] in rows
    assert sum("\u2013" in row for row in rows) == 1


def test_parameters_that_are_not_finite(runs, tiny_dataset):
    (t,) = trained.load(runs[1:], tiny_dataset)
    params = jax.tree.map(np.array, t.params)
    params["bn3_1"]["bias"][0] = np.nan
    with pytest.raises(RunError, match="bn3_1/bias has nan among its values: all parameters must"):
        layer_tables.topography(Console(quiet=True), t.plan, params, {})


def test_layers_on_maps_of_any_shape(printed):
    figure = {"value": 0.5, "shuffled": 0.0, "shuffled_deviation": 0.1, "z": 5, "p": 0.005}
    weights = dict.fromkeys(("neighbours", "morans_i", "trustworthiness"), figure)
    weights |= {"effective_dimensionality": 9.0, "dead": [3, 4]}
    layer = {
        "map": "sphere of 12",
        "neurons": 12,
        "weights": weights,
        "untrained_weights": {"effective_dimensionality": 9.0},
        "sorted_after_training": weights,
    }
    said = printed({"runs": {"a": {"step": 1, "layers": {"stem": layer}}}})
    assert "stem: 2 of 12 filters dead" in said
    (row,) = [line for line in said.splitlines() if line.startswith("stem  ")]
    assert row.split()[1:5] == ["sphere", "of", "12", "0.500"]
