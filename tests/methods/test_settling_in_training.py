"""Neurons that settle while a network trains."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lgnn_jax as lgnn
from lgnn_jax import LayerMap, Settling
from lgnn_jax.methods import settling
from lgnn_jax.methods.filtering import low_pass
from lgnn_jax.methods.transform import LGNNState

TABLE = {"conv": (6, 5), "dense/kernel": lgnn.ring(12)}


def params():
    rng = np.random.default_rng(0)
    shapes = {
        "conv": {"kernel": (3, 3, 2, 30), "bias": (30,)},
        "dense": {"kernel": (8, 12)},
        "head": {"kernel": (12, 5)},
    }
    return jax.tree.map(
        lambda s: jnp.asarray(rng.normal(size=s), jnp.float32),
        shapes,
        is_leaf=lambda x: isinstance(x, tuple),
    )


def answers(seed=0, samples=64):
    """Neurons that are tuned to places in a plane, and to directions; in no order."""
    rng = np.random.default_rng(seed)
    shuffled, map = np.random.default_rng(9).permutation(30), lgnn.grid(6, 5)
    shown = rng.uniform(0, 5, (samples, 1, 2))
    conv = np.exp(-np.square(shown - map.positions[shuffled]).sum(-1) / 4)
    angles = np.random.default_rng(8).permutation(12) * 2 * np.pi / 12
    dense = np.cos(rng.uniform(0, 2 * np.pi, (samples, 1)) - angles)
    return {"conv": jnp.asarray(conv, jnp.float32), "dense": jnp.asarray(dense, jnp.float32)}


def order(found, places, map):
    """Mean correlation of neighbours."""
    correlations = np.corrcoef(np.asarray(found)[:, np.asarray(places)].T)
    return correlations[map.distances() == 1].mean()


def train(tx, steps, *, start=None, given=True, on_step=lambda state: None):
    """Some updates of random gradients; returns parameters and state."""
    tree, state = start or (params(), tx.init(params()))
    update = jax.jit(tx.update)
    for i in range(steps):
        rng = np.random.default_rng(100 + i)
        grads = jax.tree.map(lambda p, rng=rng: jnp.asarray(rng.normal(size=p.shape)), tree)
        extra = {"activations": answers(i)} if given else {}
        updates, state = update(grads, state, tree, **extra)
        tree = optax.apply_updates(tree, updates)
        on_step(state)
    return tree, state


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize(("on", "gradients"), [("activations", 0.0), (0.5, 0.5)])
def test_nothing_of_the_network_changes(on, gradients):
    """Without a filter, parameters and moments are the same to the bit.

    Operation by operation: in one program XLA may fuse and round the rest another way, by what else
    is in it.
    """
    rest = optax.chain(optax.add_decayed_weights(0.01), optax.adam(1e-3))
    settle = Settling(every=2, sweeps=9, on=on, gradients=gradients)
    settling = lgnn.transform(TABLE, sigma=0, settle=settle)
    with jax.disable_jit():
        tree, state = train(optax.chain(settling, rest), 6)
        plain, plain_state = train(optax.chain(optax.identity(), rest), 6, given=False)
    assert_equal(tree, plain)
    assert_equal(state[1], plain_state[1])
    assert not np.array_equal(lgnn.places(state)["conv/kernel"], np.arange(30))


def test_with_a_floor_of_1_neither():
    filtering = lgnn.transform(TABLE, floor=1.0, settle=Settling(every=2, sweeps=9))
    with jax.disable_jit():
        tree, _ = train(optax.chain(filtering, optax.sgd(0.1)), 6)
        plain, _ = train(optax.chain(optax.identity(), optax.sgd(0.1)), 6, given=False)
    assert_equal(tree, plain)


def test_neurons_find_their_order():
    tx = lgnn.transform(TABLE, settle=Settling(every=5))
    _, state = train(tx, 4)
    for path, count in (("conv/kernel", 30), ("dense/kernel", 12)):
        np.testing.assert_array_equal(lgnn.places(state)[path], np.arange(count))
    _, state = train(tx, 6)
    found = lgnn.places(state)
    assert {path: x.dtype for path, x in found.items()} == dict.fromkeys(found, jnp.int32)
    assert list(found) == ["conv/kernel", "dense/kernel"]
    held_out = answers(77, 500)
    assert order(held_out["conv"], found["conv/kernel"], lgnn.grid(6, 5)) > 0.7
    assert order(held_out["conv"], np.arange(30), lgnn.grid(6, 5)) < 0.1
    assert order(held_out["dense"], found["dense/kernel"], lgnn.ring(12)) > 0.85


def test_on_weights_like_filters_touch():
    tx = lgnn.transform(TABLE, sigma=0, settle=Settling(every=1, on="weights"))
    _, state = train(tx, 1, given=False)
    kernel = np.asarray(params()["conv"]["kernel"]).reshape(-1, 30)
    assert order(kernel, lgnn.places(state)["conv/kernel"], lgnn.grid(6, 5)) > 0.15
    assert abs(order(kernel, np.arange(30), lgnn.grid(6, 5))) < 0.1


def test_a_mixture_is_between():
    tree = params()
    kernel = np.asarray(tree["conv"]["kernel"]).reshape(-1, 30)
    found = []
    for on in (0.0, 0.5, 1.0):
        _, state = train(lgnn.transform(TABLE, sigma=0, settle=Settling(every=1, on=on)), 1)
        at = lgnn.places(state)["conv/kernel"]
        found.append([order(x, at, lgnn.grid(6, 5)) for x in (kernel, answers(0)["conv"])])
    weights, acts = zip(*found, strict=True)
    assert weights[0] > weights[1] > weights[2]
    assert acts[0] < acts[1] <= acts[2] + 0.02


def tuned_gradients(seed):
    """Those of neurons that are tuned to directions, in no order: `(8, 12)`."""
    angles = np.random.default_rng(7).permutation(12) * 2 * np.pi / 12
    inputs = np.random.default_rng(seed).uniform(0, 2 * np.pi, (8, 1))
    return jnp.asarray(1e-6 * np.cos(inputs - angles), jnp.float32)


def test_on_gradients_those_that_agree_touch():
    """Without activations, and without parameters; on a scale that gradients have."""
    settle = Settling(every=20, gradients=1.0)
    tx = lgnn.transform({"dense": lgnn.ring(12)}, sigma=0, settle=settle)
    state = tx.init({"dense": {"kernel": jnp.zeros((8, 12))}})
    update = jax.jit(tx.update)
    for i in range(20):
        _, state = update({"dense": {"kernel": tuned_gradients(i)}}, state)
    held_out = np.concatenate([tuned_gradients(100 + i) for i in range(20)])
    assert order(held_out, lgnn.places(state)["dense/kernel"], lgnn.ring(12)) > 0.85
    assert order(held_out, np.arange(12), lgnn.ring(12)) < 0.5


@pytest.mark.parametrize("gradients", [0.1, 0.35, 0.65, 0.9])
def test_no_weights_are_needed_whose_share_is_0(gradients):
    settle = Settling(every=1, gradients=gradients)
    assert settle.shares[1] == 0
    tx = lgnn.transform(TABLE, sigma=0, settle=settle)
    tx.update(params(), tx.init(params()), activations=answers())


def test_what_is_alike_is_a_mean_by_shares():
    """Of correlations, computed in float64; the weights' share comes in when neurons settle."""
    settle = Settling(every=50, on=0.5, gradients=0.3)
    tx = lgnn.transform(TABLE, sigma=0, settle=settle)
    tree, state = params(), tx.init(params())
    expected = 0
    for i in range(3):
        rng = np.random.default_rng(i)
        grads = jax.tree.map(lambda p, rng=rng: jnp.asarray(rng.normal(size=p.shape)), tree)
        _, state = tx.update(grads, state, tree, activations=answers(i))
        if i % 2 == 0:  # 20 looks in 50 updates: one in two
            flat = np.asarray(grads["conv"]["kernel"], np.float64).reshape(18, 30)
            acts = np.asarray(answers(i)["conv"], np.float64)
            found = 0.3 * np.corrcoef(flat.T) + 0.7 * 0.5 * np.corrcoef(acts.T)
            expected = expected + found / 2
    alike = state.settled.alike["conv"]["kernel"]
    np.testing.assert_allclose(alike[0], expected, atol=1e-6)


