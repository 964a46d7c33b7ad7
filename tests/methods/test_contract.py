"""What every method keeps, as optax expects it of a transformation.

A method is a function that returns an `optax.GradientTransformation`. A new one is a line in
`METHODS`.
"""

import pickle
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lgnn_jax as lgnn
from lgnn_jax import LayerMap


class Method(NamedTuple):
    """A method as the contract calls it: `make(table, **options)`."""

    name: str
    make: Callable[..., optax.GradientTransformation]
    table: Any
    options: Mapping[str, Any] = MappingProxyType({})
    static_args: tuple[str, ...] = ()  # of `optax.inject_hyperparams`


filtering = partial(Method, static_args=("kernel_size", "neuron_axis"))
SCHEDULE = lgnn.decreasing_sigma(0.8, steps_per_epoch=1, epochs=4)
AXES, GROUPS = LayerMap(lgnn.grid(8, 4), (0, 3)), LayerMap(lgnn.grid(4, 2), groups=2)
METHODS = [  # each table is one of `params`
    filtering("3x3", lgnn.transform, {16: (4, 4)}),
    filtering("5x5", lgnn.transform, {16: (8, 2)}, {"kernel_size": 5, "sigma": 1.0}),
    filtering("torus", lgnn.transform, {16: lgnn.grid(4, 4, wrap=True)}, {"method": "banded"}),
    filtering("whole map", lgnn.transform, {16: (4, 4)}, {"kernel_size": None}),
    filtering("hexagonal", lgnn.transform, {16: lgnn.hexagonal(4, 4)}),
    filtering("sphere", lgnn.transform, {16: lgnn.sphere(16)}),
    filtering("ring", lgnn.transform, {16: lgnn.ring(16)}, {"method": "separable"}),
    filtering("axes", lgnn.transform, {"conv": AXES}, {"method": "conv"}),
    filtering("groups", lgnn.transform, {"conv": GROUPS}, {"padding": "zero", "method": "matmul"}),
    filtering("floor", lgnn.transform, {16: (4, 4)}, {"floor": 0.25, "method": "matmul"}),
    filtering("schedule", lgnn.transform, {16: (4, 4)}, {"sigma": SCHEDULE, "method": "matmul"}),
]


@pytest.fixture(scope="module", params=METHODS, ids=lambda method: method.name)
def method(request):
    return request.param


@pytest.fixture(scope="module")
def tx(method):
    return method.make(method.table, **method.options)


@pytest.fixture(scope="module")
def plain(tx):
    """The method's own update of `grads`, what the combinators are compared with."""
    updates, state = jax.jit(tx.update)(grads(), tx.init(params()), params())
    return updates, state


@pytest.fixture(scope="module")
def changed(plain):
    """That it does something, without which nothing here could fail."""
    assert np.abs(plain[0]["conv"]["kernel"] - grads()["conv"]["kernel"]).max() > 0.1
    return plain[0]


def params(dtype=jnp.float32):
    return {
        "conv": {"kernel": jnp.ones((2, 1, 1, 16), dtype), "bias": jnp.ones(16, dtype)},
        "head": [jnp.ones((16, 5), dtype), ()],
        "frozen": None,
    }


def grads(seed=0, dtype=jnp.float32):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), dtype), params())


def types(tree):
    return jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), jax.eval_shape(lambda: tree))


def assert_same(actual, expected, rtol=2e-6):
    """Also of one structure."""
    jax.tree.map(
        lambda a, e: np.testing.assert_allclose(a, e, rtol=rtol, atol=1e-6), actual, expected
    )


def assert_equal(actual, expected):
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def count(state):
    return optax.tree.get(state, "count")


# --- trees, types and the state ------------------------------------------------------------


def test_shapes_dtypes_and_structure_are_kept(tx, plain):
    state = tx.init(params())
    assert types(plain) == types((params(), state))
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(jax.eval_shape(lambda: state)))


