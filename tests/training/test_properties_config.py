"""Any text ends in a config that round-trips, or in one line."""

import dataclasses
import json
import math
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from strategies import MANY, METHODS, PADDINGS, WRONG_PATTERNS, assert_one_line, one_of
from table_rules import is_table

from lgnn_jax.training.config import Config, Data, Model, Optimizer, Som, from_json, to_json


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
