import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from lgnn_jax.maps import table
from lgnn_jax.models.build import build_model
from lgnn_jax.models.vgg import VGG
from lgnn_jax.models.wide_resnet import SOM_EXCEPTIONS, WideResNet


def _shapes(name, **options):
    model = build_model(name, num_classes=100, **options)
    return jax.eval_shape(lambda key: model.init(key, jnp.zeros((1, 32, 32, 3))), jax.random.key(0))


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("vgg11", 9_277_284),
        ("vgg19", 20_086_692),
        ("wrn16_8", 11_007_540),
        ("wrn28_10", 36_536_884),
    ],
)
def test_parameter_counts(name, count):
    params = _shapes(name)["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))


def test_number_of_convolutions():
    for depth in (11, 13, 16, 19):
        kernels = [k for k in _shapes(f"vgg{depth}")["params"] if k.startswith("conv")]
        assert len(kernels) == depth - 3  # the three dense layers are one


@pytest.mark.parametrize("name", ["vgg11", "wrn10_1"])
def test_to_look_at_activations_changes_no_bit(name):
    """So that neurons may settle on what they do, and the network stays as it is."""
    model = build_model(name, num_classes=5, width={"vgg11": 1 / 16}.get(name, 1 / 4), dropout=0.0)
    x = jax.random.normal(jax.random.key(0), (8, 32, 32, 3))
    variables = jax.jit(model.init)(jax.random.key(1), x)
    with jax.disable_jit():  # compiled together with other things, sums may be in another order
        plain, state = model.apply(variables, x, train=True, mutable=["batch_stats"])
        (looked_at, means), state_ = model.apply(
            variables, x, train=True, activations=True, means=True, mutable=["batch_stats"]
        )
    assert means
    jax.tree.map(np.testing.assert_array_equal, (looked_at, state_), (plain, state))


@pytest.mark.parametrize("name", ["vgg11", "wrn10_2"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_compute_type_and_named_activations(name, dtype):
    model = build_model(name, num_classes=10, width=0.125, dtype=dtype)
    x = jnp.ones((2, 32, 32, 3))
    variables = jax.jit(model.init)(jax.random.key(0), x)
    logits, activations = jax.jit(lambda v: model.apply(v, x, activations=True))(variables)
    assert logits.shape == (2, 10)
    assert logits.dtype == jnp.float32
    plain = jax.jit(model.apply)(variables, x)
    np.testing.assert_allclose(logits, plain, rtol=1e-3, atol=1e-6 if dtype == "float32" else 1e-2)
    paths = [
        table.path_name(p) for p, _ in jax.tree_util.tree_leaves_with_path(variables["params"])
    ]
    convolutions = {
        path.removesuffix("/kernel")
        for path in paths
        if path.endswith("kernel") and "head" not in path
    }
    assert set(activations) == convolutions
    for pre, post in activations.values():
        assert pre.dtype == post.dtype == jnp.dtype(dtype)
        np.testing.assert_array_equal(post, jnp.maximum(pre, 0))
        assert (pre < 0).any()


@pytest.mark.parametrize("name", ["vgg11", "wrn16_8"])
def test_width_scales_the_channels(name):
    whole, quarter = (_shapes(name, width=width)["params"] for width in (1.0, 0.25))
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(quarter), strict=True):
        if a.shape[-1] != 100:
            assert b.shape[-1] == a.shape[-1] // 4


@pytest.mark.parametrize("name", ["vgg11", "wrn16_4"])
def test_initial_kernels_are_he_normal_over_the_fan_out(name):
    model = build_model(name, num_classes=10)
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if leaf.ndim == 4 and leaf.size > 10_000:
            fan_out = leaf.shape[0] * leaf.shape[1] * leaf.shape[3]
            expected = np.sqrt(2 / fan_out)
            assert leaf.std() == pytest.approx(expected, rel=0.03), path
            # A normal, not a truncated one: some values lie beyond two standard deviations.
            assert (np.abs(leaf) > 2.5 * expected).mean() == pytest.approx(0.0124, abs=0.004)
        elif table.path_name(path).endswith("bias"):
            assert not leaf.any()


def _randomized(tree, seed):
    """Parameters away from their initial zeros and ones, so that nothing hides."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda p: p + jnp.asarray(0.1 * rng.normal(size=p.shape), p.dtype), tree)


def test_vgg_equals_the_reference():
    model = VGG(depth=11, num_classes=5, width=1 / 16)
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(6, 32, 32, 3)), jnp.float32)
    labels = np.arange(6) % 5
    variables = jax.jit(model.init)(jax.random.key(0), x)
    params = _randomized(variables["params"], 1)
    logits, updated = jax.jit(lambda v: model.apply(v, x, train=True, mutable=["batch_stats"]))(
        {"params": params, "batch_stats": variables["batch_stats"]}
    )
    _, expected, _, expected_stats = reference.vgg_loss_and_gradients(
        params, variables["batch_stats"], x, labels, [(4,), (8,), (16, 16), (32, 32), (32, 32)]
    )
    np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-4)
    jax.tree.map(
        lambda a, e: np.testing.assert_allclose(a, e, rtol=1e-3, atol=1e-4),
        updated["batch_stats"],
        expected_stats,
    )


def _nested(tree):
    """{"group1_block1": ...} as {"group1": {"block1": ...}}, as the reference has it."""
    nested = {}
    for name, value in tree.items():
        group, _, block = name.partition("_")
        if block:
            nested.setdefault(group, {})[block] = value
        else:
            nested[name] = value
    return nested


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize(("depth", "widen"), [(10, 2), (16, 1)])
def test_wide_resnet_equals_the_reference(train, depth, widen):
    model = WideResNet(depth, widen, num_classes=5, dropout=0.0)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 12, 12, 3)), jnp.float32)
    variables = _randomized(jax.jit(model.init)(jax.random.key(0), x), 1)
    (logits, activations), _ = jax.jit(
        lambda v: model.apply(v, x, train=train, activations=True, mutable=["batch_stats"])
    )(variables)
    expected, expected_activations = reference.wide_resnet_logits(
        _nested(variables["params"]),
        _nested(variables["batch_stats"]),
        x,
        depth,
        widen,
        train=train,
    )
    np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-4)
    assert {name.replace("_", "/") for name in activations} == set(expected_activations)
    for name, (pre, post) in activations.items():
        expected_pre, expected_post = expected_activations[name.replace("_", "/")]
        np.testing.assert_allclose(pre, expected_pre, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(post, expected_post, rtol=1e-3, atol=1e-3)


def test_dropout_acts_in_training_alone():
    model = WideResNet(10, 1, num_classes=5, dropout=0.5)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 8, 3)), jnp.float32)
    variables = jax.jit(model.init)(jax.random.key(0), x)

    @jax.jit
    def trained(key):
        rngs = {"dropout": jax.random.key(key)}
        return model.apply(variables, x, train=True, rngs=rngs, mutable=["batch_stats"])[0]

    np.testing.assert_array_equal(trained(0), trained(0))
    assert np.abs(trained(0) - trained(1)).max() > 1e-3
    jax.jit(model.apply)(variables, x)  # needs no rng


@pytest.mark.parametrize(
    ("name", "main", "shortcuts"), [("wrn16_8", 12, 3), ("wrn28_10", 24, 3), ("wrn16_1", 12, 2)]
)
def test_the_three_settings_of_table_ii(name, main, shortcuts):
    params = _shapes(name)["params"]

    def filtered(layers):
        maps = table.layer_maps(params, {**SOM_EXCEPTIONS[layers], **table.som_table(params)})
        return {path for path, dims in maps.items() if dims is not None}

    assert len(filtered("main")) == main
    assert all(path.split("/")[-2] in ("conv1", "conv2") for path in filtered("main"))
    assert len(filtered("resblocks") - filtered("main")) == shortcuts
    assert all("/shortcut/" in path for path in filtered("resblocks") - filtered("main"))
    assert filtered("all") - filtered("resblocks") == {"stem/kernel"}


@pytest.mark.parametrize(
    "name", ["vgg12", "vgg", "wrn16", "wrn17_2", "wrn4_2", "wrn16_0", "resnet"]
)
def test_unknown_name(name):
    with pytest.raises(ValueError, match=f"unknown network '{name}'"):
        build_model(name, num_classes=10)


def test_images_too_small_for_vgg():
    model = build_model("vgg11", num_classes=10)
    with pytest.raises(ValueError, match=r"at least 32x32, got \(28, 28\)"):
        model.init(jax.random.key(0), jnp.zeros((1, 28, 28, 1)))
