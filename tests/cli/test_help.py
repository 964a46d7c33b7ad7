"""What --help and `lgnn configs` say."""

import dataclasses
import re

import pytest

from lgnn_jax import cli
from lgnn_jax.training.config import Config


def test_configs(capsys):
    cli.main(["configs"])
    out = capsys.readouterr().out
    for name in ("quickstart", "vgg11_cifar10_small", "wrn28_10_cifar100"):
        assert name in out
    assert max(map(len, out.splitlines())) <= 80


def _help(capsys, *argv):
    with pytest.raises(SystemExit) as exit_:
        cli.main([*argv, "--help"])
    assert exit_.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(
    "argv",
    [[], ["train"], ["evaluate"], ["sweep"], ["table"], ["analyze"], ["map"], ["configs"]],
)
def test_help_fits_80_columns(folder, capsys, argv):
    out = _help(capsys, *argv)
    assert out
    assert max(map(len, out.splitlines())) <= 80


def test_help_shows_what_matters_first(folder, capsys):
    assert _help(capsys, "train", "--resume") == _help(capsys, "train")
    out = _help(capsys, "train", "--config", "tiny.py")
    found = re.findall(r"^[│ ] (--[\w.-]+)", out, re.MULTILINE)
    assert found[:4] == ["--config", "--run-dir", "--resume", "--dry-run"]
    assert found[4:7] == ["--tensorboard", "--data-dir", "--name"]
    assert found[7:10] == ["--variant", "--seed", "--epochs"]
    fields = {
        f"{section.name}.{inner.name}" if dataclasses.is_dataclass(section.type) else section.name
        for section in dataclasses.fields(Config)
        for inner in getattr(section.type, "__dataclass_fields__", {"": section}).values()
    }
    assert {f"--{name.replace('_', '-')}" for name in fields} <= set(found)
    said = " ".join(out.replace("│", " ").split())
    assert "Passes over the training images. (default: 1)" in said
    assert "--som.table KEY ROWS COLUMNS ..." in said


def test_help_of_a_sweep_lists_no_flag_that_it_refuses(folder, capsys):
    out = _help(capsys, "sweep")
    assert not re.search(r"--(variant|seed)\b(?!s)", out)
    assert "Name of the sweep" in out
    assert "SIZE SIGMA ..." in out


def test_help_of_analyze_lists_the_sets_of_classes(folder, capsys):
    said = re.split(r"[\s,;:.]+", _help(capsys, "analyze"))
    assert {"RUN_DIR", "trees", "animals", "large_man-made_outdoor_things"} <= set(said)
    assert "(required)" in said