@pytest.mark.parametrize("kernel", [jnp.bfloat16, jnp.float16])
@pytest.mark.usefixtures("strict_dtypes")
def test_shorter_types_are_kept_side_by_side(tx, kernel):
    tree = params(jnp.bfloat16)
    tree["conv"]["kernel"] = tree["conv"]["kernel"].astype(kernel)
    tree["conv"]["bias"] = tree["conv"]["bias"].astype(jnp.float32)
    state = tx.init(tree)
    assert types(jax.eval_shape(tx.update, tree, state, tree)) == types((tree, state))


def test_what_is_no_kernel_passes_untouched(changed):
    expected = grads()
    assert_equal(changed["conv"]["bias"], expected["conv"]["bias"])
    assert_equal(changed["head"], expected["head"])
    assert changed["frozen"] is None


def test_steps_are_counted(tx, plain):
    state = tx.init(params())
    assert count(state) == 0
    assert count(plain[1]) == 1
    last = optax.tree.set(state, count=jnp.int32(2**31 - 1))
    assert count(jax.jit(tx.update)(grads(), last, params())[1]) == 2**31 - 1


@pytest.mark.parametrize("empty", [{}, None, [(), {"frozen": None}]], ids=str)
def test_empty_trees(tx, empty):
    state = tx.init(empty)
    updates, state = tx.update(empty, state, empty)
    assert updates == empty
    assert count(state) == 1


def test_it_compiles_once(tx):
    """For any state and any width."""
    update = jax.jit(lambda g, s: tx.update(g, s))
    state = tx.init(params())
    for seed in range(3):
        _, state = update(grads(seed), state)
    assert update._cache_size() == 1
    assert count(state) == 3
    with_sigma = jax.jit(lambda g, s, sigma: tx.update(g, s, sigma=sigma)[0])
    wide, none = (with_sigma(grads(), state, jnp.float32(sigma)) for sigma in (0.9, 0.0))
    assert with_sigma._cache_size() == 1
    assert_same(none, grads())
    assert np.abs(wide["conv"]["kernel"] - none["conv"]["kernel"]).max() > 0.1


def test_a_state_that_is_donated(tx, plain):
    state = jax.tree.map(jnp.copy, tx.init(params()))
    update = jax.jit(tx.update, donate_argnums=(0, 1))
    given = grads()
    updates, after = update(given, state, params())
    assert count(state).is_deleted()
    assert given["conv"]["kernel"].is_deleted()
    assert_same((updates, after), plain)


def test_a_state_goes_on_where_it_was_stored(tx):
    """As the arrays that a checkpoint has, and pickled whole."""
    update = jax.jit(tx.update)
    _, state = update(grads(), tx.init(params()), params())
    expected = update(grads(1), state, params())
    leaves, structure = jax.tree.flatten(state)
    stored = pickle.loads(pickle.dumps([np.asarray(leaf) for leaf in leaves]))
    assert_equal(update(grads(1), jax.tree.unflatten(structure, stored), params()), expected)
    assert_equal(update(grads(1), pickle.loads(pickle.dumps(state)), params()), expected)
    assert count(expected[1]) == 2


def test_vmap(tx):
    ensemble = [grads(seed) for seed in range(3)]
    stacked = jax.tree.map(lambda *g: jnp.stack(g), *ensemble)
    state = tx.init(params())
    update = jax.jit(tx.update)
    updates, states = jax.jit(jax.vmap(tx.update, in_axes=(0, None)))(stacked, state)
    for i, member in enumerate(ensemble):
        expected = update(member, state, params())[0]
        assert_same(jax.tree.map(lambda u, i=i: u[i], updates), expected)
    assert count(states).tolist() == [1, 1, 1]


# --- optax's combinators ------------------------------------------------------------


def test_masked(tx, changed):
    """What is masked is not filtered, and what is not is filtered as without a mask."""
    kernels = jax.tree.map(lambda p: p.ndim == 4, params())
    masked = optax.masked(tx, kernels)
    updates, state = jax.jit(masked.update)(grads(), masked.init(params()), params())
    assert_same(updates, changed)
    assert count(state) == 1
    others = optax.masked(tx, jax.tree.map(lambda m: not m, kernels))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that nothing is filtered
        state = others.init(params())
    assert_equal(jax.jit(others.update)(grads(), state, params())[0], grads())


