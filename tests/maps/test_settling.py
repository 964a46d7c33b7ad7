import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lgnn_jax as lgnn
from lgnn_jax.maps import starts
from lgnn_jax.maps.likeness import likeness
from lgnn_jax.maps.swaps import squared_distances, sweeps

MAPS = [
    lgnn.line(12), lgnn.ring(12), lgnn.grid(4, 3), lgnn.grid(3, 4, wrap=True), lgnn.grid(2, 3, 2),
    lgnn.grid(4, 3, wrap=(False, True)), lgnn.hexagonal(4, 3), lgnn.hexagonal(4, 4, wrap=True),
    lgnn.sphere(12),
]  # fmt: skip


def on_a_map(map, *, width=1.5, samples=1200, noise=0.3, seed=0):
    """Features of neurons that are alike as far as they lie near on a map, in its order."""
    rng = np.random.default_rng(seed)
    near = np.exp(-np.square(map.distances()) / (2 * width**2))
    values, vectors = np.linalg.eigh(near)
    root = vectors * np.sqrt(np.maximum(values, 0))
    smooth = rng.normal(size=(samples, map.count)) @ root.T
    return smooth + noise * rng.normal(size=smooth.shape)


def neighbours(features, map, places):
    """Mean correlation of neighbours."""
    first, second = map.edges().T
    correlations = np.corrcoef(features[:, places].T)
    return correlations[first, second].mean()


def is_order(places, count):
    return places.dtype == np.int32 and np.array_equal(np.sort(places), np.arange(count))


# The sweep.


@pytest.mark.parametrize("map", MAPS, ids=str)
def test_squares_along_axes_add_up_to_those_of_the_map(map):
    total = np.zeros((1, 1))
    for x in squared_distances(map):
        total = total[:, None, :, None] + x[:, None, :]  # the last axis is the fastest
        total = total.reshape(total.shape[0] * total.shape[1], -1)
    np.testing.assert_allclose(total, np.square(map.distances()), rtol=1e-6)


def swept(likeness, places, width, map, fixed):
    """One sweep, in float64: the sum is computed anew for each swap of two neurons."""
    near = np.exp(-np.square(map.distances()) / (2 * width**2))

    def total(placed):
        return (near * likeness[np.ix_(placed, placed)]).sum()

    count = len(places)
    gains = np.zeros((count, count))
    for p in range(count):
        for q in range(count):
            if p != q and not (fixed[p] or fixed[q]):
                swapped = places.copy()
                swapped[[p, q]] = places[[q, p]]
                gains[p, q] = total(swapped) - total(places)
    best = gains.argmax(axis=1)
    moved = places.copy()
    for p in range(count):
        if best[best[p]] == p and gains[p, best[p]] > 1e-6:
            moved[p] = places[best[p]]
    return moved


