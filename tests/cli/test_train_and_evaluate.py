"""A run from its first step to its evaluation, at once or cut."""

import json
import re
import signal
import time

import commands
import pytest

from lgnn_jax import cli


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
    said = commands.fails(capsys, "train", "--config", "tiny.py")
    assert said == (
        "lgnn: runs/tiny already holds a run: pass --resume to go on with it, or name another "
        "place with --run-dir."
    )
    said = commands.fails(
        capsys, "train", "--config", "tiny.py", "--resume", "--seed", "4", "--epochs", "2"
    )
    assert said == "lgnn: cannot resume runs/tiny with another seed: it was begun with 3, not 4."
    cli.main(["train", "--run-dir", "runs/tiny", "--resume"])
    assert (folder / "runs" / "tiny" / "metrics.jsonl").read_text() == before


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
