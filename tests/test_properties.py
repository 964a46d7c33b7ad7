"""Whatever is handed in, good or bad, ends as documented: in the right result or in one line.

Where an input has to be refused is told by a second reading of the docstrings, not by the library.
"""

import dataclasses
import gzip
import json
import math
import pathlib
import re
import tempfile
from collections import Counter
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
import tensorflow_datasets as tfds
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_cifar import checksum, left_behind, pack

import lgnn_jax as lgnn
from lgnn_jax.maps import windows
from lgnn_jax.methods.filtering import low_pass
from lgnn_jax.training.config import Config, Data, Model, Optimizer, Som, from_json, to_json
from lgnn_jax.training.data import cifar

MANY = settings(derandomize=True, deadline=None, database=None, max_examples=200)
FEW = settings(MANY, max_examples=25)  # where each example is compiled

METHODS = ("auto", "conv", "separable", "banded", "matmul")
PADDINGS = ("replicate", "wrap", "zero")
FLOATS = (jnp.float32, jnp.float16, jnp.bfloat16)
WORDS = st.text("ab/", min_size=1, max_size=3)  # some join to the same path


def one_of(*lists):
    return st.one_of([st.sampled_from(values) for values in lists])


def assert_one_line(error: Exception):
    assert len(str(error).splitlines()) == 1


# --- trees of parameters, and tables ------------------------------------------------------------


@st.composite
def shapes(draw, axis, counts):
    """Of rank 0 to 5, small but for the axis of the neurons."""
    rank = draw(st.sampled_from([0, 1, 1, 2, 3, 3, 4, 5]))
    shape = draw(st.lists(st.integers(1, 3), min_size=rank, max_size=rank))
    if -len(shape) <= axis < len(shape):
        shape[axis] = draw(st.sampled_from(counts))
    return tuple(shape)


@st.composite
def arrays(draw, shape, dtypes=FLOATS):
    """Finite, of one magnitude, which leaves room for sums."""
    dtype = np.dtype(draw(st.sampled_from(dtypes)))
    if np.issubdtype(dtype, np.integer):
        return np.arange(math.prod(shape), dtype=dtype).reshape(shape)
    scale = 10.0 ** draw(st.integers(-4, 4) if dtype == np.float16 else st.integers(-30, 30))
    values = np.random.default_rng(draw(st.integers(0, 99))).uniform(-scale, scale, shape)
    return np.asarray(values, dtype)


def trees(axis, counts):
    leaves = shapes(axis, counts).flatmap(lambda shape: arrays(shape, (*FLOATS, np.int32)))

    def inside(inner):
        lists = st.lists(inner, min_size=1, max_size=3)
        return st.dictionaries(WORDS, inner, min_size=1, max_size=3) | lists | lists.map(tuple)

    return inside(st.recursive(leaves, inside, max_leaves=6))


def leaves_by_path(tree, names=()):
    """In the order of JAX, which sorts the keys of dictionaries."""
    if isinstance(tree, (dict, list, tuple)):
        items = sorted(tree.items()) if isinstance(tree, dict) else enumerate(tree)
        return [leaf for name, inner in items for leaf in leaves_by_path(inner, (*names, name))]
    return [("/".join(map(str, names)), tree)]