@pytest.mark.parametrize("width", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("map", MAPS, ids=str)
def test_a_sweep_makes_the_swaps_that_choose_each_other(map, width):
    count, rng = map.count, np.random.default_rng(0)
    alike = rng.normal(size=(count, count))
    alike = np.float32(alike + alike.T) / 4
    np.fill_diagonal(alike, 0)
    places = rng.permutation(count)
    fixed = np.zeros(count, bool)
    fixed[[1, count - 2]] = True
    expected = swept(alike.astype(float), places, width, map, fixed)
    found = sweeps(
        alike, places.astype(np.int32), np.float32([width]), squared_distances(map), fixed
    )
    np.testing.assert_array_equal(found, expected)
    assert not np.array_equal(expected, places)  # so that there was something to be seen


def test_equal_gains_do_not_lose_a_neuron():
    """Of neurons that are the same, several choose one, with gains equal to the last bit."""
    kinds = np.random.default_rng(0).integers(3, size=64)
    alike = np.float32(kinds[:, None] == kinds)
    np.fill_diagonal(alike, 0)
    widths = np.geomspace(4, 0.5, 30).astype(np.float32)
    squares = squared_distances(lgnn.grid(8, 8))
    found = sweeps(alike, np.arange(64, dtype=np.int32), widths, squares, np.zeros(64, bool))
    assert is_order(np.asarray(found), 64)


def test_sweeps_run_within_a_jitted_step():
    features = on_a_map(lgnn.grid(4, 4))
    alike = likeness(features).values
    squares = squared_distances(lgnn.grid(4, 4))
    run = partial(sweeps, squares=squares, fixed=jnp.zeros(16, bool))
    args = alike, jnp.arange(16, dtype=jnp.int32), jnp.geomspace(2, 0.5, 10)
    np.testing.assert_array_equal(jax.jit(run)(*args), run(*args))


# How alike neurons are.


def test_likeness_is_correlation_of_samples_and_of_means_over_those_alike():
    features = np.random.default_rng(0).normal(size=(200, 7)) @ np.random.default_rng(1).normal(
        size=(7, 12)
    )
    z = (features - features.mean(axis=0)) / features.std(axis=0)
    unit = z / np.linalg.norm(z, axis=1, keepdims=True)
    nearest = np.argsort(-unit @ unit.T, axis=1)[:, :15]
    expected = np.corrcoef(z.T) + 0.3 * np.corrcoef(z[nearest].mean(axis=1).T)
    np.fill_diagonal(expected, 0)
    found = np.asarray(likeness(features).values)
    np.testing.assert_allclose(found, expected, atol=2e-6)
    np.testing.assert_array_equal(found, found.T)


@pytest.mark.parametrize("samples", [2, 5, 30, 59])
def test_of_few_samples_it_is_correlation_alone(samples):
    features = np.random.default_rng(0).normal(size=(samples, 6))
    expected = np.corrcoef(features.T)
    np.fill_diagonal(expected, 0)
    np.testing.assert_allclose(likeness(features).values, expected, atol=1e-6)


@pytest.mark.parametrize(("scale", "offset"), [(1e-30, 0), (1e300, 0), (1, 1e8), (-3, 7)])
def test_scale_and_offset_of_a_neuron_do_not_count(scale, offset):
    features = np.random.default_rng(0).normal(size=(50, 5))
    expected = np.corrcoef(features.T)
    expected[2] *= np.sign(scale)
    expected[:, 2] *= np.sign(scale)
    np.fill_diagonal(expected, 0)
    features[:, 2] = features[:, 2] * scale + offset
    found = likeness(features)
    assert not found.constant.any()
    np.testing.assert_allclose(found.values, expected, atol=1e-6)


def test_constant_neurons_are_like_none():
    features = np.random.default_rng(0).normal(size=(100, 6))
    features[:, [1, 4]] = [0, 1 / 3]
    found = likeness(features)
    assert found.constant.tolist() == [False, True, False, False, True, False]
    assert not np.asarray(found.values)[[1, 4]].any()
    assert np.isfinite(found.values).all()


# Starts.


def test_a_spectral_start_orders_a_line():
    line = lgnn.line(50)
    features = on_a_map(line, width=3, noise=0.1)
    shuffled = np.random.default_rng(1).permutation(50)
    alike = np.asarray(likeness(features[:, shuffled]).values)
    coordinate = starts.spectral(alike, 1)[:, 0]
    assert (
        abs(np.corrcoef(np.argsort(np.argsort(coordinate)), shuffled)[0, 1]) > 0.95
    )  # the ends fold back


@pytest.mark.parametrize("embed", [starts.spectral, starts.principal])
def test_coordinates_have_signs_of_their_own(embed):
    """Otherwise a start would be mirrored by what rounding makes of it."""
    features = on_a_map(lgnn.grid(8, 5), width=2, noise=0.1)
    found = embed(np.asarray(likeness(features).values), 2)
    assert (found.max(axis=0) == np.abs(found).max(axis=0)).all()


def test_principal_coordinates_are_those_of_numpy():
    features = np.random.default_rng(0).normal(size=(300, 3)) @ np.random.default_rng(1).normal(
        size=(3, 40)
    ) + 0.1 * np.random.default_rng(2).normal(size=(300, 40))
    alike = np.corrcoef(features.T)
    centred = alike - alike.mean(0) - alike.mean(1)[:, None] + alike.mean()
    expected = np.linalg.eigh(centred)[1][:, ::-1][:, :2]
    np.fill_diagonal(alike, 0)
    found = starts.principal(alike, 2)
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-6)


@pytest.mark.parametrize("map", MAPS, ids=str)
def test_a_layout_puts_positions_where_they_are(map):
    if map.positions.shape[1] > 2:
        pytest.skip("cut along the axes, a sphere's places have no order of their own")
    longest_first = np.argsort(-np.ptp(map.positions, axis=0), kind="stable")
    coordinates = map.positions[:, longest_first]
    found = starts.lay_out(coordinates, map, np.arange(map.count))
    np.testing.assert_array_equal(found, np.arange(map.count))


# Settling.


