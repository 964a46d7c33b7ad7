"""The transformation on parameters that are spread over eight devices."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import lgnn_jax as lgnn
from lgnn_jax import LayerMap

pytestmark = pytest.mark.usefixtures("strict_dtypes")

AUTO, EXPLICIT = AxisType.Auto, AxisType.Explicit  # the second is what jax.make_mesh gives
GRID, TORUS = lgnn.grid(4, 4), lgnn.grid(4, 4, wrap=True)
HEXAGONS = lgnn.hexagonal(4, 4)
FORMS = ["banded", "separable", "conv", "matmul"]  # "auto" on CPUs is the first of them


def mesh(kind):
    return jax.make_mesh((8,), ("d",), axis_types=(kind,))


def spec(axis, ndim=4):
    return P(*("d" if i == axis else None for i in range(ndim)))


def gradient(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def whole(layer_map, x):
    """The update on one device, as one product."""
    tx = lgnn.transform({"conv": layer_map}, sigma=0.8, method="matmul")
    return np.asarray(jax.jit(tx.update)({"conv": x}, tx.init({"conv": x}))[0]["conv"])


def spread(tx, x, axis, kind):
    """The update of a gradient that is sharded over an axis."""
    state = tx.init({"conv": x})
    x = jax.device_put(x, NamedSharding(mesh(kind), spec(axis, x.ndim)))
    assert len({shard.device for shard in x.addressable_shards}) == 8
    return jax.jit(tx.update)({"conv": x}, state)[0]["conv"]


def assert_same(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=2e-6, atol=2e-6)


def lies_as(x, axis):
    """Whether an array is sharded over one axis, and no other."""
    sides = [x.shape[axis] // 8 if i == axis else side for i, side in enumerate(x.shape)]
    return len(x.sharding.device_set) == 8 and x.sharding.shard_shape(x.shape) == tuple(sides)


CASES = [  # map, shape, the axis that is sharded
    (GRID, (1, 3, 8, 16), 2),
    (GRID, (1, 1, 8, 16), 3),
    (GRID, (8, 1, 2, 16), 0),
    (TORUS, (1, 1, 8, 16), 3),
    (LayerMap(GRID, (0, 3)), (2, 8, 2, 8), 1),
    (LayerMap(GRID, (0, 3)), (2, 8, 2, 8), 3),
    (LayerMap(lgnn.grid(4, 2), groups=2), (1, 1, 8, 16), 2),
]


@pytest.mark.parametrize(
    ("layer_map", "shape", "axis", "form", "kind"),
    [
        *((*case, form, AUTO) for case in CASES[:2] for form in FORMS),
        *((*case, FORMS[-i % 3], AUTO) for i, case in enumerate(CASES[2:])),
        *((*case, FORMS[i % 4], EXPLICIT) for i, case in enumerate(CASES)),
        (*CASES[0], "auto", EXPLICIT),
    ],
    ids=str,
)
def test_sharded_gradients_are_filtered_alike(layer_map, shape, axis, form, kind):
    tx = lgnn.transform({"conv": layer_map}, sigma=0.8, method=form)
    x = gradient(*shape)
    filtered = spread(tx, x, axis, kind)
    assert_same(filtered, whole(layer_map, x))
    # Where types say how arrays lie, they go on to do so. Where XLA decides, what is sharded over
    # its inputs stays so, but for "conv", which merges all axes but that of the neurons.
    over_inputs = layer_map == GRID and axis == 2
    if kind == EXPLICIT or (over_inputs and form != "conv"):
        assert lies_as(filtered, axis)


@pytest.mark.parametrize("kind", [AUTO, EXPLICIT], ids=str)
@pytest.mark.parametrize("axis", [0, 2, 3])
def test_sharded_gradients_on_hexagons(axis, kind):
    tx = lgnn.transform({"conv": HEXAGONS}, sigma=0.8)
    x = gradient(8, 1, 8, 16)
    filtered = spread(tx, x, axis, kind)
    assert_same(filtered, whole(HEXAGONS, x))
    assert lies_as(filtered, axis) or (kind, axis) == (AUTO, 3)


@pytest.mark.parametrize(("layer_map", "options"), [(GRID, {"method": "matmul"}), (HEXAGONS, {})])
def test_a_product_needs_nothing_of_other_devices(layer_map, options):
    """It is what GPUs and TPUs take; over c_in the filter costs no communication there."""
    tx = lgnn.transform({"conv": layer_map}, **options)
    x = gradient(1, 1, 8, 16)
    state = tx.init({"conv": x})
    x = {"conv": jax.device_put(x, NamedSharding(mesh(AUTO), spec(2)))}
    text = jax.jit(tx.update).lower(x, state).compile().as_text()
    for word in ("all-gather", "all-reduce", "all-to-all", "collective-permute"):
        assert word not in text


@pytest.mark.parametrize(("layer_map", "kind"), [(GRID, AUTO), (HEXAGONS, EXPLICIT)], ids=str)
def test_a_whole_step_on_sharded_parameters(layer_map, kind):
    """With the state on all devices, a schedule, a floor, decay and momentum."""
    sigma = lgnn.decreasing_sigma(0.8, steps_per_epoch=1, epochs=4)
    tx = optax.chain(
        lgnn.transform({"conv": layer_map}, sigma=sigma, floor=0.2, method="matmul"),
        optax.add_decayed_weights(0.1),
        optax.sgd(0.1, momentum=0.9),
    )

    def steps(params, state, update):
        grads = {"conv": params["conv"] * 2}
        for _ in range(2):
            updates, state = update(grads, state, params)
            params = optax.apply_updates(params, updates)
        return params["conv"], state

    params = {"conv": jnp.asarray(gradient(1, 1, 8, 16))}
    expected, _ = steps(params, tx.init(params), jax.jit(tx.update))
    devices = mesh(kind)
    params = jax.device_put(params, NamedSharding(devices, spec(2)))
    state = jax.tree.map(
        lambda x: jax.device_put(x, NamedSharding(devices, P())) if x.ndim == 0 else x,
        tx.init(params),
    )
    actual, state = steps(params, state, jax.jit(tx.update))
    assert_same(actual, expected)
    assert lies_as(actual, 2)
    assert state[0].count == 2


# --- inside jax.shard_map ------------------------------------------------------------


def mapped(tx, x, axis, kind):
    state = tx.init({"conv": x})
    update = jax.shard_map(
        lambda x: tx.update({"conv": x}, state)[0]["conv"],
        mesh=mesh(kind),
        in_specs=spec(axis, x.ndim),
        out_specs=spec(axis, x.ndim),
    )
    return jax.jit(update)(jax.device_put(x, NamedSharding(mesh(kind), spec(axis, x.ndim))))


@pytest.mark.parametrize(
    ("layer_map", "form", "kind"),
    [
        *((GRID, form, AUTO) for form in FORMS),
        (GRID, "auto", EXPLICIT),
        (TORUS, "separable", EXPLICIT),
        (HEXAGONS, "auto", AUTO),
    ],
    ids=str,
)
def test_each_device_filters_its_inputs(layer_map, form, kind):
    tx = lgnn.transform({"conv": layer_map}, sigma=0.8, method=form)
    x = gradient(1, 2, 8, 16)
    assert_same(mapped(tx, x, 2, kind), whole(layer_map, x))


def test_each_device_filters_its_inputs_on_a_map_over_two_axes():
    layer_map = LayerMap(GRID, (0, 3))
    tx = lgnn.transform({"conv": layer_map}, sigma=0.8)
    x = gradient(2, 8, 2, 8)
    assert_same(mapped(tx, x, 1, AUTO), whole(layer_map, x))


REMEDY = (
    "one device's part, in shard_map over 'd', and the neurons of a map must be whole on each "
    "device: shard another axis, or update outside of shard_map."
)


@pytest.mark.parametrize(
    "table",
    [{"conv": GRID}, {"conv": HEXAGONS}, {16: (4, 4)}, {"conv": LayerMap(GRID, (-1,))}],
    ids=str,
)
@pytest.mark.parametrize("kind", [AUTO, EXPLICIT], ids=str)
def test_a_part_of_a_map_is_refused(table, kind):
    with pytest.raises(ValueError, match="shard_map") as error:
        mapped(lgnn.transform(table), gradient(1, 1, 3, 16), 3, kind)
    text = str(error.value)
    assert len(text.splitlines()) == 1
    assert "'conv' with shape (1, 1, 3, 2)" in text
    assert text.endswith(REMEDY)


def test_elsewhere_a_misfit_says_nothing_of_devices():
    with pytest.raises(ValueError, match=r"has 12: use \(4, 3\)") as error:
        lgnn.transform({"conv": GRID}).init({"conv": jnp.zeros((1, 1, 3, 12))})
    assert "shard_map" not in str(error.value)