@pytest.mark.parametrize(("every", "period"), [(39, 1), (40, 2), (139, 6), (140, 7), (9999, 7)])
def test_a_look_at_some_updates(every, period):
    tx = lgnn.transform(TABLE, sigma=0, settle=Settling(every=every, gradients=1.0))
    state, looks = tx.init(params()), []
    update = jax.jit(tx.update)
    for i in range(17):
        rng = np.random.default_rng(i)
        grads = jax.tree.map(lambda p, rng=rng: jnp.asarray(rng.normal(size=p.shape)), params())
        _, new = update(grads, state)
        old, state = state, new
        if not np.array_equal(*(x.settled.alike["dense"]["kernel"] for x in (old, new))):
            looks.append(i)
    assert looks == list(range(0, 17, period))


@pytest.mark.parametrize(
    ("shape", "axis", "named", "seen"),
    [
        ((3, 3, 16, 5), -1, "conv/kernel", (0, 1)),
        ((3, 3, 15, 5), -1, "conv/kernel", ()),  # few inputs: the window tells neurons apart
        ((5, 16, 3, 3), 0, "conv/weight", (2, 3)),
        ((3, 20, 5), -1, "conv1d/kernel", (0,)),
        ((20, 4, 5), (1, 2), "query/kernel", ()),
        ((40, 5), -1, "dense/kernel", ()),
    ],
)
def test_gradients_of_convolutions_are_summed_over_the_window(shape, axis, named, seen):
    gradient = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    layer_map = LayerMap(lgnn.line(20 if axis == (1, 2) else 5), axis)
    tx = lgnn.transform({named: layer_map}, sigma=0, settle=Settling(every=1, gradients=1.0))
    layer, _, leaf = named.partition("/")
    grads = {layer: {leaf: jnp.asarray(gradient)}}
    _, state = tx.update(grads, tx.init(grads))
    flat = gradient.astype(np.float64).sum(axis=seen, keepdims=True)
    flat = np.moveaxis(flat, 0, -1) if axis == 0 else flat
    expected = np.corrcoef(flat.reshape(-1, layer_map.count).T)
    np.testing.assert_allclose(state.settled.alike[layer][leaf][0], expected, atol=1e-5)


