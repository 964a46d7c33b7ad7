import dataclasses
import importlib.util
import json
import re
import signal
import time

import commands
import jax
import pytest

from lgnn_jax import cli
from lgnn_jax.training.config import Config
from lgnn_jax.training.session import Session


def _fails(capsys, *argv):
    """Runs a command that must fail; returns the one line that it says on standard error."""
    with pytest.raises(SystemExit) as exit_:
        cli.main([*argv])
    assert exit_.value.code not in (0, None)
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("lgnn: ")
    return captured.err.strip()


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
        ([], "Expected one of {train, evaluate, sweep, table, analyze, configs}. See lgnn --help."),
        (["trian"], "no command 'trian'; did you mean 'train'?"),
        (["train", "3"], "Unrecognized options: 3. See lgnn train --help."),
        (["train", "--run_dirs=x"], "Unrecognized options: --run_dirs=x. See lgnn"),
        (["train", "--epochs", "1.5"], "--epochs: invalid literal for int() with base 10: '1.5'."),
        (["train", "--epochs"], "Missing value for argument '--epochs'. Expected 1 values."),
        (["train", "--seed", "-1"], "lgnn: seed must be in [0, 2**31), got -1."),
        (["train", "--seed", "9" * 300], "9" * 300),
        (
            ["train", "--optimizer.momentum", "2"],
            "lgnn: optimizer.momentum must be in [0, 1)",
        ),
        (["train", "--som.sigma", "-1e-3"], "lgnn: som.sigma: sigma must be a finite number"),
        (["train", "--som.padding", "warp"], "Expected one of ('replicate', 'wrap', 'zero')."),
        (["train", "--som.kernel-size", "1000001"], "som.kernel_size must be at most 33, twice"),
        (["train", "--som.table", "64", "8"], "as in 64 8 8 stem None; got 64 8."),
        (["train", "--som.table", "64", "8", "9" * 5000], "--som.table: it takes keys"),
        (
            ["train", "--som.table", "64", "8", "x"],
            "--som.table: it takes keys, each with rows",
        ),
        (
            ["train", "--som.table", "64", "8", "8", "64", "4", "16"],
            "--som.table: it has '64' twice: leave one out.",
        ),
        (["train", "--batch-size", "2000"], "batch_size 2000 exceeds the 1437 training images"),
        (["analyze"], "name one or more run directories."),
        (["evaluate"], "Missing from lgnn evaluate: RUN_DIR"),
        (["train", "--config", "vgg11_cifar10"], "no config 'vgg11_cifar10'; did you mean"),
        (["train", "--config", "absent.py"], "no config 'absent.py'"),
        (["train", "--config", "broken.py"], "broken.py: NameError: name 'confg' is not defined"),
        (["train", "--config", "empty.py"], "empty.py must define `config`"),
        (["train", "--epoch", "3"], "Unrecognized options: --epoch, 3; did you mean --epochs?"),
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
        (["train", "--config", "float.py"], "float.py: epochs must be an integer, got 1.5."),
        (["train", "--config", "counts.py"], "a key of som.table must be a str, such as '64', got"),
        (["train", "--data.name", "../x"], "unknown data set '../x'"),
        (["train", "--data.name", "huggingface:mnist"], "unknown data set 'huggingface:mnist'"),
        (["train", "--processes", "2", "--process", "1"], "need --coordinator HOST:PORT"),
        (["train", "--coordinator", "here"], "--coordinator must be HOST:PORT or auto, got 'here'"),
        (["train", "--coordinator", "h:1", "--processes", "2"], "0 <= I < N, got 2 and None"),
        (["train", "--run-dir", "tiny.py"], "tiny.py is a file"),
        (["train", "--resume", "--name", "other"], "runs/other holds no run"),
        (["evaluate", "bad"], "bad/config.json cannot be read: Is a directory."),
        (
            ["train", "--config", "vgg11_cifar100", "--data-dir", "no"],
            "there is no folder no to read 'cifar100' from or to prepare it in: make it, or name "
            "another with --data-dir.",
        ),
    ],
)
def test_bad_input_is_one_clear_line_and_leaves_nothing_behind(folder, capsys, argv, message):
    (folder / "bad" / "config.json").mkdir(parents=True)
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
    assert not re.search(r"__|\brun\.", said)  # no inner names of the parser
    assert not (folder / "runs").exists()
    assert not (folder / "no").exists()


@pytest.mark.parametrize(
    ("argv", "status"),
    [
        (["train", "--epoch", "3"], 2),
        (["train", "--epochs", "x"], 2),
        (["trian"], 2),
        (["train", "--config", "absent.py"], 1),
        (["evaluate", "no"], 1),
    ],
)
def test_exit_statuses(folder, argv, status):
    with pytest.raises(SystemExit) as exit_:
        cli.main(argv)
    assert exit_.value.code == status


def test_a_dry_run_prints_nothing_before_its_checks(folder, capsys):
    with pytest.raises(SystemExit):
        cli.main(["train", "--dry-run", "--model.name", "vgg12"])
    assert capsys.readouterr().out == ""


def test_a_run_goes_on_with_its_own_config(folder, capsys):
    cli.main(["train", "--config", "tiny.py", "--name", "mine"])
    capsys.readouterr()
    cli.main(["train", "--resume", "--name", "mine"])
    assert "epochs:" not in capsys.readouterr().out
    cli.main(["train", "--resume", "--name", "mine", "--epochs", "2", "--log-every", "7"])
    said = capsys.readouterr().out
    assert "\nepochs: 1 -> 2\n" in said
    assert "\nlog_every: 50 -> 7\n" in said
    kept = json.loads((folder / "runs/mine/config.json").read_text())
    assert (kept["epochs"], kept["batch_size"]) == (2, 16)


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


def _help(capsys, *argv):
    with pytest.raises(SystemExit) as exit_:
        cli.main([*argv, "--help"])
    assert exit_.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(
    "argv", [[], ["train"], ["evaluate"], ["sweep"], ["table"], ["analyze"], ["configs"]]
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


def test_tensorboard_needs_its_extra(folder, capsys, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "tensorboardX" else find(name)
    )
    with pytest.raises(SystemExit):
        cli.main(["train", "--config", "tiny.py", "--tensorboard"])
    said = capsys.readouterr().err
    assert said == "lgnn: --tensorboard needs tensorboardX: pip install tensorboardX.\n"
    assert not (folder / "runs").exists()


def test_a_device_whose_memory_is_too_small(folder, capsys, monkeypatch):
    """What JAX raises on a GPU, on two lines; then what the message says."""
    steps = Session.train_steps

    def train_steps(self, *arguments):
        if self.config.batch_size == 16:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory: 1GiB.\nBuffers:")
        return steps(self, *arguments)

    monkeypatch.setattr(Session, "train_steps", train_steps)
    said = _fails(capsys, "train", "--config", "tiny.py")
    assert "memory is too small: RESOURCE_EXHAUSTED: Out of memory: 1GiB. A smaller --batch" in said
    cli.main(["train", "--config", "tiny.py", "--batch-size", "8", "--run-dir", "runs/smaller"])
    assert "test accuracy" in capsys.readouterr().out
