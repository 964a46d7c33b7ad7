import dataclasses
import json
import re
import shutil

import jax
import numpy as np
import pytest
import runs

from lgnn_jax.training import run as run_lib
from lgnn_jax.training import run_dir as run_dir_lib
from lgnn_jax.training import trained
from lgnn_jax.training.config import Model, Som
from lgnn_jax.training.errors import RunError
from lgnn_jax.training.session import Session


def _records(run_dir):
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.usefixtures("one_device")
def test_run_directory(tiny_config, tiny_dataset, tmp_path):
    config = dataclasses.replace(tiny_config, variant="decreasing", log_every=4)
    summary, state = runs.train(config, tiny_dataset, tmp_path / "run")
    assert run_dir_lib.load_config(tmp_path / "run") == config
    records = _records(tmp_path / "run")
    assert [(r["step"], r["epoch"], r["split"]) for r in records] == [
        (4, 0, "train"),
        (6, 0, "train"),
        (6, 0, "test"),
        (10, 1, "train"),
        (12, 1, "train"),
        (12, 1, "test"),
    ]
    for record in records:
        assert record["sigma"] == 0.5 * (1 - record["epoch"] / 2)
        assert record["learning_rate"] == pytest.approx(0.1 * 0.2 ** record["epoch"])
        assert record["loss"] > 0
        assert 0 <= record["accuracy"] <= 1
        assert record["images_per_second"] > 0
    assert json.loads((tmp_path / "run" / "summary.json").read_text()) == summary
    assert summary["test_accuracy"] == records[-1]["accuracy"]
    assert summary["best_test_accuracy"] == max(records[2]["accuracy"], records[5]["accuracy"])
    assert summary["seed"] == 0
    assert summary["skipped_steps"] == 0
    assert summary["variant"] == "decreasing"
    # Weights and biases of the convolutions, two of the batch norms, and the head.
    sizes = [(3, 4), (4, 8), (8, 16), (16, 16), (16, 32), (32, 32), (32, 32), (32, 32)]
    assert summary["parameters"] == sum(9 * i * o + 3 * o for i, o in sizes) + 32 * 5 + 5
    assert re.fullmatch("[0-9a-f]{64}", summary["init_sha256"])
    assert set(summary["versions"]) == {"python", "lgnn_jax", "jax", "flax", "optax", "numpy"}

    found = trained.read(tmp_path / "run", tiny_dataset)
    jax.tree.map(np.testing.assert_array_equal, (found.params, found.state), state.network)
    assert found.step == state.step
    tested = found.evaluate(tiny_dataset.test_images, tiny_dataset.test_labels)
    assert tested.accuracy == summary["test_accuracy"]
    assert tested.loss == pytest.approx(records[-1]["loss"], rel=1e-6)


