import dataclasses
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from rich.console import Console

from lgnn_jax import cli
from lgnn_jax.cli.sweep import to_compare
from lgnn_jax.experiments import report, results, sweep
from lgnn_jax.experiments.claims import claims
from lgnn_jax.training.config import Config, Data, Model, Optimizer, Som, to_json
from lgnn_jax.training.errors import RunError

TINY = """
from lgnn_jax.training.config import Config, Data, Model, Optimizer

config = Config(
    name="tiny",
    epochs=2,
    batch_size=16,
    checkpoint_every=1,
    model=Model("vgg11", width=1 / 16),
    data=Data("digits", train_images=160, flip=False),
    optimizer=Optimizer(learning_rate=0.01, decay_epochs=()),
)
"""
COMMAND = ["sweep", "--config", "tiny.py", "--seeds", "0", "1", "--out", "out"]
FILES = ("results.md", "results.csv", "results.json")


def _folder(path, monkeypatch):
    path.mkdir()
    (path / "tiny.py").write_text(TINY)
    monkeypatch.chdir(path)
    monkeypatch.setenv("COLUMNS", "80")
    return path


def _write_run(out, name, seed, accuracy, *, sha="a", config=None, neighbours=0.2):
    """Writes what a finished run leaves."""
    folder = out / name / f"seed_{seed}"
    folder.mkdir(parents=True)
    variant = name.partition("-")[0]
    config = dataclasses.replace(config or Config(), name=name, variant=variant, seed=seed)
    (folder / "config.json").write_text(to_json(config))
    numbers = {
        "map": [8, 8],
        "neighbours": neighbours,
        "shuffled": 0.01,
        "shuffled_deviation": 0.01,
    }
    result = {
        "test_accuracy": accuracy,
        "best_test_accuracy": accuracy,
        "init_sha256": sha,
        "devices": ["cpu"],
        "machine": "a machine, 2 cores",
        "date": "2026-01-01",
        "versions": dict.fromkeys(("jax", "flax", "optax", "lgnn_jax", "python"), "1"),
        "magnitudes": {"minimum": 0.1, "maximum": 2.0, "deviation_of_log": 0.5},
        "maps": {"conv1_1": numbers, "conv2_1": numbers | {"neighbours": 2 * neighbours}},
    }
    (folder / "result.json").write_text(json.dumps(result))


def test_from_start_to_table(tmp_path, monkeypatch, capsys):
    folder = _folder(tmp_path / "work", monkeypatch)
    cli.main(COMMAND)
    said = capsys.readouterr().out
    assert "6 of 6 runs" in said
    assert max(map(len, said.splitlines())) <= 80
    settings = results.collect(folder / "out")
    assert [setting.name for setting in settings] == ["baseline", "constant", "decreasing"]
    assert all(list(setting.results) == [0, 1] for setting in settings)
    for seed in (0, 1):
        assert len({setting.results[seed]["init_sha256"] for setting in settings}) == 1
    accuracies = {(s.name, seed): a for s in settings for seed, a in s.accuracies.items()}
    for (name, seed), accuracy in accuracies.items():
        lines = (folder / f"out/{name}/seed_{seed}/metrics.jsonl").read_text().splitlines()
        assert 100 * json.loads(lines[-1])["accuracy"] == accuracy
    gain = np.median([accuracies["constant", s] - accuracies["baseline", s] for s in (0, 1)])
    (row,) = re.findall(r"^\| constant \|.*$", (folder / "out/results.md").read_text(), re.M)
    assert f" {gain:+.2f} " in row
    assert "    lgnn " + " ".join(COMMAND) in (folder / "out/results.md").read_text()

    before = {name: (folder / "out" / name).read_bytes() for name in FILES}
    cli.main(["table", "out"])
    assert {name: (folder / "out" / name).read_bytes() for name in FILES} == before


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_sweep_ends_with_the_same_tables(tmp_path, monkeypatch, kill):
    """Killed before the second run has a checkpoint, and between its two."""
    command = ["sweep", "--config", "tiny.py", "--seeds", "0", "--out", "out", "--variants"]
    command += ["baseline", "constant"]
    whole = _folder(tmp_path / "whole", monkeypatch)
    cli.main(command)
    torn = _folder(tmp_path / "torn", monkeypatch)
    second = torn / "out/constant/seed_0"
    for mark in (second / "config.json", second / "metrics.jsonl"):
        process = subprocess.Popen(
            [sys.executable, "-c", "from lgnn_jax.cli import main; main()", *command],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            limit = time.monotonic() + 300
            while not (mark.exists() and mark.read_text().count("\n") >= 2):
                assert process.poll() is None
                assert time.monotonic() < limit
                time.sleep(0.02)
        finally:
            os.killpg(process.pid, kill)
            said = process.communicate()[1]
        if kill == signal.SIGINT:
            assert process.returncode == 130
            # While it compiles there is no step to finish.
            stopped = r"lgnn: (interrupted|stopped by SIGINT); the same command goes on from the "
            assert re.search(stopped, said), said
    assert not (second / "result.json").exists()
    cli.main(command)
    for name in ("results.md", "results.csv"):
        assert (torn / "out" / name).read_bytes() == (whole / "out" / name).read_bytes()


def test_a_failed_run_does_not_stop_the_others(tmp_path, monkeypatch, capsys):
    _folder(tmp_path / "work", monkeypatch)
    done = []

    def run(config, dataset, folder, log):
        if (config.variant, config.seed) == ("constant", 0):
            raise MemoryError("no room\nfor it")
        done.append(config.name)
        _write_run(folder.parent.parent, config.name, config.seed, 0.5)
        return json.loads((folder / "result.json").read_text())

    monkeypatch.setattr(sweep, "_run", run)
    with pytest.raises(SystemExit) as exit_:
        cli.main(COMMAND)
    assert exit_.value.code == 1
    captured = capsys.readouterr()
    assert "lgnn: constant, seed 0 failed: MemoryError: no room\n" in captured.err
    assert done == ["baseline", "decreasing", "baseline", "constant", "decreasing"]
    assert "constant    1 " in captured.out


def test_a_folder_of_another_sweep_is_left_alone(tmp_path, monkeypatch, capsys):
    folder = _folder(tmp_path / "work", monkeypatch)
    _write_run(folder / "out", "constant", 1, 0.5)
    with pytest.raises(SystemExit):
        cli.main(COMMAND)
    assert re.search(r"cannot resume out/constant/seed_1 with another \w+", capsys.readouterr().err)
    assert not (folder / "out/baseline").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seed", "3"], "--variants and --seeds instead of --variant and --seed"),
        (["--variant", "constant"], "--variants and --seeds instead"),
        (["--layers", "main"], "som.layers must be 'all' for vgg11"),
        (["--windows", "4", "0.5"], "som.kernel_size"),
        (["--windows", "5", "1", "5", "1.0"], "--windows: 5 1.0 and 5 1.0 are one setting"),
        (
            ["--windows", "5", "1.0000001", "5", "1.0000002"],
            "--windows: 5 1.0000001 and 5 1.0000002 are one setting, constant-5x5-sigma1",
        ),
        (["--seeds", "-1"], "seed must be in [0, 2**31), got -1."),
        (["--seeds", "0", "99999999999"], "seed must be in [0, 2**31), got 99999999999."),
        (["--som.kernel-size", "1000001"], "som.kernel_size must be at most 17, twice the"),
    ],
)
def test_bad_options(tmp_path, monkeypatch, capsys, arguments, message):
    folder = _folder(tmp_path / "work", monkeypatch)
    with pytest.raises(SystemExit) as exit_:
        cli.main([*COMMAND, *arguments])
    assert exit_.value.code == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert message in said
    assert not (folder / "out").exists()