def test_products_of_many_inputs_are_kept_on_average():
    rng = np.random.default_rng(0)
    shared = rng.normal(size=(4608, 3)) @ rng.normal(size=(3, 20))
    x = jnp.asarray(shared + rng.normal(size=(4608, 20)), jnp.float32)
    folded = settling._fold(x)
    assert folded.shape == (512, 20)
    exact, found = (np.corrcoef(np.asarray(part).T) for part in (x, folded))
    assert np.abs(exact).max(initial=0, where=~np.eye(20, dtype=bool)) > 0.8
    assert np.sqrt(np.square(found - exact).mean()) < 1.2 / np.sqrt(512)
    np.testing.assert_array_equal(settling._fold(x[:512]), x[:512])
    # Correlations they are, and no cosines: a neuron's mean does not count.
    means = jnp.asarray(rng.normal(0, 2, (1, 20)), jnp.float32)
    np.testing.assert_allclose(settling._fold(x + means), folded, atol=1e-3)
    assert settling._fold(x[:600]).shape == (512, 20)


def test_it_happens_every_so_many_updates_until_the_end():
    seen = []
    tx = lgnn.transform(TABLE, sigma=0, settle=Settling(every=3, until=7))
    train(tx, 12, on_step=lambda state: seen.append(np.asarray(lgnn.places(state)["conv/kernel"])))
    changes = [i + 2 for i in range(11) if not np.array_equal(seen[i], seen[i + 1])]
    assert changes
    assert set(changes) <= {3, 6}
    assert 3 in changes


def test_it_depends_on_the_state_alone_and_goes_on_to_the_same_bits():
    tx = optax.chain(lgnn.transform(TABLE, settle=Settling(every=2)), optax.sgd(0.1, momentum=0.9))
    first = train(tx, 3)
    kept = jax.tree.map(np.asarray, first)  # as through a checkpoint
    kept = jax.tree.map(jnp.asarray, kept)
    assert_equal(train(tx, 4, start=first), train(tx, 4, start=kept))


def test_in_a_scan_and_under_pmap():
    tx = lgnn.transform(TABLE, settle=Settling(every=2))
    grads, acts = params(), answers(0)

    def step(state, _):
        _, state = tx.update(grads, state, params(), activations=acts)
        return state, None

    def scanned(state):
        return jax.lax.scan(step, state, None, length=4)[0]

    alone = jax.jit(scanned)(tx.init(params()))
    mapped = jax.pmap(lambda _: scanned(tx.init(params())))(jnp.zeros(8))
    for i in range(8):
        assert_equal(jax.tree.map(lambda x, i=i: x[i], mapped), alone)


