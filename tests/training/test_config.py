import dataclasses

import pytest

from lgnn_jax.cli.configs import load_config
from lgnn_jax.training import config as config_lib
from lgnn_jax.training.config import Config, Data, Model, Optimizer, Som, from_json, to_json

NAMES = (
    "quickstart",
    "vgg11_cifar100",
    "vgg11_cifar10_long",
    "vgg11_cifar10_small",
    "vgg19_cifar100",
    "wrn16_8_cifar100",
    "wrn28_10_cifar100",
)


@pytest.mark.parametrize("name", NAMES)
def test_named_configs_round_trip_through_json(name):
    config = load_config(name)
    assert config.name == name
    assert from_json(to_json(config)) == config


def test_every_field_round_trips():
    config = Config(
        name="a.b-c_1",
        variant="decreasing",
        seed=7,
        data=Data("digits", train_images=3, pad=0, flip=False),
        optimizer=Optimizer(decay_epochs=()),
        som=Som(table={"conv1": (8, 2), "conv2": None}, padding="wrap"),
    )
    assert from_json(to_json(config)) == config


@pytest.mark.parametrize("name", [n for n in NAMES if n.endswith("cifar100")])
def test_recipe_of_the_paper(name):
    config = load_config(name)
    short = name.startswith("vgg11")
    assert config.epochs == (100 if short else 200)
    assert config.optimizer == Optimizer(
        learning_rate=0.1,
        decay_epochs=(40, 70, 90) if short else (60, 120, 160),
        decay_factor=0.2,
        momentum=0.9,
        weight_decay=5e-4,
    )
    assert config.batch_size == 128
    assert (config.som.sigma, config.som.kernel_size, config.som.padding) == (0.5, 3, "replicate")
    assert config.model == Model(name.removesuffix("_cifar100"), width=1.0, dropout=0.3)
    assert config.data == Data("cifar100", pad=4, flip=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[]", r"^config must be an object, got \[\]\.$"),
        ('{"epoch": 3}', "unknown field 'epoch'; did you mean 'epochs'"),
        ('{"som": {"sigmma": 1}}', "unknown field 'som.sigmma'; did you mean 'sigma'"),
        ('{"zzz": 1}', "unknown field 'zzz'"),
        ('{"epochs": "3"}', r"^epochs must be an integer, got '3'\.$"),
        ('{"epochs": 3.5}', r"^epochs must be an integer, got 3\.5\.$"),
        ('{"epochs": 0}', "epochs must be at least 1 and at most .* got 0"),
        ('{"seed": -1}', "seed must be in"),
        ('{"seed": 1e99}', "seed"),
        (
            '{"variant": "none"}',
            r"^variant must be 'baseline', 'constant', 'decreasing' or 'self_organizing', or a "
            "Python file, got",
        ),
        ('{"name": "../../etc"}', "name must be letters"),
        ('{"name": ""}', "name must be letters"),
        ('{"som": {"sigma": -0.5}}', "som.sigma: .*-0.5"),
        ('{"som": {"sigma": NaN}}', "som.sigma"),
        ('{"som": {"kernel_size": 4}}', "som.kernel_size: .*odd.*4"),
        ('{"som": {"padding": "same"}}', "som.padding"),
        ('{"som": {"table": {"conv": [0, 4]}}}', "som.table"),
        ('{"som": {"table": {"(": [1, 4]}}}', "som.table.*regular expression"),
        ('{"som": {"table": {"(?\\n)": [1, 4]}}}', "som.table.*regular expression"),
        ('{"som": {"table": {"a{99999999999999999999}": null}}}', "som.table.*regular expression"),
        ('{"som": {"table": {"a\\nb": 3}}}', r"^som\.table\.a b must be an array, got 3\.$"),
        ('{"data": {"flip": 1}}', r"^data\.flip must be a boolean, got 1\.$"),
        ('{"model": {"width": "1"}}', r"^model\.width must be a number, got '1'\.$"),
        ('{"model": {"name": 11}}', r"^model\.name must be a string, got 11\.$"),
        ('{"model": 3}', r"^model must be an object, got 3\.$"),
        ('{"som": {"layers": "main"}}', "som.layers must be 'all' for vgg11"),
        ('{"model": {"width": 0}}', "model.width must be positive"),
        ('{"model": {"dropout": 1}}', "model.dropout"),
        ('{"data": {"pad": -1}}', "data.pad"),
        ('{"data": {"train_images": 0}}', "data.train_images"),
        ('{"optimizer": {"decay_epochs": [3, 2]}}', "optimizer.decay_epochs must be increasing"),
        ('{"optimizer": {"momentum": 1}}', "optimizer.momentum"),
        ('{"optimizer": {"weight_decay": -1}}', "optimizer.weight_decay"),
        ('{"optimizer": {"learning_rate": Infinity}}', "optimizer.learning_rate"),
    ],
)
def test_bad_config_is_one_line_that_names_the_field(text, message):
    with pytest.raises(ValueError, match=message) as error:
        from_json(text)
    assert len(str(error.value).splitlines()) == 1


def test_difference_names_nested_fields():
    old = Config()
    new = dataclasses.replace(old, seed=3, model=Model(width=0.5))
    assert config_lib.difference(old, new) == [("seed", 0, 3), ("model.width", 1.0, 0.5)]
    assert config_lib.difference(old, old) == []
