"""The filter on every map, against float64 loops over places and matrix exponentials."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.linalg

import lgnn_jax as lgnn
from lgnn_jax import LayerMap

pytestmark = pytest.mark.usefixtures("strict_dtypes")

TORUS, CYLINDER = lgnn.grid(8, 4, wrap=True), lgnn.grid(6, 5, wrap=(True, False))
LINE, RING, BLOCK = lgnn.line(12), lgnn.ring(12), lgnn.grid(3, 2, 4)
MAPS = [
    TORUS,
    CYLINDER,
    LINE,
    RING,
    BLOCK,
    lgnn.hexagonal(6, 5),
    lgnn.hexagonal(6, 4, wrap=True),
    lgnn.sphere(40),
]
FORMS = ["conv", "separable", "banded", "matmul"]  # "auto" is one of them


def window_matrix(sides, wrap, padding, sigma, size):
    """What each place of a grid sees of each, place by place: `(to, from)`."""
    offsets = range(-(size // 2), size // 2 + 1)
    weights = {d: np.exp(-(d**2) / (2 * sigma**2)) if sigma else float(d == 0) for d in offsets}
    total = sum(weights.values())
    matrix = np.zeros((np.prod(sides), np.prod(sides)))
    for place in itertools.product(*map(range, sides)):
        for step in itertools.product(offsets, repeat=len(sides)):
            seen = [p + d for p, d in zip(place, step, strict=True)]
            for i, (side, wraps) in enumerate(zip(sides, wrap, strict=True)):
                if wraps or padding == "wrap":
                    seen[i] %= side
                elif padding == "replicate":
                    seen[i] = min(max(seen[i], 0), side - 1)
            if all(0 <= p < side for p, side in zip(seen, sides, strict=True)):
                weight = np.prod([weights[d] / total for d in step])
                matrix[np.ravel_multi_index(place, sides), np.ravel_multi_index(seen, sides)] += (
                    weight
                )
    return matrix


def heat_matrix(map, sigma):
    return scipy.linalg.expm(-(sigma**2) / 2 * map.laplacian())


def on_axes(x, matrix, axes, groups=1):
    """Filters `x` by a matrix `(to, from)`, place by place, each of the groups by itself."""
    x = np.asarray(x, np.float64)
    sides = [x.shape[a] for a in axes]
    filtered = np.zeros_like(x)

    def at(neuron):
        index = [slice(None)] * x.ndim
        for axis, i in zip(axes, np.unravel_index(neuron, sides), strict=True):
            index[axis] = i
        return tuple(index)

    for group, (to, from_) in itertools.product(range(groups), np.ndindex(matrix.shape)):
        first = group * len(matrix)
        filtered[at(first + to)] += matrix[to, from_] * x[at(first + from_)]
    return filtered


def random(*shape):
    return np.random.default_rng(sum(shape)).normal(size=shape)


def filtered(x, layer_map, **options):
    tx = lgnn.transform({"w": layer_map}, **options)
    tree = {"w": jnp.asarray(x)}
    return jax.jit(tx.update)(tree, tx.init(tree))[0]["w"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("map", "padding", "size"),
    [
        (TORUS, "zero", 3),  # sides that wrap know no edge
        (CYLINDER, "replicate", 5),
        (CYLINDER, "zero", 3),
        (CYLINDER, "wrap", 3),
        (LINE, "replicate", 5),
        (LINE, "zero", 3),
        (RING, "replicate", 5),
        (BLOCK, "replicate", 3),
        (BLOCK, "zero", 5),  # wider than one of the sides
    ],
    ids=str,
)
def test_windows_are_sums_over_places(map, padding, size, form):
    with jax.enable_x64(True):
        x = random(2, 4, map.count)
        actual = filtered(x, map, sigma=0.8, kernel_size=size, padding=padding, method=form)
    expected = x @ window_matrix(map.sides, map.wrap, padding, 0.8, size).T
    np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("map", MAPS, ids=str)
def test_heat_kernels_are_matrix_exponentials(map):
    """With one compilation for all widths."""
    tx = lgnn.transform({"w": map}, kernel_size=None)
    with jax.enable_x64(True):
        impulses = {"w": jnp.eye(map.count)}
        state = tx.init(impulses)
        update = jax.jit(lambda sigma: tx.update(impulses, state, sigma=sigma)[0]["w"])
        kernels = {sigma: np.asarray(update(sigma)) for sigma in (0.0, 0.5, 2.0)}
    assert update._cache_size() == 1
    np.testing.assert_allclose(kernels[0.0], np.eye(map.count), atol=1e-13)
    for sigma, kernel in kernels.items():
        np.testing.assert_allclose(kernel, heat_matrix(map, sigma), rtol=1e-9, atol=1e-13)
        np.testing.assert_allclose(kernel.sum(axis=1), 1, rtol=1e-12)
        np.testing.assert_allclose(kernel, kernel.T, atol=1e-14)
        assert kernel.min() > -1e-13


def test_other_maps_have_no_window():
    """Their neighbourhood is the whole map, whatever the size of a window."""
    map = lgnn.sphere(40)
    x = random(3, 40).astype(np.float32)
    expected = x @ heat_matrix(map, 0.5)
    for size in (3, 7, None):
        np.testing.assert_allclose(filtered(x, map, kernel_size=size), expected, atol=2e-6)


@pytest.mark.parametrize(
    ("map", "size", "padding"),
    [(TORUS, 3, "replicate"), (CYLINDER, 5, "replicate"), (LINE, 3, "zero"), (BLOCK, 3, "wrap")],
    ids=str,
)
def test_what_windows_keep(map, size, padding):
    """Rows add up to 1 but where zeros come in; 3x3 is symmetric; width 0 is the identity."""
    tx = lgnn.transform({"w": map}, kernel_size=size, padding=padding)
    with jax.enable_x64(True):
        impulses = {"w": jnp.eye(map.count)}
        state = tx.init(impulses)
        update = jax.jit(lambda sigma: tx.update(impulses, state, sigma=sigma)[0]["w"])
        matrix, identity = (np.asarray(update(sigma)).T for sigma in (0.9, 0.0))
    np.testing.assert_array_equal(identity, np.eye(map.count))
    sums = matrix.sum(axis=1)
    if padding == "zero":
        outside = np.exp(-0.5 / 0.81) / (1 + 2 * np.exp(-0.5 / 0.81))
        np.testing.assert_allclose(sums[[0, 1, -1]], [1 - outside, 1, 1 - outside], rtol=1e-12)
    else:
        np.testing.assert_allclose(sums, 1, rtol=1e-12)
    if size == 3:
        np.testing.assert_allclose(matrix, matrix.T, atol=1e-15)


@pytest.mark.parametrize(
    ("map", "size"), [(TORUS, 3), (BLOCK, 5), (lgnn.hexagonal(6, 4, wrap=True), None)], ids=str
)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_shorter_types_are_rounded_once(map, size, dtype):
    x = jnp.asarray(random(30, map.count), dtype)
    actual = filtered(x, map, sigma=0.7, kernel_size=size)
    assert actual.dtype == dtype
    matrix = (
        window_matrix(map.sides, map.wrap, "replicate", 0.7, size)
        if size
        else heat_matrix(map, 0.7)
    )
    expected = np.asarray(x, np.float64) @ matrix.T
    # Half a unit in the last place, or what float32's sums leave.
    rounding = max(float(jnp.finfo(dtype).eps) / 2, 1e-6)
    np.testing.assert_allclose(np.asarray(actual, np.float64), expected, rtol=rounding, atol=2e-6)


AXES = [
    (0, 1),
    (1, 2),
    (2, 1),
    (0, 2),
    (2, 0),
    (-1, -3),
    (0, -1, 1),
    (0,),
]


@pytest.mark.parametrize("axes", AXES, ids=str)
def test_several_axes_count_neurons_together(axes):
    """The last one named fastest, wherever it lies."""
    x = random(4, 3, 2).astype(np.float32)
    sides = tuple(x.shape[a] for a in axes)
    map = lgnn.grid(*sides, wrap=(True,) + (False,) * (len(sides) - 1))
    matrix = window_matrix(map.sides, map.wrap, "replicate", 0.8, 3)
    form = ["banded", "separable", "conv", "matmul"][AXES.index(axes) % 4]
    actual = filtered(x, LayerMap(map, axes), sigma=0.8, method=form)
    np.testing.assert_allclose(actual, on_axes(x, matrix, axes), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("map", "axes", "groups"),
    [
        (lgnn.grid(3, 2), (2,), 2),
        (lgnn.ring(4), (1,), 3),
        (lgnn.hexagonal(2, 3), (2,), 2),
        (lgnn.grid(3, 2), (0, 1), 4),
        (lgnn.grid(4, 3), (2, 0), 2),
    ],
    ids=str,
)
def test_groups_keep_to_themselves(map, axes, groups):
    x = random(2, 12, 12).astype(np.float32)
    axes_shape = np.prod([x.shape[a] for a in axes])
    assert map.count * groups == axes_shape
    if isinstance(map, type(TORUS)):
        matrix = window_matrix(map.sides, map.wrap, "replicate", 0.8, 3)
    else:
        matrix = heat_matrix(map, 0.8)
    axis = axes if len(axes) > 1 else axes[0]
    actual = filtered(x, LayerMap(map, axis, groups), sigma=0.8)
    np.testing.assert_allclose(actual, on_axes(x, matrix, axes, groups), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("map", [CYLINDER, lgnn.sphere(40)], ids=str)
def test_a_floor_lets_a_share_pass(map):
    x = random(3, map.count).astype(np.float32)
    if map is CYLINDER:
        matrix = window_matrix(map.sides, map.wrap, "replicate", 0.8, 3)
    else:
        matrix = heat_matrix(map, 0.8)
    make = optax.inject_hyperparams(lgnn.transform, static_args=("kernel_size", "neuron_axis"))
    tx = make({"w": map}, sigma=0.8, floor=0.3)
    state = tx.init({"w": x})
    update = jax.jit(tx.update)
    for floor in (0.3, 0.0, 1.0):
        state.hyperparams["floor"] = jnp.float32(floor)
        actual = update({"w": x}, state)[0]["w"]
        expected = floor * x + (1 - floor) * (x @ matrix.T)
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(filtered(x, map, sigma=0.8, floor=1), x, rtol=1e-6)
