"""What `lgnn train --dry-run` prints."""

import re

import pytest

from lgnn_jax import cli


@pytest.mark.parametrize(
    ("name", "parameters", "steps", "layer"),
    [
        ("vgg11_cifar100", "9,277,284", "39,000", "conv5_2/kernel"),
        ("vgg19_cifar100", "20,086,692", "78,000", "conv5_4/kernel"),
        ("wrn16_8_cifar100", "11,007,540", "78,000", "group3_block2/conv2/kernel"),
        ("wrn28_10_cifar100", "36,536,884", "78,000", "group3_block4/conv2/kernel"),
    ],
)
def test_dry_run_prints_the_plan_and_writes_nothing(folder, capsys, name, parameters, steps, layer):
    before = sorted(folder.rglob("*"))
    cli.main(["train", "--config", name, "--data-dir", str(folder / "none"), "--dry-run"])
    out = capsys.readouterr().out
    assert f"{parameters} parameters" in out
    assert f"{steps} steps in all" in out
    side = {"vgg": "32x16", "wrn16_8": "32x16", "wrn28_10": "32x20"}
    expected = next(dims for prefix, dims in side.items() if name.startswith(prefix))
    line = next(line for line in out.splitlines() if line.strip().startswith(layer))
    assert line.split()[-1] == expected
    assert f'"name": "{name}"' in out
    assert sorted(folder.rglob("*")) == before


def test_dry_run_shows_what_flags_change(folder, capsys):
    cli.main(
        ["train", "--dry-run", "--variant", "baseline", "--model.width", "0.5", "--epochs", "3"]
    )
    out = capsys.readouterr().out
    assert '"variant": "baseline"' in out
    assert '"width": 0.5' in out
    assert "66 steps in all" in out
    assert not re.search(r"kernel .* \d+x\d+$", out, re.MULTILINE)  # a baseline has no maps
    cli.main(["train", "--dry-run", "--model.width", "0.5", "--som.table", "conv1_1", "16", "2"])
    out = capsys.readouterr().out
    assert re.search(r"conv1_1/kernel +3x3x1x32 +288 +16x2 *$", out, re.MULTILINE)
    assert re.search(r"conv1_1/bias +32 +32 *$", out, re.MULTILINE)


def test_a_count_in_the_table_goes_before_the_automatic_one(folder, capsys):
    cli.main(["train", "--dry-run", "--som.table", "16", "16", "1"])
    out = capsys.readouterr().out
    assert re.search(r"conv1_1/kernel .* 16x1 *$", out, re.MULTILINE)
    assert re.search(r"conv2_1/kernel .* 8x4 *$", out, re.MULTILINE)


def test_a_dry_run_prints_nothing_before_its_checks(folder, capsys):
    with pytest.raises(SystemExit):
        cli.main(["train", "--dry-run", "--model.name", "vgg12"])
    assert capsys.readouterr().out == ""