@pytest.mark.parametrize(
    ("map", "share"),
    [
        (lgnn.line(40), 0.85), (lgnn.ring(40), 0.85), (lgnn.grid(8, 8), 0.85),
        (lgnn.grid(12, 6), 0.85), (lgnn.grid(4, 4, 4), 0.85), (lgnn.hexagonal(9, 8), 0.85),
        (lgnn.sphere(64), 0.85), (lgnn.grid(8, 8, wrap=True), 0.75),
    ],
    ids=str,
)  # fmt: skip
def test_neurons_of_a_map_find_its_order_again(map, share):
    """Judged on samples that they did not settle on, beside the order that they were made in."""
    features = on_a_map(map, samples=2000)
    shuffled = np.random.default_rng(1).permutation(map.count)
    places = lgnn.settle(features[:1000, shuffled], map)
    assert is_order(places, map.count)
    held_out = features[1000:]
    right = neighbours(held_out, map, np.arange(map.count))
    assert neighbours(held_out[:, shuffled], map, places) > share * right


@pytest.mark.parametrize("start", ["pca", "random"])
def test_other_starts_find_order_too(start):
    map = lgnn.grid(8, 8)
    features = on_a_map(map)
    shuffled = features[:, np.random.default_rng(1).permutation(64)]
    right = neighbours(features, map, np.arange(64))
    assert neighbours(shuffled, map, lgnn.settle(shuffled, start=start)) > 0.8 * right