@pytest.mark.parametrize("method", ["conv", "separable", "banded", "matmul", "auto"])
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("axis", [-1, 0, (1, 3), (2, 3)])
def test_the_filter_sees_the_neighbours_at_their_places(method, groups, axis):
    """As if the neurons were moved to their places, filtered, and moved back."""
    rng = np.random.default_rng(0)
    shape = {-1: (3, 2, 24), 0: (24, 2, 3), (1, 3): (2, 6, 3, 4), (2, 3): (2, 3, 6, 4)}[axis]
    x = jnp.asarray(rng.normal(size=shape), jnp.float32)
    map = lgnn.grid(6, 4) if groups == 1 else lgnn.grid(4, 2)
    places = np.concatenate([map.count * g + rng.permutation(map.count) for g in range(groups)])
    taps = jnp.asarray([0.2, 0.6, 0.2], jnp.float32)
    options = dict(method=method, neuron_axis=axis, groups=groups, floor=0.25)
    found = low_pass(x, map, taps, places=jnp.asarray(places), **options)
    axes = axis if isinstance(axis, tuple) else (axis,)
    last = np.moveaxis(np.asarray(x), axes, range(-len(axes), 0))
    flat = last.reshape(-1, 24)
    moved = low_pass(jnp.asarray(flat[:, places]), map, taps, groups=groups, floor=0.25)
    back = np.empty_like(flat)
    back[:, places] = moved
    back = np.moveaxis(back.reshape(last.shape), range(-len(axes), 0), axes)
    np.testing.assert_allclose(found, back, atol=1e-6)


@pytest.mark.parametrize(
    "map", [lgnn.hexagonal(6, 5), lgnn.sphere(30), lgnn.grid(5, 3, 2)], ids=str
)
def test_on_other_maps(map):
    tx = lgnn.transform({"conv": map}, kernel_size=None, settle=Settling(every=2))
    grads, state = params(), tx.init(params())
    for _ in range(2):
        _, state = tx.update(grads, state, params(), activations={"conv": answers(0)["conv"]})
    places = np.asarray(lgnn.places(state)["conv/kernel"])
    correlations = np.corrcoef(np.asarray(answers(5, 400)["conv"]).T)
    near = map.distances() < 1.2
    np.fill_diagonal(near, False)
    assert correlations[np.ix_(places, places)][near].mean() > correlations.mean() + 0.2
    updates, _ = tx.update(grads, state, params(), activations={"conv": answers(0)["conv"]})
    kernel, window = grads["conv"]["kernel"], lgnn.maps.windows.heat_kernel(map, 0.5)
    expected = np.empty_like(kernel)
    expected[..., places] = np.asarray(kernel)[..., places] @ np.asarray(window)
    np.testing.assert_allclose(updates["conv"]["kernel"], expected, atol=1e-5)


def test_groups_settle_each_on_its_map():
    tree = {"conv": {"kernel": jnp.ones((3, 3, 1, 24))}}
    table = {"conv": LayerMap(lgnn.grid(4, 3), groups=2)}
    tx = lgnn.transform(table, settle=Settling(every=1))
    rng = np.random.default_rng(0)
    acts = {"conv": jnp.asarray(rng.normal(size=(50, 5, 5, 24)), jnp.float32)}
    _, state = tx.update(tree, tx.init(tree), tree, activations=acts)
    places = np.asarray(lgnn.places(state)["conv/kernel"])
    assert sorted(places[:12]) == list(range(12))
    assert sorted(places[12:]) == list(range(12, 24))
    flat = np.asarray(acts["conv"]).mean((1, 2))
    for part in (places[:12], places[12:]):
        assert (
            order(flat, part, lgnn.grid(4, 3)) > order(flat, np.sort(part), lgnn.grid(4, 3)) + 0.02
        )