def dimensions(count):
    pairs = [(m, count // m) for m in range(1, count + 1) if count % m == 0]
    return st.sampled_from([*pairs, *map(list, pairs), None])


WRONG_DIMENSIONS = one_of(
    [(), (4,), (2, 2, 2), (0, 4), (-2, -2), (2.0, 2.0), (True, 4), "22", 4, {2, 3}, "\n"],
    [(10**30, 1), (np.int8(100), np.int8(100)), np.ones((30, 2))],
)
WRONG_PATTERNS = st.sampled_from(
    ["(", "[", "\\", "*", "(?\n)", "a{99999999999999999999}", "(" * 2000 + ")" * 2000]
)
WRONG_KEYS = WRONG_PATTERNS | st.sampled_from([True, 1.5, None, b"a", ("a",)])


@st.composite
def tables(draw, tree, counts, sound):
    """A table of all counts, and of some paths; unless `sound`, of anything."""
    table = {draw(st.sampled_from([int, np.int64]))(c): draw(dimensions(c)) for c in counts}
    keys = st.sampled_from([re.escape(path) for path, _ in leaves_by_path(tree)])
    keys = keys if sound else keys | st.sampled_from(["a", "b", "a$", "^b", "^a/", ""])
    for key in draw(st.lists(keys, max_size=2)):
        table = {key: None if sound else draw(dimensions(draw(st.sampled_from(counts)))), **table}
    if not sound:
        for _ in range(draw(st.integers(0, 2))):
            key = draw(st.sampled_from(counts) | WRONG_KEYS | st.text(max_size=4))
            table[key] = draw(WRONG_DIMENSIONS | st.sampled_from(counts).flatmap(dimensions))
        if draw(st.booleans()):
            table.pop(counts[0])
        table = draw(st.sampled_from([table] * 8 + [list(table.items()), None]))
    return table


@st.composite
def maps_to_look_up(draw, sound):
    axis = draw(st.sampled_from([-1, -1, 0, 1, -2] + [3, -4, 9, -9] * (not sound)))
    counts = draw(st.lists(st.integers(1, 24), min_size=1, max_size=3))
    tree = draw(trees(axis, counts))
    return tree, draw(tables(tree, counts, sound)), axis


def is_table(table):
    def well_formed(key, dims):
        if isinstance(key, str):
            try:
                re.compile(key)
            except Exception:
                return False
        elif type(key) not in (int, np.int64):
            return False
        integers = isinstance(dims, (tuple, list)) and all(
            type(d) in (int, np.int8) and d > 0 for d in dims
        )
        return dims is None or (integers and len(dims) == 2)

    return isinstance(table, Mapping) and all(well_formed(*entry) for entry in table.items())


def expected_maps(tree, table, axis):
    """What the docstring of `layer_maps` says; None where it has to refuse."""
    if not is_table(table):
        return None
    maps = {}
    leaves = leaves_by_path(tree)
    shared = Counter(path for path, _ in leaves)
    for path, leaf in leaves:
        has_axis = -leaf.ndim <= axis < leaf.ndim
        if leaf.dtype == np.int32 or (not has_axis and leaf.ndim < 3):
            continue
        if not has_axis:
            return None
        finds = re.search if leaf.ndim > 1 else re.fullmatch
        keys = [key for key in table if isinstance(key, str) and finds(key, path)]
        if not keys and leaf.ndim < 3:
            continue
        key = keys[0] if keys else leaf.shape[axis]
        if key not in table or shared[path] > 1:
            return None
        if table[key] is not None and math.prod(map(int, table[key])) != leaf.shape[axis]:
            return None
        maps[path] = None if table[key] is None else tuple(table[key])
    return maps


ignore_the_keys_warnings = pytest.mark.filterwarnings(
    "ignore:som_table key:UserWarning", "ignore:Possible:FutureWarning"
)


@ignore_the_keys_warnings
@MANY
@given(st.booleans().flatmap(maps_to_look_up))
def test_layer_maps_are_those_of_the_docstring(case):
    tree, table, axis = case
    expected = expected_maps(tree, table, axis)
    if expected is None:
        with pytest.raises(ValueError, match=r".") as error:
            lgnn.layer_maps(tree, table, neuron_axis=axis)
        assert_one_line(error.value)
    else:
        maps = lgnn.layer_maps(tree, table, neuron_axis=axis)
        assert list(maps.items()) == list(expected.items())


@pytest.mark.filterwarnings("ignore:.*a prime number:UserWarning")
@MANY
@given(st.data())
def test_a_table_has_the_squarest_map_of_each_kernel_and_nothing_else(data):
    axis = data.draw(st.sampled_from([-1, 0, 1]))
    tree = data.draw(trees(axis, list(range(1, 25))))
    leaves = [leaf for _, leaf in leaves_by_path(tree)]
    kernels = [leaf for leaf in leaves if leaf.ndim >= 3 and leaf.dtype != np.int32]
    table = lgnn.som_table(tree, neuron_axis=axis)
    assert list(table) == sorted({kernel.shape[axis] for kernel in kernels})
    for count, dims in table.items():
        pairs = [(m, n) for m in range(1, 25) for n in range(1, m + 1) if m * n == count]
        assert dims == min(pairs, key=lambda pair: pair[0] - pair[1]) == lgnn.som_dimensions(count)
    assert lgnn.som_table(leaves[::-1], neuron_axis=axis) == table
    by_number = {str(i): leaf for i, leaf in enumerate(leaves)}  # no two with one path
    assert len(lgnn.layer_maps(by_number, table, neuron_axis=axis)) == len(kernels)


@given(st.integers(max_value=0))
@MANY
def test_no_map_of_no_neurons(count):
    with pytest.raises(ValueError, match=f"at least 1, got {count}"):
        lgnn.som_dimensions(count)


# --- transform ------------------------------------------------------------

SIGMAS = st.floats(0, 9, width=32) | st.sampled_from([0, 1, 1e-320, 1e-30, 1e30, 1e300, 10**39])
WRONG_SIGMAS = [-1, -1e-300, math.nan, math.inf, -math.inf, 10**400, None, "wide", np.ones(3)]


def constant(value):
    return lambda step: value


OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "sigma": (SIGMAS | st.sampled_from(WRONG_SIGMAS)).flatmap(
            lambda sigma: st.sampled_from([sigma, constant(sigma)])
        ),
        "kernel_size": st.sampled_from([1, 3, 5, 9, 31, np.int8(3)] * 2 + [0, 2, -3, 3.0, None]),
        "padding": st.sampled_from(PADDINGS * 3 + ("same", None)),
        "method": st.sampled_from(METHODS * 3 + ("fft", 3)),
    },
)


