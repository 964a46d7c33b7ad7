import subprocess
import sys
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
from flax import nnx

import lgnn_jax as lgnn

pytestmark = pytest.mark.usefixtures("strict_dtypes")

TABLE = {16: (4, 4), 12: (4, 3)}


def _params(dtype=jnp.float32):
    return {
        "conv1": {"kernel": jnp.ones((3, 3, 2, 16), dtype), "bias": jnp.ones(16, dtype)},
        "blocks": [{"kernel": jnp.ones((3, 3, 16, 12), dtype)}, (jnp.ones((12, 5), dtype),)],
    }


def _gradients(params, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), p.dtype), params)


def _expected(gradients, **options):
    """Kernels filtered by the reference, all else as it is."""
    maps = {16: (4, 4), 12: (4, 3)}

    def one(g):
        g = np.asarray(g, np.float64)
        return reference.low_pass(g, maps[g.shape[-1]], **options) if g.ndim >= 3 else g

    return jax.tree.map(one, gradients)


def _assert_close(actual, expected, rtol=2e-6):
    jax.tree.map(
        lambda a, e: np.testing.assert_allclose(a, e, rtol=rtol, atol=1e-6), actual, expected
    )


@pytest.mark.parametrize("sigma", [0.5, lgnn.decreasing_sigma(0.7, steps_per_epoch=1, epochs=7)])
def test_float64_gradients_are_filtered_in_float64(sigma):
    """As precisely as the reference, whose window has no float32 in it."""
    with jax.enable_x64(True):
        params = _params(jnp.float64)
        gradients = _gradients(params)
        tx = lgnn.transform(TABLE, sigma=sigma)
        state = tx.init(params)
        updates, _ = tx.update(gradients, state)
        width = sigma(state.count) if callable(sigma) else sigma
        expected = _expected(gradients, sigma=float(width))
        jax.tree.map(
            lambda a, e: np.testing.assert_allclose(a, e, rtol=1e-13, atol=1e-13), updates, expected
        )
        assert updates["conv1"]["kernel"].dtype == jnp.float64


def test_filters_kernels_and_passes_all_else_untouched():
    params = _params()
    gradients = _gradients(params)
    tx = lgnn.transform(TABLE)
    updates, state = tx.update(gradients, tx.init(params))
    _assert_close(updates, _expected(gradients))
    assert updates["conv1"]["bias"] is gradients["conv1"]["bias"]
    assert state.count == 1
    assert state.count.dtype == jnp.int32


@pytest.mark.parametrize("method", ["conv", "separable", "banded", "matmul", "auto"])
@pytest.mark.parametrize("padding", ["replicate", "wrap", "zero"])
def test_options_reach_the_filter(method, padding):
    gradients = _gradients(_params())
    tx = lgnn.transform(TABLE, sigma=0.8, kernel_size=5, padding=padding, method=method)
    updates, _ = tx.update(gradients, tx.init(gradients))
    _assert_close(updates, _expected(gradients, sigma=0.8, size=5, padding=padding))


def test_neurons_on_the_first_axis():
    gradient = np.random.default_rng(0).normal(size=(12, 5, 3, 3)).astype(np.float32)
    tx = lgnn.transform({12: (4, 3)}, neuron_axis=0)
    updates, _ = tx.update({"weight": gradient}, tx.init({"weight": gradient}))
    expected = reference.low_pass(gradient, (4, 3), neuron_axis=0)
    _assert_close(updates, {"weight": expected})


def test_a_named_dense_kernel_is_filtered():
    params = {"head": {"kernel": jnp.ones((7, 12))}}
    gradients = _gradients(params)
    tx = lgnn.transform({"head/kernel": (4, 3)})
    updates, _ = tx.update(gradients, tx.init(params))
    expected = reference.low_pass(gradients["head"]["kernel"], (4, 3))
    _assert_close(updates, {"head": {"kernel": expected}})


def test_sigma_follows_its_schedule():
    gradients = _gradients(_params())
    schedule = lgnn.decreasing_sigma(0.5, steps_per_epoch=2, epochs=2)
    tx = lgnn.transform(TABLE, sigma=schedule)
    state = tx.init(gradients)
    for sigma in (0.5, 0.5, 0.25, 0.25, 0.0):
        updates, state = jax.jit(tx.update)(gradients, state)
        _assert_close(updates, _expected(gradients, sigma=sigma))