@pytest.mark.parametrize("count", [1, 2, 3, 31])
def test_few_neurons_and_prime_counts(count):
    tree = {"conv": {"kernel": jnp.ones((3, 3, 1, count))}}
    tx = lgnn.transform({count: (count, 1)}, settle=Settling(every=1))
    acts = {"conv": jnp.asarray(np.random.default_rng(0).normal(size=(20, count)), jnp.float32)}
    _, state = jax.jit(tx.update)(tree, tx.init(tree), tree, activations=acts)
    assert sorted(np.asarray(lgnn.places(state)["conv/kernel"])) == list(range(count))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_moves_nobody_and_is_forgotten(bad):
    tx = lgnn.transform(TABLE, sigma=0, settle=Settling(every=1))
    state = tx.init(params())
    acts = answers(0)
    broken = {name: x.at[0, 3].set(bad) for name, x in acts.items()}
    _, first = tx.update(params(), state, params(), activations=broken)
    for path, places in lgnn.places(first).items():
        np.testing.assert_array_equal(places, np.arange(len(places)), err_msg=path)
    _, second = tx.update(params(), first, params(), activations=acts)
    assert order(acts["conv"], lgnn.places(second)["conv/kernel"], lgnn.grid(6, 5)) > 0.5
    on_gradients = lgnn.transform(TABLE, sigma=0, settle=Settling(every=1, gradients=1.0))
    broken = jax.tree.map(lambda x: x.at[0].set(bad), params())
    _, state = on_gradients.update(broken, on_gradients.init(params()))
    np.testing.assert_array_equal(lgnn.places(state)["conv/kernel"], np.arange(30))
    _, state = on_gradients.update(params(), state)
    assert not np.array_equal(lgnn.places(state)["conv/kernel"], np.arange(30))
    on_weights = lgnn.transform(TABLE, sigma=0, settle=Settling(every=1, on="weights"))
    tree = params()
    tree["conv"]["kernel"] = tree["conv"]["kernel"].at[0, 0, 0, 2].set(bad)
    _, state = on_weights.update(tree, on_weights.init(tree), tree)
    np.testing.assert_array_equal(lgnn.places(state)["conv/kernel"], np.arange(30))
    assert not np.array_equal(lgnn.places(state)["dense/kernel"], np.arange(12))


def test_dead_neurons_get_places_too():
    tx = lgnn.transform(TABLE, sigma=0, settle=Settling(every=1))
    acts = {name: x.at[:, :7].set(0.0) for name, x in answers(0).items()}
    _, state = tx.update(params(), tx.init(params()), params(), activations=acts)
    assert sorted(np.asarray(lgnn.places(state)["conv/kernel"])) == list(range(30))


