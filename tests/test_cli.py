import json
import re
import signal
import time

import commands
import pytest

from lgnn_jax import cli


def _fails(capsys, *argv):
    """Runs a command that must fail; returns what it says on standard error."""
    with pytest.raises(SystemExit) as exit_:
        cli.main([*argv])
    assert exit_.value.code not in (0, None)
    return " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_configs(capsys):
    cli.main(["configs"])
    out = capsys.readouterr().out
    for name in ("quickstart", "vgg11_cifar10_small", "wrn28_10_cifar100"):
        assert name in out
    assert max(map(len, out.splitlines())) <= 80


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


def test_train_evaluate_and_run_again(folder, capsys):
    cli.main(["train", "--config", "tiny.py", "--seed", "3", "--epochs", "2"])
    out = capsys.readouterr().out
    assert "160 images of digits" in out
    assert "compiled in" in out
    assert "epoch 2/2" in out
    assert "conv5_2" in out
    assert "neighbours" in out
    summary = json.loads((folder / "runs" / "tiny" / "summary.json").read_text())
    assert summary["seed"] == 3
    assert f"test accuracy {summary['test_accuracy']:.2%}" in out

    cli.main(["evaluate", "runs/tiny"])
    out = capsys.readouterr().out
    assert f"step 20: test accuracy {summary['test_accuracy']:.2%}" in out
    assert "360 images" in out

    before = (folder / "runs" / "tiny" / "metrics.jsonl").read_text()
    said = _fails(capsys, "train", "--config", "tiny.py")
    assert said == (
        "lgnn: runs/tiny already holds a run: pass --resume to go on with it, or name another "
        "place with --run-dir."
    )
    said = _fails(
        capsys, "train", "--config", "tiny.py", "--resume", "--seed", "4", "--epochs", "2"
    )
    assert said == "lgnn: cannot resume runs/tiny with another seed: it was begun with 3, not 4."
    cli.main(["train", "--run-dir", "runs/tiny", "--resume"])
    assert (folder / "runs" / "tiny" / "metrics.jsonl").read_text() == before


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["train", "--config", "vgg11_cifar10"], "no config 'vgg11_cifar10'; did you mean"),
        (["train", "--config", "absent.py"], "no config 'absent.py'"),
        (["train", "--config", "broken.py"], "broken.py: NameError: name 'confg' is not defined"),
        (["train", "--config", "empty.py"], "empty.py must define `config`"),
        (["train", "--epoch", "3"], "--epochs"),
        (["train", "--variant", "none"], "none"),
        (["train", "--som.sigma", "-1"], "som.sigma: sigma must be a finite number"),
        (["train", "--som.kernel-size", "4"], "som.kernel_size: kernel_size must be odd"),
        (
            ["train", "--batch-size", "0"],
            "batch_size must be at least 1 and at most 1,000,000, got 0",
        ),
        (["train", "--batch-size", "12"], "batch_size 12 is not divisible by the 8 devices"),
        (["train", "--model.name", "vgg12"], "unknown network 'vgg12'"),
        (["train", "--data.name", "cifar1O"], "unknown data set 'cifar1O'; did you mean 'cifar10'"),
        (["train", "--data.name", "svhn_cropped", "--data-dir", "no"], "is not prepared at"),
        (["train", "--resume"], "runs/quickstart holds no run"),
        (["train", "--resume", "--run-dir", "no"], "no holds no run"),
        (["evaluate", "no"], "no holds no run: there is no no/config.json"),
        (["train", "--som.table", "conv1_1/kernel", "3", "3"], "(3, 3) hold 9 neurons, but"),
        (["train", "--som.table", "cnov", "4", "4"], "som.table: no parameter has 'cnov' in its"),
        (["train", "--config", ""], "no config ''"),
        (["train", "--config"], "--config"),
        (["train", "--config", "float.py"], "float.py: epochs: Input should be a valid integer"),
        (["train", "--config", "counts.py"], "a key of som.table must be a str, such as '64', got"),
        (["train", "--data.name", "../x"], "unknown data set '../x'"),
        (["train", "--data.name", "huggingface:mnist"], "unknown data set 'huggingface:mnist'"),
        (["train", "--processes", "2", "--process", "1"], "need --coordinator HOST:PORT"),
        (["train", "--coordinator", "here"], "--coordinator must be HOST:PORT or auto, got 'here'"),
        (["train", "--coordinator", "h:1", "--processes", "2"], "0 <= I < N, got 2 and None"),
        (["train", "--run-dir", "tiny.py"], "tiny.py is a file"),
    ],
)
def test_bad_input_is_one_clear_line_and_leaves_nothing_behind(folder, capsys, argv, message):
    (folder / "broken.py").write_text("config = confg")
    (folder / "empty.py").write_text("")
    (folder / "float.py").write_text(commands.TINY.replace("epochs=1", "epochs=1.5"))
    (folder / "counts.py").write_text(
        commands.TINY.replace("Config(\n", "Config(\n    som=Som(table={8: (8, 1)}),\n").replace(
            "Optimizer\n", "Optimizer, Som\n"
        )
    )
    said = _fails(capsys, *argv)
    assert message in said
    assert "Traceback" not in said
    assert "__" not in said  # no inner names of the parser
    assert not (folder / "runs").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_answered_by_a_checkpoint_and_resume_goes_on(folder, number):
    argv = ("train", "--config", "tiny.py", "--epochs", "500", "--checkpoint-every", "1")
    process = commands.lgnn(*argv, devices=1)
    metrics = folder / "runs" / "tiny" / "metrics.jsonl"
    deadline = time.monotonic() + 200
    while process.poll() is None and time.monotonic() < deadline:
        if metrics.exists() and metrics.read_text().count("test") >= 3:
            process.send_signal(number)
            break
        time.sleep(0.05)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 128 + number, output
    assert output.splitlines()[-1].startswith(f"lgnn: stopped by {number.name}; --resume goes on")
    assert "Traceback" not in output
    again = commands.lgnn("evaluate", "runs/tiny", devices=1)
    output = again.communicate(timeout=200)[0]
    assert again.returncode == 0, output
    step = int(re.search(r"step ([\d,]+): test accuracy", output)[1].replace(",", ""))
    assert step >= 30


def test_help_fits_80_columns(folder, capsys):
    for argv in (["--help"], ["train", "--help"], ["evaluate", "--help"]):
        with pytest.raises(SystemExit) as exit_:
            cli.main(argv)
        assert exit_.value.code == 0
        out = capsys.readouterr().out
        assert out
        assert max(map(len, out.splitlines())) <= 80