@pytest.mark.parametrize("sigma", [0.86, lgnn.annealed_sigma(2.0, 0.5, steps=9)])
def test_a_window_that_turns_gradients_round_is_named(sigma):
    with pytest.warns(UserWarning, match=r"^sigma \S+ is too wide for a window of 3: .*=None"):
        lgnn.transform(TABLE, sigma=sigma).init(_params())
    for fine in ({"kernel_size": None}, {"kernel_size": 31, "sigma": 0.86}):
        lgnn.transform(TABLE, **{"sigma": sigma, **fine}).init(_params())


def test_sigma_zero_is_the_identity():
    gradients = _gradients(_params())
    tx = lgnn.transform(TABLE, sigma=0.0)
    updates, _ = tx.update(gradients, tx.init(gradients))
    jax.tree.map(np.testing.assert_array_equal, updates, gradients)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_dtypes_shapes_and_state_are_stable(dtype):
    params = _params(dtype)
    tx = lgnn.transform(TABLE, sigma=lgnn.decreasing_sigma(0.5, steps_per_epoch=1, epochs=9))
    state = tx.init(params)
    updates, after = tx.update(_gradients(params), state)
    assert jax.eval_shape(lambda: updates) == jax.eval_shape(lambda: params)
    assert jax.eval_shape(lambda: after) == jax.eval_shape(lambda: state)


def test_no_recompilation_on_the_second_call():
    params = _params()
    tx = lgnn.transform(TABLE, sigma=lgnn.decreasing_sigma(0.5, steps_per_epoch=1, epochs=9))
    update = jax.jit(tx.update)
    state = tx.init(params)
    for _ in range(3):
        _, state = update(_gradients(params), state)
    assert update._cache_size() == 1


def test_order_of_the_papers_optimiser():
    """Filter, weight decay, momentum, learning rate, against a float64 computation of two steps."""
    params = _params()
    tx = optax.chain(
        lgnn.transform(TABLE), optax.add_decayed_weights(5e-4), optax.sgd(0.1, momentum=0.9)
    )
    state = tx.init(params)
    expected = params
    buffers = jax.tree.map(np.zeros_like, params)
    for seed in range(2):
        gradients = _gradients(params, seed)
        updates, state = jax.jit(tx.update)(gradients, state, params)
        params = optax.apply_updates(params, updates)
        decayed = jax.tree.map(
            lambda g, p: g + 5e-4 * np.asarray(p, np.float64), _expected(gradients), expected
        )
        buffers = jax.tree.map(lambda b, g: 0.9 * b + g, buffers, decayed)
        expected = jax.tree.map(lambda p, b: np.asarray(p, np.float64) - 0.1 * b, expected, buffers)
    _assert_close(params, expected)


# --- optax's combinators ------------------------------------------------------------


def test_masked():
    gradients = _gradients(_params())
    mask = jax.tree.map(lambda g: g.shape[-1] == 16, gradients)
    tx = optax.masked(lgnn.transform({16: (4, 4)}), mask)  # 12 channels are hidden from it
    updates, _ = jax.jit(tx.update)(gradients, tx.init(gradients))
    expected = jax.tree.map(lambda m, e, g: e if m else g, mask, _expected(gradients), gradients)
    _assert_close(updates, expected)


@pytest.mark.parametrize("combine", [optax.multi_transform, optax.partition])
def test_partition(combine):
    gradients = _gradients(_params())
    labels = jax.tree.map(lambda g: "map" if g.ndim >= 3 else "plain", gradients)
    tx = combine({"map": lgnn.transform(TABLE), "plain": optax.identity()}, labels)
    updates, _ = jax.jit(tx.update)(gradients, tx.init(gradients))
    _assert_close(updates, _expected(gradients))


def test_multi_steps_filters_the_mean():
    params = _params()
    tx = optax.MultiSteps(lgnn.transform(TABLE), every_k_schedule=2)
    state = tx.init(params)
    first, second = _gradients(params, 1), _gradients(params, 2)
    with jax.numpy_dtype_promotion("standard"):  # which MultiSteps counts on
        updates, state = jax.jit(tx.update)(first, state, params)
        assert all(not np.any(u) for u in jax.tree.leaves(updates))
        updates, state = jax.jit(tx.update)(second, state, params)
    mean = jax.tree.map(lambda a, b: (np.asarray(a, np.float64) + b) / 2, first, second)
    _assert_close(updates, _expected(mean))