def expected_error(sigma=0.5, kernel_size=3, padding="wrap", method="auto"):
    """What the docstring of `transform` says of its options."""
    if type(kernel_size) not in (int, np.int8):
        return TypeError
    sigma = sigma(0) if callable(sigma) else sigma
    known = isinstance(sigma, (int, float)) and 0 <= sigma < math.inf and sigma < 10**308
    odd = kernel_size > 0 and kernel_size % 2 == 1
    return None if known and odd and padding in PADDINGS and method in METHODS else ValueError


@ignore_the_keys_warnings
@pytest.mark.usefixtures("strict_dtypes")
@MANY
@given(st.booleans().flatmap(maps_to_look_up), OPTIONS)
def test_transform_refuses_or_keeps_structure_shapes_and_dtypes(case, options):
    tree, table, axis = case
    maps, error = expected_maps(tree, table, axis), expected_error(**options)
    untouched = []

    def step(gradients):
        tx = lgnn.transform(table, neuron_axis=axis, **options)
        updates, state = tx.update(gradients, tx.init(tree))
        pairs = zip(leaves_by_path(gradients), leaves_by_path(updates), strict=True)
        untouched.extend(path for (path, before), (_, after) in pairs if before is after)
        return updates, state.count

    if maps is None or error is not None:
        # With two mistakes either error will do.
        with pytest.raises((ValueError, error or ValueError)) as caught:
            jax.eval_shape(step, tree)
        assert error is None or maps is None or caught.type is error
        assert_one_line(caught.value)
    else:
        updates, count = jax.eval_shape(step, tree)
        assert updates == jax.eval_shape(lambda x: x, tree)
        assert count.shape == ()
        assert untouched == [path for path, _ in leaves_by_path(tree) if maps.get(path) is None]