def test_two_files_of_one_name(tmp_path):
    files = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        files.append(str(tmp_path / folder / "mine.py"))
        (tmp_path / folder / "mine.py").write_text("def method(table): pass")
    with pytest.raises(ValueError, match="two settings would be kept as 'mine': rename a file"):
        to_compare(Config(), files, ["all"], [(3, 0.5)])


def test_settings_of_table_ii():
    config = Config(model=Model("wrn16_8"))
    layers = ["main", "resblocks", "all"]
    found = to_compare(config, ["baseline", "constant", "decreasing"], layers, [(3, 0.5)])
    assert list(found) == ["baseline"] + [
        f"{variant}-{which}" for variant in ("constant", "decreasing") for which in layers
    ]
    for name, setting in found.items():
        variant, _, which = name.partition("-")
        assert (setting.variant, setting.som.layers) == (variant, which or "all")


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (Config(model=Model("wrn16_8"), som=Som(layers="main")), 78.90),
        (
            Config(
                model=Model("vgg11"), epochs=100, optimizer=Optimizer(decay_epochs=(40, 70, 90))
            ),
            70.16,
        ),
        (Config(model=Model("vgg11")), None),
        (Config(model=Model("vgg19"), epochs=20), None),
        (Config(model=Model("vgg19"), optimizer=Optimizer(weight_decay=1e-3)), None),
        (Config(model=Model("wrn16_8", dropout=0)), None),
        (Config("x", seed=7, checkpoint_every=1, model=Model("vgg19")), 72.39),
        (Config(model=Model("wrn28_10"), variant="decreasing"), 80.81),
        (Config(model=Model("wrn28_10"), variant="baseline"), 80.62),
        (Config(model=Model("vgg19")), 72.39),
        (Config(model=Model("vgg19"), som=Som(kernel_size=5, sigma=1.0)), None),
        (Config(model=Model("vgg11", width=0.25)), None),
        (Config(model=Model("vgg11"), data=Data("cifar10")), None),
    ],
)
def test_the_papers_figure_stands_beside_the_same_setting_alone(config, expected):
    assert results.Setting("x", config, {}).paper == expected