def test_the_result_depends_on_the_features_alone():
    features = on_a_map(lgnn.grid(8, 4))
    first = lgnn.settle(features)
    np.testing.assert_array_equal(first, lgnn.settle(features, (8, 4), seed=7))
    np.testing.assert_array_equal(first, lgnn.settle(features.tolist(), lgnn.grid(8, 4)))
    np.testing.assert_array_equal(first, lgnn.settle(2 * features))
    other = [lgnn.settle(features, start="random", seed=seed) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(other[0], other[1])
    assert not np.array_equal(other[0], other[2])


@pytest.mark.parametrize("dtype", ["int8", "int64", "float16", "bfloat16", "float64", "bool"])
def test_any_numbers(dtype):
    rng = np.random.default_rng(0)
    features = rng.integers(2, size=(200, 16)).astype(jnp.dtype(dtype))
    expected = lgnn.settle(features.astype(np.float32))
    np.testing.assert_array_equal(lgnn.settle(features), expected)
    if features.dtype.itemsize < 8:
        np.testing.assert_array_equal(lgnn.settle(jnp.asarray(features)), expected)


@pytest.mark.parametrize("neurons", [1, 2, 3, 4, 7, 31])
def test_few_neurons_and_prime_counts(neurons):
    features = np.random.default_rng(0).normal(size=(150, neurons))
    assert is_order(lgnn.settle(features), neurons)


def test_places_to_go_on_from():
    features = on_a_map(lgnn.grid(8, 4))
    start = np.random.default_rng(0).permutation(32)
    np.testing.assert_array_equal(lgnn.settle(features, start=start, sweeps=0), start)
    settled = lgnn.settle(features, start=start)
    map = lgnn.grid(8, 4)
    assert neighbours(features, map, settled) > neighbours(features, map, start) + 0.1


def test_constant_neurons_lie_at_the_rim():
    features = on_a_map(lgnn.grid(6, 6))
    dead = [3, 10, 20, 21, 35]
    features[:, dead] = 2
    expected = (
        r"features: 5 of 36 neurons are constant over the samples, and lie at the rim of the map: "
        r"3, 10, 20, 21, 35\."
    )
    rim = [p for p, (i, j) in enumerate(lgnn.grid(6, 6).positions) if {i, j} & {0, 5}]
    for start in ("spectral", "pca", "random", np.arange(36)):
        with pytest.warns(UserWarning, match=expected):
            places = lgnn.settle(features, start=start)
        assert is_order(places, 36)
        assert {p for p in range(36) if places[p] in dead} <= set(rim)


def test_nothing_but_constant_neurons():
    with pytest.warns(UserWarning, match=r"12 of 12 .*: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, \.\.\."):
        assert is_order(lgnn.settle(np.ones((100, 12))), 12)


def test_few_samples_are_named():
    features = np.random.default_rng(0).normal(size=(25, 8))
    with pytest.warns(UserWarning, match=r"25 samples: correlations .* spread by 0\.20"):
        assert is_order(lgnn.settle(features), 8)


GOOD = np.random.default_rng(0).normal(size=(120, 12))
NAN, INF = GOOD.copy(), GOOD.copy()
NAN[3, 5] = NAN[9, 7] = np.nan
INF[0, 0] = -np.inf


@pytest.mark.parametrize(
    ("features", "options", "message"),
    [
        (NAN, {}, "neuron 5 has nan on sample 3; so have 1 more of the neurons"),
        (INF, {}, r"neuron 0 has -inf on sample 0\."),
        (GOOD[:1], {}, "2 samples or more.* got 1"),
        (GOOD[0], {}, r"\(samples, neurons\), got \(12,\)"),
        (GOOD[:, :0], {}, r"got \(120, 0\)"),
        (GOOD.reshape(120, 2, 2, 3), {}, "take the mean over pixels or tokens first"),
        (GOOD + 1j, {}, "real numbers"),
        ([["a", "b"]], {}, "real numbers"),
        ([[1.0, 2.0], [1.0]], {}, "real numbers"),
        (None, {}, "real numbers.* got None"),
        (GOOD, {"map": (4, 4)}, "map 4x4 has 16 places, and features have 12 neurons"),
        (GOOD, {"map": 12}, "a map must be a map, or"),
        (GOOD, {"start": "tsne"}, "start must be one of spectral, pca, random, or places.*'tsne'"),
        (GOOD, {"start": [0] * 12}, "each of 12 neurons once"),
        (GOOD, {"start": np.arange(12.0)}, "each of 12 neurons once"),
        (GOOD, {"sweeps": -1}, "sweeps must be a whole number, at least 0, got -1"),
        (GOOD, {"sweeps": 1.5}, "sweeps must be a whole number, at least 0, got 1.5"),
        (GOOD, {"end_width": 0}, "end_width must be a number, at least 0.1, got 0"),
        (GOOD, {"start_width": np.nan}, "start_width must be a number, at least 0.1, got nan"),
        (GOOD, {"start_width": 0.2}, "at least end_width"),
        (GOOD, {"seed": -1, "start": "random"}, "seed must be"),
        (GOOD, {"start": [[0], [1, 2]]}, "each of 12 neurons once"),
        (GOOD, {"end_width": 1e-30}, "at least 0.1"),
        (np.ma.masked_greater(GOOD, 2), {}, "none masked"),
    ],
    ids=range(24),
)
def test_bad_input_is_refused_in_one_line(features, options, message):
    with pytest.raises(ValueError, match=message) as raised:
        lgnn.settle(features, **options)
    assert "\n" not in str(raised.value)


# All layers of a network.


def network(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "conv1": {"kernel": rng.normal(size=(3, 3, 3, 16)), "bias": np.zeros(16)},
        "conv2": {"kernel": rng.normal(size=(3, 3, 16, 16)), "bias": np.zeros(16)},
        "head": {"kernel": rng.normal(size=(16, 10)), "bias": np.zeros(10)},
    }


def test_layers_settle_on_activations_or_else_on_weights():
    params, features = network(), on_a_map(lgnn.grid(4, 4))
    found = lgnn.settle_layers(params, {16: (4, 4)}, activations={"conv2": features, "head": GOOD})
    assert list(found) == ["conv1/kernel", "conv2/kernel"]
    np.testing.assert_array_equal(found["conv2/kernel"], lgnn.settle(features))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # 27 weights are few samples
        weights = lgnn.settle(params["conv1"]["kernel"].reshape(-1, 16))
    np.testing.assert_array_equal(found["conv1/kernel"], weights)
    by_path = lgnn.settle_layers(params, {16: (4, 4)}, activations={"conv2/kernel": features})
    np.testing.assert_array_equal(by_path["conv2/kernel"], found["conv2/kernel"])


def test_groups_settle_each_on_a_map_of_its_own():
    kernel = np.random.default_rng(0).normal(size=(3, 3, 8, 32))
    table = {"conv": lgnn.LayerMap(lgnn.grid(4, 4), groups=2)}
    features = np.concatenate([on_a_map(lgnn.grid(4, 4), seed=s) for s in (0, 1)], axis=1)
    params = {"conv": {"kernel": kernel}}
    [places] = lgnn.settle_layers(params, table, activations={"conv": features}).values()
    np.testing.assert_array_equal(places[:16], lgnn.settle(features[:, :16]))
    np.testing.assert_array_equal(places[16:], 16 + lgnn.settle(features[:, 16:]))


def test_heads_of_an_attention_layer():
    kernel = np.random.default_rng(0).normal(size=(64, 8, 12))
    params = {"attention": {"query": {"kernel": kernel}}}
    for axes, count, dims in ((1, 8, (4, 2)), ((1, 2), 96, (12, 8))):
        table = {"query": lgnn.LayerMap(lgnn.grid(*dims), axes)}
        [places] = lgnn.settle_layers(params, table).values()
        assert is_order(places, count)
    moved = np.moveaxis(kernel, 1, -1).reshape(-1, 8)
    table = {"query": lgnn.LayerMap(lgnn.grid(4, 2), 1)}
    [places] = lgnn.settle_layers(params, table).values()
    np.testing.assert_array_equal(places, lgnn.settle(moved))


def test_layers_of_a_stream_share_their_places_and_can_be_reordered():
    params = network()
    del params["conv1"]
    params["conv1"] = {"kernel": np.random.default_rng(3).normal(size=(3, 3, 16, 16))}
    streams = [
        lgnn.Stream(("conv1", "conv2"), readers=("conv1", "conv2", "head")), lgnn.Stream(("head",))
    ]  # fmt: skip
    map = lgnn.grid(4, 4)
    other = np.random.default_rng(4).permutation(16)
    features = {"conv1": on_a_map(map), "conv2": on_a_map(map, seed=1)[:, other]}
    alone = lgnn.settle_layers(params, {16: (4, 4)}, activations=features)
    assert not np.array_equal(*alone.values())
    found = lgnn.settle_layers(params, {16: (4, 4)}, activations=features, streams=streams)
    np.testing.assert_array_equal(found["conv1/kernel"], found["conv2/kernel"])
    for places in alone.values():  # a compromise, not the places of one of them
        assert not np.array_equal(found["conv1/kernel"], places)
    moved, _ = lgnn.reorder(params, found, streams)
    expected = params["head"]["kernel"][found["conv1/kernel"]]
    np.testing.assert_allclose(moved["head"]["kernel"], expected, rtol=1e-6)
    table = {"conv1": (4, 4), "conv2": (8, 2)}
    with pytest.raises(ValueError, match=r"conv1/kernel and conv2/kernel .* need one map"):
        lgnn.settle_layers(params, table, streams=streams)


@pytest.mark.parametrize(
    ("activations", "message"),
    [
        ({"conv3": GOOD}, "activations name 'conv3', which is no layer; did you mean 'conv"),
        ({"conv1": GOOD}, "activations of conv1/kernel have 12 neurons, and its kernel has 16"),
        ({"conv1": NAN}, "activations of conv1 must be finite: neuron 5"),
        ({"conv1": on_a_map(lgnn.line(16)), "conv1/kernel": GOOD}, "conv1/kernel twice"),
    ],
)
def test_activations_that_are_no_layers(activations, message):
    with pytest.raises(ValueError, match=message):
        lgnn.settle_layers(network(), {16: (4, 4)}, activations=activations)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"activations": [GOOD]}, "activations must be arrays by layer, got list"),
        ({"activations": {1: GOOD}}, "activations name 1, which is no layer"),
        ({"streams": "conv1"}, "streams must be a list of lgnn_jax.Stream, got 'conv1'"),
        ({"streams": None}, "streams must be a list of lgnn_jax.Stream, got None"),
        ({"streams": lgnn.Stream(("conv1",))}, "streams must be a list"),
    ],
)
def test_what_is_no_stream_and_no_activations(options, message):
    with pytest.raises(ValueError, match=message):
        lgnn.settle_layers(network(), {16: (4, 4)}, **options)