def assert_filtered(actual, gradient, dims, sigma, size, padding, axis):
    """Checks one filtered gradient against float64.

    In units of rounding, of the largest gradient: each of the size^2 terms of a sum adds one. A
    weight is the product of two taps. A tap's exponential is off by 4 at most (3 of its argument z,
    times z exp(-z) < 0.4, and its own), and by as much again once the taps are divided by their
    sum: 8 for each tap of a line, twice. A matrix product has up to 24 terms, and there is one more
    rounding to the gradient's own type. Numbers that are not normal may become 0.
    """
    actual, exact = np.asarray(actual), np.asarray(gradient, np.float64)
    assert actual.dtype == gradient.dtype
    assert np.isfinite(actual).all()
    actual = actual.astype(np.float64)
    # The formula squares sigma, which has no float64 everywhere; float32 does not see these steps.
    limit = 0.0 if sigma < 1e-40 else min(float(sigma), 1e100)
    expected = reference.low_pass(exact, dims, limit, size, padding, axis)
    unit, tiny = jnp.finfo(gradient.dtype).eps / 2, jnp.finfo(gradient.dtype).tiny
    largest = np.abs(exact).max()
    tolerance = ((size**2 + 16 * size + 32) * 2.0**-24 + unit) * largest + float(tiny)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance)
    if padding == "wrap":
        np.testing.assert_allclose(actual.mean(axis), exact.mean(axis), rtol=0, atol=tolerance)


FILTERS = st.tuples(SIGMAS, st.sampled_from([1, 3, 5, 9]), st.sampled_from(PADDINGS))


@ignore_the_keys_warnings
@pytest.mark.usefixtures("strict_dtypes")
@FEW
@given(
    maps_to_look_up(sound=True).filter(lambda case: any((expected_maps(*case) or {}).values())),
    FILTERS,
    st.sampled_from(METHODS),
    st.booleans(),
)
def test_transform_is_algorithm_1_on_any_tree(case, options, method, scheduled):
    tree, table, axis = case
    sigma, size, padding = options
    tx = lgnn.transform(
        table,
        sigma=constant(sigma) if scheduled else sigma,
        kernel_size=size,
        padding=padding,
        method=method,
        neuron_axis=axis,
    )
    updates, _ = jax.jit(tx.update)(tree, tx.init(tree))
    maps = expected_maps(tree, table, axis)
    for (path, before), (_, after) in zip(
        leaves_by_path(tree), leaves_by_path(updates), strict=True
    ):
        if maps.get(path) is None:
            np.testing.assert_array_equal(after, before)
        else:
            assert_filtered(after, before, maps[path], *options, axis)


@pytest.mark.usefixtures("strict_dtypes")
@FEW
@given(st.data(), FILTERS)
def test_all_methods_are_algorithm_1(data, options):
    axis = data.draw(st.sampled_from([-1, 0, 1]))
    count = data.draw(st.integers(1, 24))
    dims = data.draw(dimensions(count).filter(bool).map(tuple))
    shape = shapes(axis, [count]).filter(lambda shape: len(shape) > max(axis, 0))
    gradient = data.draw(shape.flatmap(arrays))
    sigma, size, padding = options

    @jax.jit
    def filtered(x):
        taps = windows.gaussian_taps(sigma, size)
        return [
            low_pass(x, dims, taps, padding=padding, method=method, neuron_axis=axis)
            for method in METHODS
        ]

    for actual in filtered(gradient):
        assert_filtered(actual, gradient, dims, *options, axis)


# --- configs ------------------------------------------------------------


def positive(**options):
    return st.floats(min_value=0, exclude_min=True, allow_infinity=False, **options)