@pytest.mark.usefixtures("one_device")
def test_an_interrupted_run_resumes_to_the_same_bits(
    tiny_config, tiny_dataset, tmp_path, monkeypatch
):
    config = dataclasses.replace(tiny_config, epochs=3, variant="decreasing")
    _, straight = runs.train(config, tiny_dataset, tmp_path / "straight")

    evaluate, calls = Session.evaluate, []

    def interrupted(self, state):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return evaluate(self, state)

    monkeypatch.setattr(Session, "evaluate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        runs.train(config, tiny_dataset, tmp_path / "cut")
    monkeypatch.setattr(Session, "evaluate", evaluate)
    assert _records(tmp_path / "cut")[-1]["step"] == 12  # beyond the checkpoint, at step 6
    with (tmp_path / "cut" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 12, "ep')  # a torn line
    _, resumed = runs.train(config, tiny_dataset, tmp_path / "cut", resume=True)

    jax.tree.map(np.testing.assert_array_equal, resumed, straight)
    assert runs.records(tmp_path / "cut") == runs.records(tmp_path / "straight")

    before = {f.name: f.read_bytes() for f in (tmp_path / "cut").iterdir() if f.is_file()}
    # Nothing is left to do.
    _, state = runs.train(config, tiny_dataset, tmp_path / "cut", resume=True)
    jax.tree.map(np.testing.assert_array_equal, state, straight)
    assert before == {f.name: f.read_bytes() for f in (tmp_path / "cut").iterdir() if f.is_file()}


@pytest.mark.usefixtures("one_device")
def test_damage_is_one_clear_line(tiny_config, tiny_dataset, tmp_path):
    config = dataclasses.replace(tiny_config, epochs=1)
    run_dir = tmp_path / "run"
    runs.train(config, tiny_dataset, run_dir)
    metrics = (run_dir / "metrics.jsonl").read_text()
    for damaged, message in (
        ("[1]\n" + metrics, r"metrics\.jsonl, line 1, is damaged: '\[1\]'"),
        ("{}\n" + metrics, r"metrics\.jsonl, line 1, is damaged: '\{\}'"),
        (metrics.replace('"step": 6', '"step": "6"', 1), r"metrics\.jsonl, line 1, is damaged"),
        (metrics.replace('"accuracy": ', '"accuracy": "', 1), r"line 1, is damaged"),
        ("\xff\n" + metrics, r"metrics\.jsonl, line 1, is damaged"),
    ):
        (run_dir / "metrics.jsonl").write_text(damaged, encoding="latin-1")
        with pytest.raises(RunError, match=message):
            runs.train(config, tiny_dataset, run_dir, resume=True)
        assert (run_dir / "metrics.jsonl").read_text(encoding="latin-1") == damaged
    (run_dir / "metrics.jsonl").write_text(metrics)
    summary = (run_dir / "summary.json").read_text()
    for damaged in ('{"init', "{}", "[]", '{"test_accuracy": "x"}'):
        (run_dir / "summary.json").write_text(damaged)
        with pytest.raises(RunError, match=r"summary\.json is damaged: once it is removed"):
            runs.train(config, tiny_dataset, run_dir, resume=True)
    (run_dir / "summary.json").unlink()
    (run_dir / "metrics.jsonl").write_text(metrics.splitlines()[0] + "\n")  # the test is made anew
    again, _ = runs.train(config, tiny_dataset, run_dir, resume=True)
    assert again["test_accuracy"] == json.loads(summary)["test_accuracy"]
    shutil.rmtree(run_dir / "checkpoints")
    with pytest.raises(RunError, match="was finished, and none of its checkpoints"):
        runs.train(config, tiny_dataset, run_dir, resume=True)
    assert [r["split"] for r in _records(run_dir)] == ["train", "test"]


@pytest.mark.usefixtures("one_device")
def test_divergence_stops_the_run(tiny_config, tiny_dataset, tmp_path):
    config = dataclasses.replace(
        tiny_config, optimizer=dataclasses.replace(tiny_config.optimizer, learning_rate=1e30)
    )
    with pytest.raises(
        RunError,
        match=r"gradient of \S+/\w+ is not finite at step [23], epoch 1, learning rate 1e\+30",
    ):
        runs.train(config, tiny_dataset, tmp_path / "run")
    assert not (tmp_path / "run" / "summary.json").exists()


@pytest.mark.parametrize("name", ["metrics.jsonl", "summary.json", "checkpoints"])
def test_files_of_others_are_left_alone(tiny_config, tmp_path, name):
    (tmp_path / name).write_text("precious")
    with pytest.raises(RunError, match=f"holds a {name} of something else"):
        run_dir_lib.check_run_dir(tmp_path, tiny_config, resume=False)
    assert (tmp_path / name).read_text() == "precious"


def test_run_directories_that_do_not_fit(tiny_config, tmp_path):
    run_dir = tmp_path / "run"
    with pytest.raises(RunError, match=r"holds no run: there is no .*config\.json"):
        run_dir_lib.check_run_dir(run_dir, tiny_config, resume=True)
    run_dir_lib.check_run_dir(run_dir, tiny_config, resume=False)
    run_dir.mkdir()
    (run_dir / "config.json").write_text(run_lib.to_json(tiny_config))
    with pytest.raises(RunError, match="already holds a run: pass --resume"):
        run_dir_lib.check_run_dir(run_dir, tiny_config, resume=False)
    run_dir_lib.check_run_dir(run_dir, tiny_config, resume=True)  # begins again: no checkpoint yet
    for changes, message in (
        ({"seed": 5}, "another seed: it was begun with 0, not 5"),
        ({"epochs": 1}, "another epochs: it was begun with 2, not 1"),
        ({"model": Model("vgg11", width=0.5)}, r"another model\.width: it was begun with 0\.0625"),
        ({"som": Som(method="conv")}, r"another som\.method: it was begun with 'auto'"),
    ):
        other = dataclasses.replace(tiny_config, **changes)
        with pytest.raises(RunError, match=message):
            run_dir_lib.check_run_dir(run_dir, other, resume=True)
    for changes in (
        {"name": "x"},
        {"log_every": 7, "checkpoint_every": 3},
        {"on_nan": "skip"},
        {"epochs": 9},
    ):
        other = dataclasses.replace(tiny_config, **changes)
        run_dir_lib.check_run_dir(run_dir, other, resume=True)
    with pytest.raises(RunError, match=r"another epochs: .* Epochs can be added, not taken away\."):
        run_dir_lib.check_run_dir(run_dir, dataclasses.replace(tiny_config, epochs=1), resume=True)
    decreasing = dataclasses.replace(tiny_config, variant="decreasing")
    (run_dir / "config.json").write_text(run_lib.to_json(decreasing))
    with pytest.raises(RunError, match=r"another epochs: .* not where sigma decreases"):
        run_dir_lib.check_run_dir(run_dir, dataclasses.replace(decreasing, epochs=9), resume=True)
    (run_dir / "config.json").write_text('{"epoch": 3}')
    with pytest.raises(RunError, match=r"config\.json: unknown field 'epoch'"):
        run_dir_lib.load_config(run_dir)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 12}, "batch_size 12 is not divisible by the 8 devices"),
        ({"batch_size": 128}, "batch_size 128 exceeds the 100 training images"),
        ({"data.pad": 32}, "data.pad must be less than the sides of 32x32 images, got 32"),
        ({"model.name": "vgg12"}, "unknown network 'vgg12'"),
        (
            {"som.table": {"conv1_1/kernel": (3, 3)}},
            r"\(3, 3\) hold 9 neurons, but 'conv1_1/kernel'",
        ),
    ],
)
def test_configs_that_do_not_fit_the_images(tiny_config, tiny_dataset, changes, message):
    config = tiny_config
    for name, value in changes.items():
        section, _, field = name.rpartition(".")
        if section:
            value = dataclasses.replace(getattr(config, section), **{field: value})
        config = dataclasses.replace(config, **{section or field: value})
    with pytest.raises(RunError, match=message):
        Session(config, tiny_dataset)