def test_a_layer_with_few_samples_is_named():
    features = {"conv1": np.random.default_rng(0).normal(size=(30, 16))}
    with pytest.warns(UserWarning, match="activations of conv1 have 30 samples"):
        lgnn.settle_layers(network(), {16: (4, 4)}, activations=features)


def test_a_neuron_is_constant_in_a_stream_if_it_is_in_all_its_layers():
    params, map = network(), lgnn.grid(4, 4)
    streams = [lgnn.Stream(("conv1", "conv2"), readers=("head",))]
    features = {"conv1": on_a_map(map), "conv2": on_a_map(map, seed=1)}
    features["conv1"][:, [2, 5]] = features["conv2"][:, 5] = 0
    with pytest.warns(UserWarning, match=r"conv1/kernel and conv2/kernel: 1 of 16 .*: 5\."):
        lgnn.settle_layers(params, {16: (4, 4)}, activations=features, streams=streams)


def test_whole_numbers_beyond_float32():
    features = np.random.default_rng(0).integers(5, size=(200, 16))
    np.testing.assert_array_equal(lgnn.settle(features + 10**9), lgnn.settle(features))


def test_several_layers_do_not_start_from_the_same_places():
    with pytest.raises(ValueError, match="start must be a name"):
        lgnn.settle_layers(network(), {16: (4, 4)}, start=np.arange(16))


def test_constant_neurons_are_named_with_their_layer():
    params = network()
    params["conv1"]["kernel"][..., 3] = 0
    with pytest.warns(UserWarning, match=r"conv1/kernel: 1 of 16 .*: 3\."):
        lgnn.settle_layers(params, {16: (4, 4)})