def test_inject_hyperparams():
    params = _params()
    gradients = _gradients(params)
    make = optax.inject_hyperparams(lgnn.transform, static_args=("kernel_size", "neuron_axis"))
    tx = make(TABLE, sigma=0.5)
    state = tx.init(params)
    update = jax.jit(tx.update)
    for sigma in (0.5, 0.25, 0.0):
        state.hyperparams["sigma"] = jnp.asarray(sigma)
        updates, state = update(gradients, state, params)
        _assert_close(updates, _expected(gradients, sigma=sigma))
    assert update._cache_size() == 1


def test_inject_hyperparams_with_a_schedule():
    params = _params()
    gradients = _gradients(params)
    make = optax.inject_hyperparams(lgnn.transform, static_args=("kernel_size", "neuron_axis"))
    tx = make(TABLE, sigma=lgnn.decreasing_sigma(0.5, steps_per_epoch=1, epochs=2))
    state = tx.init(params)
    for sigma in (0.5, 0.25):
        updates, state = jax.jit(tx.update)(gradients, state, params)
        _assert_close(updates, _expected(gradients, sigma=sigma))


def test_inject_hyperparams_without_static_args_says_what_to_do():
    params = _params()
    tx = optax.inject_hyperparams(lgnn.transform)(TABLE)
    with pytest.raises(TypeError, match=r"kernel_size.*static_args=\("):
        jax.jit(tx.update)(params, tx.init(params), params)


def test_apply_if_finite():
    params = _params()
    gradients = _gradients(params)
    tx = optax.apply_if_finite(lgnn.transform(TABLE), max_consecutive_errors=3)
    state = tx.init(params)
    updates, state = jax.jit(tx.update)(gradients, state, params)
    _assert_close(updates, _expected(gradients))
    broken = jax.tree.map(lambda g: g.at[0].set(jnp.nan), gradients)
    updates, state = jax.jit(tx.update)(broken, state, params)
    assert all(not np.any(u) for u in jax.tree.leaves(updates))
    assert state.inner_state.count == 1


def test_map_params_over_the_state():
    params = _params()
    tx = optax.chain(lgnn.transform(TABLE), optax.trace(0.9))
    state = tx.init(params)
    doubled = optax.tree.map_params(tx, lambda s: s + 2, state)
    assert all(np.all(leaf == 2) for leaf in jax.tree.leaves(doubled[1]))
    assert doubled[0].count == 0


def test_lax_cond_and_scan():
    gradients = _gradients(_params())
    tx = lgnn.transform(TABLE)

    def maybe(state, apply):
        updates, state = jax.lax.cond(
            apply, lambda s: tx.update(gradients, s), lambda s: (gradients, s), state
        )
        return state, updates

    state, updates = jax.jit(lambda s: jax.lax.scan(maybe, s, jnp.array([True, False, True])))(
        tx.init(gradients)
    )
    assert state.count == 2
    _assert_close(jax.tree.map(lambda u: u[0], updates), _expected(gradients))
    _assert_close(jax.tree.map(lambda u: u[1], updates), gradients)


def test_vmap_over_an_ensemble():
    ensemble = [_gradients(_params(), seed) for seed in range(3)]
    stacked = jax.tree.map(lambda *g: jnp.stack(g), *ensemble)
    tx = lgnn.transform(TABLE)
    updates = jax.vmap(lambda g: tx.update(g, tx.init(g))[0])(stacked)
    for i, gradients in enumerate(ensemble):
        _assert_close(jax.tree.map(lambda u, i=i: u[i], updates), _expected(gradients))


def test_pmap_commutes_with_the_mean_over_devices():
    shards = [_gradients(_params(), seed) for seed in range(jax.device_count())]
    tx = lgnn.transform(TABLE)

    @partial(jax.pmap, axis_name="devices", in_axes=(0, None), out_axes=None)
    def update(gradients, state):
        return tx.update(jax.lax.pmean(gradients, "devices"), state)

    stacked = jax.tree.map(lambda *g: jnp.stack(g), *shards)
    updates, state = update(stacked, tx.init(shards[0]))
    assert jax.device_count() == 8
    filtered = [_expected(gradients) for gradients in shards]
    _assert_close(updates, jax.tree.map(lambda *e: np.mean(e, axis=0), *filtered), rtol=1e-5)
    assert state.count == 1


