"""What cannot be done is told in one line."""

import importlib.util
import re

import commands
import jax
import pytest

from lgnn_jax import cli
from lgnn_jax.training.session import Session


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            [],
            "Expected one of {train, evaluate, sweep, table, analyze, map, configs}. See lgnn --h",
        ),
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
    said = commands.fails(capsys, *argv)
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
    said = commands.fails(capsys, "train", "--config", "tiny.py")
    assert "memory is too small: RESOURCE_EXHAUSTED: Out of memory: 1GiB. A smaller --batch" in said
    cli.main(["train", "--config", "tiny.py", "--batch-size", "8", "--run-dir", "runs/smaller"])
    assert "test accuracy" in capsys.readouterr().out