WRAPPED = {
    "chain": lambda tx: optax.chain(optax.clip(1.0), tx, optax.sgd(0.1, momentum=0.9)),
    "masked": lambda tx: optax.masked(tx, {"conv": True, "dense": True, "head": False}),
    "partition": lambda tx: optax.partition(
        {"a": optax.chain(tx, optax.sgd(0.1)), "b": optax.adam(0.1)},
        {"conv": "a", "dense": "a", "head": "b"},
    ),
    "MultiSteps": lambda tx: optax.MultiSteps(optax.chain(tx, optax.adam(0.1)), 2),
    "apply_if_finite": lambda tx: optax.apply_if_finite(tx, 3),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_places_are_read_out_of_any_optimiser(name):
    tx = WRAPPED[name](lgnn.transform(TABLE, settle=Settling(every=1)))
    state = tx.init(params())
    for i in range(2):
        _, state = jax.jit(tx.update)(params(), state, params(), activations=answers(i))
    found = lgnn.places(state)
    assert list(found) == ["conv/kernel", "dense/kernel"]
    assert order(answers(5)["conv"], found["conv/kernel"], lgnn.grid(6, 5)) > 0.5


def test_in_float64():
    """The state keeps its types, whatever those of the gradients and of the settings."""
    with jax.enable_x64(True):
        settle = Settling(every=1, on=np.float64(0.5), gradients=np.float64(0.5))
        tx = lgnn.transform(TABLE, sigma=0, settle=settle)
        tree = jax.tree.map(lambda p: p.astype(jnp.float64), params())
        first = tx.init(tree)
        _, state = jax.jit(tx.update)(tree, first, tree, activations=answers())
        types = jax.tree.map(lambda x: x.dtype, first)
        assert jax.tree.map(lambda x: x.dtype, state) == types
    assert sorted(lgnn.places(state)["conv/kernel"].tolist()) == list(range(30))
    assert not np.array_equal(lgnn.places(state)["conv/kernel"], np.arange(30))


def test_places_through_inject_hyperparams():
    make = optax.inject_hyperparams(
        lgnn.transform, static_args=("kernel_size", "neuron_axis", "settle")
    )
    tx = make(TABLE, sigma=0.4, settle=Settling(every=1))
    _, state = tx.update(params(), tx.init(params()), params(), activations=answers(0))
    assert order(answers(5)["conv"], lgnn.places(state)["conv/kernel"], lgnn.grid(6, 5)) > 0.5


@pytest.mark.parametrize("name", WRAPPED)
def test_training_goes_on_from_places_that_are_given(name):
    """They are only improved, from a narrow neighbourhood."""
    tx = WRAPPED[name](lgnn.transform(TABLE, settle=Settling(every=2, sweeps=5)))
    given = lgnn.settle(answers(7, 500)["conv"], lgnn.grid(6, 5))
    state = lgnn.with_places(tx.init(params()), {"conv/kernel": given})
    found = lgnn.places(state)
    np.testing.assert_array_equal(found["conv/kernel"], given)
    np.testing.assert_array_equal(found["dense/kernel"], np.arange(12))
    assert jax.tree.structure(state) == jax.tree.structure(tx.init(params()))
    update = jax.jit(tx.update)
    for i in range(4):
        _, state = update(params(), state, params(), activations=answers(i))
    after = np.asarray(lgnn.places(state)["conv/kernel"])
    assert (after == given).mean() > 0.5


@pytest.mark.parametrize(
    ("places", "message"),
    [
        ({"cnv/kernel": np.arange(30)}, "places name 'cnv/kernel', which has none; did you mean"),
        ({"conv/kernel": np.arange(29)}, "places of conv/kernel must name each of 30 neurons once"),
        (
            {"conv/kernel": np.zeros(30, int)},
            "must name each of 30 neurons once, from 0, got a",
        ),
        ({"conv/kernel": np.arange(30.0)}, "must name each of 30 neurons once"),
        ({"conv/kernel": "conv"}, "must name each of 30 neurons once"),
        (np.arange(30), "places must be a dict, of places by path, got ndarray."),
    ],
)
def test_places_that_cannot_be_given(places, message):
    state = lgnn.transform(TABLE, settle=Settling(every=2)).init(params())
    with pytest.raises(ValueError, match=r"^[^\n]*$") as error:
        lgnn.with_places(state, places)
    assert message in str(error.value)


def test_a_state_without_places():
    with pytest.raises(ValueError, match=r"^no places in this optimiser's state"):
        lgnn.with_places(optax.sgd(0.1).init(params()), {})
    state = optax.sgd(0.1, momentum=0.9).init(params())
    with pytest.raises(ValueError, match=r"^no places in this optimiser's state: .*settle="):
        lgnn.places(state)
    assert lgnn.transform(TABLE).init(params()) == LGNNState(jnp.zeros((), jnp.int32))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 0}, "every must be a whole number, from 1 to 2**31 - 1, got 0."),
        ({"every": 1.5}, "every must be a whole number, from 1 to 2**31 - 1, got 1.5."),
        ({"every": True}, "every must be a whole number, from 1 to 2**31 - 1, got True."),
        ({"every": 1, "sweeps": 0}, "sweeps must be a whole number, from 1 to 2**31 - 1, got 0."),
        ({"every": 1, "until": 0}, "until must be a whole number, from 1 to 2**31 - 1, got 0."),
        ({"every": 1, "end_width": 0}, "end_width must be a number, at least 0.1, got 0."),
        ({"every": 1, "end_width": float("nan")}, "end_width must be a number, at least 0.1, got"),
        (
            {"every": 1, "start_width": 0.3},
            "start_width must be a number, at least end_width, 0.5, ",
        ),
        ({"every": 2**31}, "every must be a whole number, from 1 to 2**31 - 1, got 2147483648."),
        ({"every": 1, "on": np.ones(3)}, "on must be 'activations', 'weights', or the share of a"),
        ({"every": 1, "on": "both"}, "on must be 'activations', 'weights', or the share of act"),
        ({"every": 1, "gradients": 1.5}, "gradients must be a number in [0, 1], got 1.5."),
        ({"every": 1, "gradients": float("nan")}, "gradients must be a number in [0, 1], got nan."),
        ({"every": 1, "gradients": "all"}, "gradients must be a number in [0, 1], got 'all'."),
        ({"every": 1, "gradients": True}, "gradients must be a number in [0, 1], got True."),
        ({"every": 1, "on": 1.5}, "on must be 'activations', 'weights', or the share of activa"),
    ],
)
def test_settings_that_are_out_of_range(options, message):
    with pytest.raises(ValueError, match=r"^.*$") as error:
        Settling(**options)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("activations", "message"),
    [
        (None, "to settle on activations, update needs activations={layer: (batch, ..., neurons)}"),
        ({}, "activations lack those of conv/kernel, dense/kernel."),
        ({"conv": answers()["conv"]}, "activations lack those of dense/kernel."),
        (answers() | {"cnv": 0}, "activations name 'cnv', which is no layer; did you mean 'conv'?"),
        ({"conv": jnp.zeros((9, 29))}, "activations of conv must have shape (batch, ..., 30), got"),
        (
            {"conv": jnp.zeros(30)},
            "activations of conv must be real numbers (batch, ..., neurons), got float32 (30,).",
        ),
        (jnp.zeros((9, 30)), "activations must be a dict, {layer: (batch, ..., neurons)}, got"),
        ({"conv": None}, "activations of conv must be an array, got None."),
        ({"conv": {"pre": 0}}, "activations of conv must be an array, got {'pre': 0}."),
        ({"conv": jnp.zeros((0, 30))}, "activations of conv must be real numbers (batch, ..., "),
        ({"conv": jnp.zeros((1, 30))}, "activations of conv must be of 2 samples or more, got"),
        ({"conv": jnp.zeros((9, 30), complex)}, "real numbers (batch, ..., neurons), got complex"),
    ],
)
def test_activations_that_do_not_fit(activations, message):
    tx = lgnn.transform(TABLE, settle=Settling(every=1))
    with pytest.raises(ValueError, match=r"^.*$") as error:
        tx.update(params(), tx.init(params()), params(), activations=activations)
    assert message in str(error.value)