UP_TO_A_MILLION = st.integers(1, 10**6)
CONFIGS = st.builds(
    Config,
    name=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,9}", fullmatch=True),
    variant=st.sampled_from(["baseline", "constant", "decreasing"]),
    seed=st.integers(0, 2**31 - 1),
    epochs=UP_TO_A_MILLION,
    batch_size=UP_TO_A_MILLION,
    checkpoint_every=UP_TO_A_MILLION,
    log_every=UP_TO_A_MILLION,
    on_nan=st.sampled_from(["stop", "skip"]),
    model=st.builds(
        Model,
        name=st.sampled_from(["wrn16_8", "wrn28_10"]),
        width=positive(max_value=64),
        dropout=st.floats(0, 1, exclude_max=True),
        dtype=st.sampled_from(["float32", "bfloat16"]),
    ),
    data=st.builds(
        Data,
        name=st.text(min_size=1),
        train_images=st.none() | UP_TO_A_MILLION,
        pad=st.integers(0, 10**30),
        flip=st.booleans(),
    ),
    optimizer=st.builds(
        Optimizer,
        learning_rate=positive(),
        decay_epochs=st.sets(UP_TO_A_MILLION).map(lambda epochs: tuple(sorted(epochs))),
        decay_factor=positive(),
        momentum=st.floats(0, 1, exclude_max=True),
        weight_decay=st.just(0.0) | positive(),
    ),
    som=st.builds(
        Som,
        sigma=st.just(0.0) | positive(),
        kernel_size=st.integers(0, 10**30).map(lambda half: 2 * half + 1),
        padding=st.sampled_from(PADDINGS),
        method=st.sampled_from(METHODS),
        layers=st.sampled_from(["main", "resblocks", "all"]),
        table=st.dictionaries(
            st.sampled_from(["64", r"conv\d+/kernel$", "(?i)^head|stem", ""])
            | st.text(max_size=4).map(re.escape),
            st.none() | st.tuples(st.integers(1, 10**30), st.integers(1, 10**30)),
            max_size=3,
        ),
    ),
)
FIELDS = [
    (None, field) if not dataclasses.is_dataclass(getattr(Config(), field)) else (field, inner)
    for field in (f.name for f in dataclasses.fields(Config))
    for inner in getattr(getattr(Config(), field), "__dataclass_fields__", [None])
]
JSON = st.recursive(
    one_of(
        [
            None,
            False,
            True,
            0,
            1,
            3,
            0.5,
            -1,
            "wrn16_8",
            "wrap",
            "all",
            "a",
            "",
            "\n",
            "(",
            "\ud800",
        ],
        [10**400, -(10**4000), 2**63, 1e-320, math.nan, math.inf, "a{" + "9" * 30 + "}"],
    )
    | st.integers()
    | st.floats()
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=5,
)


def section_of(tree, name):
    return tree if name is None else tree[name]


def read(text):
    """The config, or the one line that refuses it."""
    try:
        config = from_json(text)
    except ValueError as error:
        assert_one_line(error)
        return str(error)
    assert from_json(to_json(config)) == config
    return config


@MANY
@given(CONFIGS)
def test_any_config_round_trips(config):
    assert repr(from_json(to_json(config))) == repr(config)
    assert json.loads(to_json(config))["som"]["sigma"] == config.som.sigma


@MANY
@given(CONFIGS, st.sampled_from(FIELDS))
@example(Config(model=Model("wrn16_8"), som=Som(layers="main")), ("model", "name"))
def test_a_missing_field_takes_its_default(config, field):
    section, name = field
    tree = json.loads(to_json(config))
    del section_of(tree, section)[name]
    default = getattr(Config() if section is None else getattr(Config(), section), name)
    try:
        if section is None:
            expected = dataclasses.replace(config, **{name: default})
        else:
            changed = dataclasses.replace(getattr(config, section), **{name: default})
            expected = dataclasses.replace(config, **{section: changed})
    except ValueError as error:  # the default does not go with the rest
        expected = str(error)
    assert read(json.dumps(tree)) == expected


@MANY
@given(CONFIGS, st.sampled_from(FIELDS), st.text(min_size=1, max_size=9))
def test_an_unknown_field_is_refused_by_name(config, field, new):
    section, name = field
    tree = json.loads(to_json(config))
    section_of(tree, section)[f"{name}{new}"] = section_of(tree, section).pop(name)
    full = f"{name}{new}" if section is None else f"{section}.{name}{new}"
    assert f"unknown field {full!r}" in read(json.dumps(tree))


@pytest.mark.filterwarnings("ignore:Possible:FutureWarning")
@MANY
@given(CONFIGS, CONFIGS, st.sampled_from([*FIELDS, (None, "som"), ("som", "table")]), st.data())
def test_any_value_of_a_field_makes_a_config_or_one_line(config, other, field, data):
    section, name = field
    tree = json.loads(to_json(config))
    value = section_of(json.loads(to_json(other)), section)[name]
    near = st.sampled_from([value, value, [value], {"64": value}, str(value), not value])
    value = section_of(tree, section)[name] = data.draw(near | JSON)
    result = read(json.dumps(tree))
    if isinstance(result, Config) and value != {}:  # where the fields of a section are missing
        assert section_of(json.loads(to_json(result)), section)[name] == value