# --- trees of other libraries ------------------------------------------------------------


def test_flax_linen():
    model = nn.Sequential([nn.Conv(16, (3, 3)), nn.relu, nn.Conv(12, (3, 3))])
    params = model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 2)))["params"]
    gradients = _gradients(params)
    tx = lgnn.transform(lgnn.som_table(params))
    updates, _ = tx.update(gradients, tx.init(params))
    _assert_close(updates, _expected(gradients))


class _NnxNetwork(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(2, 16, (3, 3), rngs=rngs)
        self.layers = nnx.List([nnx.Conv(16, 12, (3, 3), rngs=rngs)])

    def __call__(self, x):
        return self.layers[0](nnx.relu(self.conv(x))).mean(axis=(1, 2))


def test_flax_nnx_state_and_optimizer():
    model = _NnxNetwork(nnx.Rngs(0))
    table = lgnn.som_table(nnx.state(model, nnx.Param))
    assert table == {12: (4, 3), 16: (4, 4)}
    tx = optax.chain(lgnn.transform({"conv/kernel": None, **table}), optax.sgd(0.1))
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    before = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    gradients = nnx.grad(lambda m: (m(jnp.ones((2, 8, 8, 2))) ** 2).sum())(model)
    optimizer.update(model, gradients)
    after = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    gradients = nnx.to_pure_dict(gradients)
    step = jax.tree.map(lambda a, b: (b - a) / 0.1, after, before)
    kernel = gradients["layers"][0]["kernel"]
    np.testing.assert_allclose(
        step["layers"][0]["kernel"], reference.low_pass(kernel, (4, 3)), rtol=1e-3, atol=1e-4
    )
    assert np.abs(reference.low_pass(kernel, (4, 3)) - kernel).max() > 1e-2
    np.testing.assert_allclose(
        step["conv"]["kernel"], gradients["conv"]["kernel"], rtol=1e-3, atol=1e-4
    )


# --- bad input ------------------------------------------------------------


def test_uncovered_kernel_is_refused_at_init():
    tx = lgnn.transform({64: (8, 8)})
    with pytest.raises(ValueError, match=r"'blocks/0/kernel'.*\(3, 3, 16, 12\).*12: \(4, 3\)"):
        tx.init(_params())


def test_misfit_is_refused_at_init():
    tx = lgnn.transform({16: (4, 4), 12: (3, 3)})
    with pytest.raises(ValueError, match=r"\(3, 3\) hold 9.*'blocks/0/kernel'.*\(4, 3\)"):
        tx.init(_params())


def test_pattern_that_matches_nothing_warns():
    tx = lgnn.transform({"cnov1": None, **TABLE})
    with pytest.warns(UserWarning, match="'cnov1' matches no parameter path.*conv1"):
        tx.init(_params())


@pytest.mark.parametrize("sigma", [-0.5, float("nan"), np.float32(-1), jnp.asarray(-1.0)])
def test_bad_sigma_is_refused(sigma):
    with pytest.raises(ValueError, match="sigma"):
        lgnn.transform(TABLE, sigma=sigma)


def test_bad_schedule_is_refused_at_init():
    tx = lgnn.transform(TABLE, sigma=lambda step: -0.5)
    with pytest.raises(ValueError, match=r"sigma.*-0\.5"):
        tx.init(_params())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"kernel_size": 4}, ValueError, "kernel_size must be odd"),
        ({"kernel_size": 3.0}, TypeError, "kernel_size must be a Python int"),
        ({"padding": "same"}, ValueError, "padding"),
        ({"method": "fast"}, ValueError, "method"),
    ],
)
def test_bad_option(options, error, message):
    with pytest.raises(error, match=message):
        lgnn.transform(TABLE, **options)


def test_table_that_is_no_table():
    with pytest.raises(ValueError, match="som_table must map"):
        lgnn.transform((8, 8))


def test_imports_with_jax_optax_and_numpy_alone():
    code = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        heavy = "flax orbax tensorflow_datasets sklearn matplotlib rich tyro pydantic".split()
        if name.partition(".")[0] in heavy:
            raise ImportError(name)
sys.meta_path.insert(0, Absent())
import lgnn_jax
lgnn_jax.transform({64: (8, 8)})
"""
    subprocess.run([sys.executable, "-c", code], check=True)