def test_weights_need_parameters():
    tx = lgnn.transform(TABLE, settle=Settling(every=1, on="weights"))
    with pytest.raises(ValueError, match=r"^to settle on weights, update needs params"):
        tx.update(params(), tx.init(params()))


def test_other_layers_may_be_among_the_activations():
    """As of a network that returns all; those without a map are passed over."""
    tx = lgnn.transform(TABLE, settle=Settling(every=1))
    acts = answers() | {"head": jnp.zeros((64, 5))}
    update = partial(tx.update, params(), tx.init(params()), params())
    assert_equal(update(activations=acts), update(activations=answers()))


def test_layers_that_a_mask_hides_may_be_among_the_activations():
    """As of a network that returns all, where each group of layers has a chain of its own."""
    found = jax.tree.map(lambda _: False, params())
    found["conv"]["kernel"] = True
    groups = jax.tree.map(lambda chosen: "conv" if chosen else "rest", found)
    groups["dense"]["kernel"] = "dense"
    conv, dense = (
        lgnn.self_organizing(table, steps=10)
        for table in ({30: (6, 5)}, {"dense/kernel": lgnn.ring(12)})
    )
    both = {"conv": conv, "dense": dense, "rest": optax.set_to_zero()}
    acts = answers() | {"head": jnp.zeros((64, 5))}
    for tx, settled in (
        (optax.masked(conv, found), {"conv/kernel"}),
        (optax.masked(conv, found | {"dense": False, "head": False}), {"conv/kernel"}),
        (optax.partition(both, groups), {"conv/kernel", "dense/kernel"}),
    ):
        _, state = tx.update(params(), tx.init(params()), params(), activations=acts)
        assert set(lgnn.places(state)) == settled
    tx = optax.masked(conv, found)
    with pytest.raises(ValueError, match=r"^activations name 'cnv', which is no layer"):
        tx.update(params(), tx.init(params()), params(), activations={"cnv": acts["conv"]})


def test_a_width_that_is_given_is_filtered_with_where_neurons_else_settle_alone():
    tx = lgnn.transform(TABLE, sigma=0, settle=Settling(every=9))
    update = partial(tx.update, params(), tx.init(params()), params(), activations=answers())
    assert_equal(update()[0], params())
    filtered = lgnn.transform(TABLE, sigma=0.5).update(params(), LGNNState(jnp.int32(0)))[0]
    assert_equal(update(sigma=0.5)[0], filtered)


@pytest.mark.parametrize("settle", [100, True, "activations"])
def test_what_is_no_settling(settle):
    with pytest.raises(ValueError, match=r"^settle must be an lgnn_jax.Settling, or None, got"):
        lgnn.transform(TABLE, settle=settle)