def test_accuracies_are_paired_by_seed(tmp_path):
    """By hand: differences 1, 3 and -1 points; the seed that the baseline lacks counts alone."""
    config = Config(
        model=Model("vgg11"), epochs=100, optimizer=Optimizer(decay_epochs=(40, 70, 90))
    )
    for seed, accuracy in enumerate((0.70, 0.72, 0.75)):
        _write_run(tmp_path, "baseline", seed, accuracy, sha=str(seed), config=config)
    for seed, accuracy in enumerate((0.71, 0.75, 0.74, 0.90)):
        _write_run(
            tmp_path, "constant", seed, accuracy, sha=str(seed), config=config, neighbours=0.4
        )
    baseline, constant = settings = results.collect(tmp_path)
    assert results.differences(constant, baseline) == pytest.approx({0: 1.0, 1: 3.0, 2: -1.0})
    tables = results.tables(settings)
    rows = tables[0].rows
    assert rows[0] == ["baseline", "3", "72.00", "70.00", "75.00", "", "", "0.300 (0.010)", "69.96"]
    assert rows[1] == [
        "constant", "4", "74.50", "71.00", "90.00", "+1.00", "-1.00 to +3.00",
        "0.600 (0.010)", "70.16",
    ]  # fmt: skip
    report.write(tmp_path, settings, tables, claims(settings), ["lgnn sweep"])
    lines = (tmp_path / "results.csv").read_text().splitlines()
    assert len(lines) == 1 + 7
    assert ",1.00,0," in lines[4]
    assert json.loads((tmp_path / "results.json").read_text())["settings"][1]["paper"] == 70.16


def test_the_interval_is_that_of_the_bootstrap():
    """Against scipy's, which draws its own samples."""
    from scipy.stats import bootstrap

    values = np.random.default_rng(1).normal(size=30)
    theirs = bootstrap((values,), np.median, method="percentile").confidence_interval
    np.testing.assert_allclose(results.median_interval(values), theirs, atol=0.08)


def test_runs_that_cannot_be_compared(tmp_path):
    _write_run(tmp_path, "baseline", 0, 0.5, sha="a")
    _write_run(tmp_path, "constant", 0, 0.5, sha="b")
    with pytest.raises(RunError, match="baseline and constant began seed 0 with different weights"):
        results.collect(tmp_path)
    (tmp_path / "constant/seed_0/result.json").write_text('{"test_accuracy": 0.5')
    with pytest.raises(RunError, match=r"constant/seed_0/result\.json is damaged"):
        results.collect(tmp_path)
    with pytest.raises(RunError, match="holds no finished run"):
        results.collect(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"test_accuracy": "x"}, "result.json is damaged: test_accuracy: input should be a valid"),
        ({"magnitudes": None}, "result.json is damaged: magnitudes"),
        ({"maps": {"conv1_1": {}}}, "result.json is damaged: maps.conv1_1.neighbours"),
    ],
)
def test_damaged_results_are_one_line(tmp_path, change, message):
    _write_run(tmp_path, "baseline", 0, 0.5)
    path = tmp_path / "baseline/seed_0/result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(RunError, match=message) as error:
        results.collect(tmp_path)
    assert "\n" not in str(error.value)


def test_runs_of_other_lengths_are_not_compared(tmp_path):
    _write_run(tmp_path, "baseline", 0, 0.5, config=Config(epochs=3))
    _write_run(tmp_path, "constant", 0, 0.5, config=Config(epochs=1))
    with pytest.raises(
        RunError,
        match="baseline, seed 0, and constant, seed 0, cannot be compared: epochs is 3 in one and",
    ):
        results.collect(tmp_path)
    shutil.rmtree(tmp_path / "baseline")
    _write_run(tmp_path, "constant", 1, 0.5, config=Config(epochs=1, som=Som(sigma=1.0)))
    with pytest.raises(RunError, match=r"som\.sigma is 0\.5 in one and 1\.0 in the other"):
        results.collect(tmp_path)


def test_finished_runs_are_given_more_epochs(tmp_path, monkeypatch):
    """And results that cannot be read are made again."""
    config = Config(variant="constant", epochs=1)
    for seed in (0, 1, 2):
        _write_run(tmp_path, "constant", seed, 0.5, config=config)
    (tmp_path / "constant/seed_2/result.json").write_text("{")
    begun = []

    def run(config, dataset, folder, log):
        begun.append((config.epochs, config.seed))
        return {"test_accuracy": 0.5}

    monkeypatch.setattr(sweep, "_run", run)
    console = Console(file=io.StringIO())
    for epochs in (1, 2):
        configs = {"constant": dataclasses.replace(config, epochs=epochs)}
        sweep.sweep(configs, [0, 1, 2], None, tmp_path, console)
    assert begun == [(1, 2), (2, 0), (2, 1), (2, 2)]


def test_the_board_tells_what_is_left():
    console = Console(width=80, record=True, file=io.StringIO(), force_terminal=True)
    with sweep._Board(["baseline", "constant"], [0, 1], console) as board:
        board.found(("baseline", 0), 0.5)
        board.begin(("constant", 0))
        board.move(0.05)
        board.move(0.25)
        table = board._table()
        assert "1 of 4 runs, " in str(table.caption)
        assert "left" in str(table.caption)
        console.print(table)
    text = console.export_text()
    assert "50.00%" in text
    assert "25%" in text