@pytest.mark.filterwarnings("ignore:Possible:FutureWarning")
@MANY
@given(
    st.dictionaries(
        WRONG_PATTERNS | st.text(max_size=4),
        st.lists(st.integers(-1, 9), min_size=2, max_size=2) | JSON,
        min_size=1,
        max_size=2,
    )
)
def test_any_table_makes_a_config_or_one_line(table):
    result = read(json.dumps({"som": {"table": table}}))
    dims = (
        {key: value and tuple(value) for key, value in table.items()} if is_table(table) else None
    )
    assert isinstance(result, str) if dims is None else result.som.table == dims


PIECES = one_of(
    ["", "\0", "{", "}", '"', ",", "\n", "\\", "\\ud800", "\ud800", "\ufeff", "//", "null"],
    ["[" * 300, '{"a":' * 300, "9" * 5000, "1e999", "-", "NaN", "-Infinity"],
) | st.binary(max_size=9).map(lambda content: content.decode("latin-1"))


@pytest.mark.filterwarnings("ignore:Possible:FutureWarning")
@MANY
@given(CONFIGS.map(to_json) | st.just("{}"), st.data())
def test_any_text_makes_a_config_or_one_line(text, data):
    places = st.integers(0, len(text))
    start, end = sorted(data.draw(st.tuples(places, places)))
    piece = data.draw(PIECES)
    read(text[:start] + piece + text[end:])  # cut out of the middle
    read(text[:start] + piece)  # or cut off
    read(text[:start] + piece + text[start:])  # or put in


# --- archives of CIFAR ------------------------------------------------------------

FOLDER = "cifar-100-binary"
RECORD = 3074
NAMES = {"coarse_label": ("coarse_label_names.txt", 20), "label": ("fine_label_names.txt", 100)}
FILES = {
    file: "".join(f"class {i}\n" for i in range(count)).encode() for file, count in NAMES.values()
} | {
    "train.bin": b"".join(bytes([i, i, *range(256)] + 256 * [0] * 11) for i in range(3)),
    "test.bin": bytes([19, 99]) + bytes(3072),
}
MEMBERS = sorted(FILES)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    # tfds leaves an empty directory there for each builder of a dataset that is not prepared.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("scratch")))
        yield


def prepare(archive):
    """Returns names and labels as stock tfds reads them, or the one line that refuses them."""
    with tempfile.TemporaryDirectory() as folder:
        data_dir = pathlib.Path(folder, "above", "data")
        manual = data_dir / "downloads" / "manual" / f"{FOLDER}.tar.gz"
        manual.parent.mkdir(parents=True)
        manual.write_bytes(archive)
        before = left_behind(pathlib.Path(folder))
        result = None
        try:
            cifar.prepare("cifar100", data_dir, checksum=checksum(archive))
        except cifar.DatasetError as error:
            assert_one_line(error)
            result = str(error)
        else:
            builder = tfds.builder("cifar100", data_dir=data_dir)
            result = {key: builder.info.features[key].names for key in NAMES} | {
                split: [
                    (int(e["coarse_label"]), int(e["label"])) for e in builder.as_data_source(split)
                ]
                for split in ("train", "test")
            }
        copy = "above/data/cifar100"
        after = left_behind(pathlib.Path(folder))
        assert [path for path in after if not path.startswith(copy)] == before
        assert any(path.startswith(copy) for path in after) == isinstance(result, dict)
        return result


