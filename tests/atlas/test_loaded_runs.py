import json
import shutil

import jax
import numpy as np
import pytest

from lgnn_jax.maps.grid import grid
from lgnn_jax.maps.table import LayerMap
from lgnn_jax.training import trained
from lgnn_jax.training.errors import RunError


def test_activations_are_those_of_the_network_before_the_relu(runs, tiny_dataset):
    """Against the logits: the head on the ReLU of the last layer's activations, a pixel each."""
    (t,) = trained.load(runs[1:], tiny_dataset)
    images = tiny_dataset.test_images
    means = t.activations(images, ["conv1_1", "conv5_2"])
    assert means["conv1_1"].shape == (len(images), 4)
    x = (images - t.mean) / t.deviation
    logits, named = t.network.module.apply(
        {"params": t.params, "batch_stats": t.state}, x.astype(np.float32), activations=True
    )
    np.testing.assert_allclose(
        means["conv1_1"], np.mean(named["conv1_1"].pre, axis=(1, 2)), rtol=1e-4, atol=1e-5
    )
    head = jax.tree.map(np.asarray, t.params["head"])
    last = np.asarray(named["conv5_2"].pre)
    pooled = np.maximum(last.reshape(len(images), 1, 2, 1, 2, -1).max((2, 4)), 0)[:, 0, 0]
    np.testing.assert_allclose(pooled @ head["kernel"] + head["bias"], logits, atol=1e-4)
    np.testing.assert_allclose(means["conv5_2"], last.mean((1, 2)), rtol=1e-4, atol=1e-5)


def test_activations_that_are_not_finite(runs, tiny_dataset, tmp_path, analysis):
    (t,) = trained.load(runs[1:], tiny_dataset)
    params = jax.tree.map(np.array, t.params)
    params["bn3_1"]["bias"][0] = np.inf
    broken = t._replace(params=params)
    with pytest.raises(RunError, match="constant: the activations of conv3_1 are not finite"):
        analysis([broken], tiny_dataset, tmp_path)


def test_a_run_named_twice(runs, tiny_dataset):
    again = runs[0].parent / "." / "constant" / ".." / "baseline"
    with pytest.raises(RunError, match=r"the run \S+/constant/\.\./baseline is named twice\."):
        trained.load([*runs, again], tiny_dataset)


def test_initial_weights_that_are_not_those_of_the_run(runs, tiny_dataset, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(runs[0], folder)
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps(summary | {"init_sha256": "0" * 64}))
    with pytest.raises(RunError, match="began with other weights than its seed gives here"):
        trained.load([folder], tiny_dataset)


def test_folders_that_hold_no_run(runs, tiny_dataset, tmp_path):
    with pytest.raises(RunError, match="holds no run"):
        trained.load([tmp_path], tiny_dataset)
    (tmp_path / "config.json").write_text((runs[0] / "config.json").read_text())
    with pytest.raises(RunError, match="holds no checkpoint"):
        trained.load([tmp_path], tiny_dataset)


def test_runs_of_different_networks(runs, tiny_dataset, tmp_path):
    config = json.loads((runs[0] / "config.json").read_text())
    config["model"]["width"] = 0.5
    config["data"]["pad"] = 2
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(RunError) as error:
        trained.load([runs[0], tmp_path], tiny_dataset)
    assert str(error.value) == (
        f"{runs[0]} and {tmp_path} cannot be compared: model.width is 0.0625 in one and 0.5 in the "
        "other; data.pad is 4 in one and 2 in the other."
    )


def test_layers_without_a_map_are_left_out(runs, tiny_dataset):
    (t,) = trained.load(runs[:1], tiny_dataset)
    maps = t.plan.maps | {"conv1_1/kernel": None, "conv2_1/kernel": LayerMap(grid(1, 1))}
    assert next(iter(t._replace(plan=t.plan._replace(maps=maps)).maps)) == "conv3_1"