def test_partition(tx, changed):
    labels = jax.tree.map(lambda p: "map" if p.ndim == 4 else "rest", params())
    parts = optax.partition({"map": tx, "rest": optax.scale(-3.0)}, labels)
    updates, _ = jax.jit(parts.update)(grads(), parts.init(params()), params())
    expected = jax.tree.map(lambda g: -3 * g, grads())
    expected["conv"]["kernel"] = changed["conv"]["kernel"]
    assert_same(updates, expected)


def test_multi_steps_take_the_mean(tx):
    steps = optax.MultiSteps(tx, every_k_schedule=2)
    update = jax.jit(steps.update)
    first, state = update(grads(1), steps.init(params()), params())
    second, state = update(grads(2), state, params())
    assert_equal(first, jax.tree.map(jnp.zeros_like, grads()))
    mean = jax.tree.map(lambda a, b: (a + b) / 2, grads(1), grads(2))
    expected, inner = jax.jit(tx.update)(mean, tx.init(params()), params())
    assert_same(second, expected)
    assert_equal(state.inner_opt_state, inner)


def test_inject_hyperparams(method, plain):
    make = optax.inject_hyperparams(method.make, static_args=method.static_args)
    injected = make(method.table, **method.options)
    state = injected.init(params())
    updates, state = jax.jit(injected.update)(grads(), state, params())
    assert_same(updates, plain[0])
    assert count(state.inner_state) == 1
    for name, value in method.options.items():
        if isinstance(value, float):
            assert state.hyperparams[name] == value


def test_apply_if_finite(tx, plain):
    guarded = optax.apply_if_finite(tx, max_consecutive_errors=3)
    update = jax.jit(guarded.update)
    updates, state = update(grads(), guarded.init(params()), params())
    assert_same((updates, state.inner_state), plain)
    broken = jax.tree.map(lambda g: g.at[0].set(jnp.nan), grads())
    updates, after = update(broken, state, params())
    assert_equal(updates, jax.tree.map(jnp.zeros_like, grads()))
    assert_equal(after.inner_state, state.inner_state)


def test_lax_cond(tx, plain):
    @jax.jit
    def maybe(apply, state):
        return jax.lax.cond(
            apply, lambda g, s: tx.update(g, s, params()), lambda g, s: (g, s), grads(), state
        )

    state = tx.init(params())
    assert_same(maybe(True, state), plain)
    assert_equal(maybe(False, state), (grads(), state))


def test_map_params(tx):
    """Momentum is told from the method's own state, which stays."""
    chain = optax.chain(tx, optax.trace(0.9))
    state = chain.init(params())
    mapped = optax.tree.map_params(chain, lambda s, p: s + 2 * p, state, params())
    assert_equal(mapped[1].trace, jax.tree.map(lambda p: 2 * p, params()))
    assert count(mapped[0]) == 0
    assert jax.tree.structure(mapped) == jax.tree.structure(state)


def test_arguments_of_others(tx, changed):
    """Such as the loss that a line search in the same chain asks for."""
    chain = optax.chain(optax.with_extra_args_support(tx), optax.scale(2.0))
    update = jax.jit(chain.update)
    updates, _ = update(grads(), chain.init(params()), params(), value=1.0, other=None)
    assert_same(updates, jax.tree.map(lambda u: 2 * u, changed))


@pytest.mark.parametrize("optimizer", [optax.sgd(0.1, momentum=0.9), optax.adamw(1e-2)])
def test_before_an_optimizer(tx, changed, optimizer):
    """The optimizer sees what the method made of the gradient, and no more."""
    chain = optax.chain(tx, optimizer)
    actual, _ = jax.jit(chain.update)(grads(), chain.init(params()), params())
    expected, _ = jax.jit(optimizer.update)(changed, optimizer.init(params()), params())
    assert_same(actual, expected, rtol=1e-5)
