import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import lgnn_jax as lgnn
from lgnn_jax.maps.table import LayerMap, check_table

pytestmark = pytest.mark.usefixtures("strict_dtypes")


def maps(params, table, **options):
    """What `layer_maps` finds, as text."""
    found = lgnn.layer_maps(params, table, **options)
    return {path: str(layer_map) for path, layer_map in found.items()}


@pytest.mark.parametrize(
    ("c_out", "dims"),
    [(64, (8, 8)), (128, (16, 8)), (160, (16, 10)), (512, (32, 16)), (640, (32, 20)), (1, (1, 1))],
)
def test_dimensions_of_the_papers_layers(c_out, dims):
    assert lgnn.som_dimensions(c_out) == dims


@given(st.integers(1, 5000))
def test_dimensions_multiply_to_the_count_and_none_is_squarer(c_out):
    m, n = lgnn.som_dimensions(c_out)
    assert m * n == c_out
    assert m >= n
    assert not any(c_out % k == 0 for k in range(n + 1, int(c_out**0.5) + 1))


def test_dimensions_of_no_neurons():
    with pytest.raises(ValueError, match="at least 1, got 0"):
        lgnn.som_dimensions(0)


def test_table_takes_convolution_kernels_only():
    params = {
        "conv1": {"kernel": jnp.zeros((3, 3, 3, 64)), "bias": jnp.zeros(64)},
        "conv2": {"kernel": jnp.zeros((3, 64, 12))},
        "head": {"kernel": jnp.zeros((12, 10))},
        "codes": jnp.zeros((2, 2, 30), jnp.int32),
    }
    assert lgnn.som_table(params) == {12: (4, 3), 64: (8, 8)}


def test_table_of_kernels_with_neurons_first():
    params = [jnp.zeros((64, 3, 5, 5)), jnp.zeros((20, 64, 5, 5))]
    assert lgnn.som_table(params, neuron_axis=0) == {20: (5, 4), 64: (8, 8)}


def test_table_of_abstract_parameters():
    shapes = jax.eval_shape(lambda: {"kernel": jnp.zeros((3, 3, 3, 16))})
    assert lgnn.som_table(shapes) == {16: (4, 4)}


def test_prime_count_warns_of_the_strip():
    with pytest.warns(UserWarning, match=r"13 output channels.*\(13, 1\)"):
        assert lgnn.som_table([jnp.zeros((3, 3, 3, 13))]) == {13: (13, 1)}


def test_first_matching_pattern_wins_and_counts_come_last():
    params = {f"conv{i}": {"kernel": jnp.zeros((3, 3, 8, 12))} for i in range(3)}
    table = {12: (4, 3), "conv0": (6, 2), "conv": (12, 1)}
    assert maps(params, table) == {
        "conv0/kernel": "6x2",
        "conv1/kernel": "12x1",
        "conv2/kernel": "12x1",
    }


def test_pattern_can_name_any_parameter_and_leave_layers_alone():
    params = {
        "conv": {"kernel": jnp.zeros((3, 3, 8, 12)), "bias": jnp.zeros(12)},
        "head": {"kernel": jnp.zeros((12, 10))},
    }
    table = {"head": (5, 2), "conv": None}
    assert maps(params, table) == {"conv/kernel": "None", "head/kernel": "5x2"}


def test_a_layers_name_does_not_mean_its_bias():
    params = {"conv": {"kernel": jnp.zeros((3, 3, 8, 12)), "bias": jnp.zeros(12)}}
    assert maps(params, {"conv": (4, 3)}) == {"conv/kernel": "4x3"}
    assert maps(params, {"conv/bias": (6, 2), 12: (4, 3)}) == {
        "conv/bias": "6x2",
        "conv/kernel": "4x3",
    }


def test_an_axis_that_a_kernel_lacks():
    for axis in (4, -5):
        with pytest.raises(ValueError, match=rf"'k' with shape .* has no neuron_axis {axis}"):
            lgnn.layer_maps({"k": jnp.ones((3, 3, 2, 16))}, {16: (4, 4)}, neuron_axis=axis)


@pytest.mark.parametrize(
    "other", [jnp.ones((3, 3, 2, 16)), jnp.ones((3, 3, 2, 16), jnp.int32), jnp.ones(16), 1.0]
)
@pytest.mark.parametrize("swapped", [False, True])
def test_two_parameters_with_one_path(other, swapped):
    """Also where one of them has no neurons: it would be filtered as the other."""
    kernel = jnp.ones((3, 3, 2, 16))
    first, second = (kernel, other) if swapped else (other, kernel)
    params = {"a/b": first, "a": {"b": second}}
    with pytest.raises(ValueError, match="two parameters share the path 'a/b'"):
        lgnn.layer_maps(params, {16: (4, 4)})


def test_dimensions_of_any_integer_type():
    """Also of one that does not hold their product."""
    params = {"k": jnp.ones((1, 1, 1, 144))}
    found = lgnn.layer_maps(params, {144: (np.int8(12), np.int8(12))})
    assert found == {"k": LayerMap(lgnn.grid(12, 12), -1)}


def test_uncovered_kernel_is_named_with_its_shape_and_the_fix():
    params = {"stem": {"kernel": jnp.zeros((3, 3, 3, 48))}}
    with pytest.raises(ValueError, match=r"'stem/kernel'.*\(3, 3, 3, 48\).*48: \(8, 6\)"):
        lgnn.layer_maps(params, {64: (8, 8)})


def test_misfit_is_named_with_its_shape_and_the_fix():
    params = {"stem": {"kernel": jnp.zeros((3, 3, 3, 48))}}
    with pytest.raises(ValueError, match=r"\(8, 7\) hold 56.*'stem/kernel'.*48: use \(8, 6\)"):
        lgnn.layer_maps(params, {48: (8, 7)})


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ([(64, (8, 8))], "must map"),
        ({64: (8,)}, r"som_table\[64\]"),
        ({64: 8}, r"som_table\[64\]"),
        ({64: (8.0, 8.0)}, r"som_table\[64\]"),
        ({64: (-8, -8)}, r"som_table\[64\]"),
        ({1.5: (8, 8)}, "key 1.5"),
        ({True: (1, 1)}, "key True"),
        ({"(": (8, 8)}, "not a regular expression"),
        ({"a{99999999999999999999}": None}, "not a regular expression: the repetition number"),
        ({"(" * 2000 + ")" * 2000: None}, "not a regular expression: maximum recursion"),
        ({"(?\n)": None}, r"not a regular expression: unknown extension \? at position 1"),
        ({64: np.eye(2)}, r"got array\(\[\[1\., 0\.\], \[0\., 1\.\]\]\)"),
        (np.eye(2), r"must map .* got array\(\[\[1\., 0\.\], \[0\., 1\.\]\]\)"),
    ],
)
def test_malformed_table(table, message):
    with pytest.raises(ValueError, match=message) as error:
        check_table(table)
    assert len(str(error.value).splitlines()) == 1