@st.composite
def contents(draw, file):
    """A file of the archive, often with a mistake; None for one that is missing."""
    content = FILES[file]
    kind = draw(st.sampled_from(["as it is", "edit", "edit", "cut", "bytes", "missing"]))
    if kind == "as it is":
        return content
    if kind == "cut":
        return content[: draw(st.integers(0, len(content) // RECORD)) * RECORD]
    if kind == "bytes":
        return draw(st.binary(max_size=9))
    if kind == "missing":
        return None
    if file.endswith(".txt"):
        lines = content.splitlines(keepends=True)
        word = st.sampled_from([b"class 1 \n", b" \n", b"\r\n\r\n", b"\xff\n", b""])
        lines[draw(st.integers(0, len(lines) - 1))] = draw(word)
        return b"".join(lines)
    start = draw(st.integers(0, len(content) // RECORD - 1)) * RECORD + draw(st.integers(0, 2))
    new = draw(
        st.sampled_from([b"\x00", b"\x13", b"\x14", b"\x63", b"\x64", b"\xff", b"", b"\0\0"])
    )
    return content[:start] + new + content[start + 1 :]


def expected_copy(files):
    """What the official description of the format makes of these; None where it is not kept."""
    expected = {}
    for key, (file, count) in NAMES.items():
        names = re.split(r"[\r\n]+", files.get(file, b"").decode("utf-8", "replace"))
        expected[key] = names = [name.strip() for name in names if name.strip()]
        if len(names) != count or len(set(names)) != count:
            return None
    for split in ("train", "test"):
        content = files.get(f"{split}.bin", b"")
        expected[split] = list(zip(content[::RECORD], content[1::RECORD], strict=False))
        if not content or len(content) % RECORD:
            return None
        if any(coarse >= 20 or fine >= 100 for coarse, fine in expected[split]):
            return None
    return expected


@pytest.mark.usefixtures("scratch")
@settings(MANY, max_examples=100)
@given(
    st.lists(st.sampled_from(MEMBERS), max_size=2, unique=True).flatmap(
        lambda changed: st.fixed_dictionaries({file: contents(file) for file in changed})
    ),
    st.permutations(MEMBERS),
    st.lists(
        st.sampled_from(
            ["../" * depth + "outside" for depth in range(1, 7)]
            + ["train.bin/", "x" * 300, "../cifar-100-binary/../train.bin", "é\n"]
        ),
        max_size=3,
    ),
)
def test_archive_of_any_contents_is_read_or_refused(changed, order, others):
    files = {file: {**FILES, **changed}[file] for file in order}
    files = {file: content for file, content in files.items() if content is not None}
    result = prepare(pack({**dict.fromkeys(others, b"\x77"), **files}, FOLDER))
    expected = expected_copy(files)
    assert result == expected if expected else re.search("must have .*", result)


@pytest.mark.usefixtures("scratch")
@settings(MANY, max_examples=100)
@given(st.data())
def test_archive_of_any_bytes_is_read_or_refused(data):
    tar = gzip.decompress(pack(FILES, FOLDER))
    archive = gzip.compress(tar, mtime=0)
    kind = data.draw(st.sampled_from(["cut", "cut tar", "edit", "edit tar", "header", "any"]))
    if kind == "any":
        archive = data.draw(
            st.binary(max_size=99).flatmap(
                lambda noise: st.sampled_from([noise, b"\x1f\x8b" + noise, gzip.compress(noise)])
            )
        )
    elif kind.startswith("cut"):
        content = tar if "tar" in kind else archive
        content = content[: data.draw(st.integers(0, 20) | st.integers(0, len(content)))]
        archive = gzip.compress(content) if "tar" in kind else content
    else:
        content = bytearray(archive if kind == "edit" else tar)
        for _ in range(data.draw(st.integers(1, 3))):
            # Most of what tarfile reads lies in the first 512 bytes.
            place = data.draw(st.integers(0, 511) | st.integers(0, len(content) - 1))
            content[place] = data.draw(st.sampled_from([0, 0x37, 0x80, 0xFF]) | st.integers(0, 255))
        if kind == "header":  # with the sum that tarfile checks
            content[148:156] = b" " * 8
            content[148:156] = b"%06o\0 " % sum(content[:512])
        archive = bytes(content) if kind == "edit" else gzip.compress(bytes(content))
    result = prepare(archive)
    if isinstance(result, str):
        assert "must be a whole tar.gz archive" in result or "must have" in result
    elif kind.startswith("cut"):
        assert result == expected_copy(FILES)
    else:
        assert [len(set(result[key])) for key in NAMES] == [20, 100]
        assert all(c < 20 and f < 100 for c, f in result["train"] + result["test"])
