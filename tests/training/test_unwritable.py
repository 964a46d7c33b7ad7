"""Disks that are full, and folders that may not be written to."""

import dataclasses

import runs
from launching import UNPRIVILEGED

from lgnn_jax.training import checkpoint

FAULTS = {
    "a line of metrics is torn by a full disk": (
        "size = os.path.getsize(run_dir / 'metrics.jsonl')\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, -1))",
        "cannot write to {run_dir}: File too large.",
    ),
    "the disk is too full for a checkpoint": (
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, -1))",
        "cannot write the checkpoint of step 12 to {run_dir}/checkpoints/12: ",
    ),
    "checkpoints may not be written": (
        "os.chmod(run_dir / 'checkpoints', 0o555)",
        "cannot write the checkpoint of step 12 to {run_dir}/checkpoints/12: Permission denied.",
    ),
}


def test_a_run_that_can_no_longer_write_stops_and_loses_nothing(tiny_config, tmp_path, launch):
    """The error comes in the same epoch; put right, the run ends with the same bits."""
    config = dataclasses.replace(tiny_config, epochs=3, log_every=1)
    process = launch(config, tmp_path / "straight")
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output
    for i, fault in enumerate(FAULTS):
        _stops_and_loses_nothing(config, tmp_path, f"run{i}", launch, fault)


def _stops_and_loses_nothing(config, tmp_path, name, launch, fault):
    run_dir = tmp_path / name
    code, message = FAULTS[fault]
    process = launch(config, run_dir, code, UNPRIVILEGED)
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 1, output
    assert output.splitlines()[-1].startswith(message.format(run_dir=run_dir))
    assert checkpoint.Checkpoints(run_dir).steps() == [6]
    (run_dir / "checkpoints").chmod(0o755)
    process = launch(config, run_dir)
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output
    runs.assert_same(*(runs.newest(config, tmp_path / name) for name in ("straight", name)))
    assert runs.records(run_dir) == runs.records(tmp_path / "straight")


def test_a_read_only_run_directory_is_refused(tiny_config, tmp_path, launch):
    run_dir = tmp_path / "run"
    run_dir.mkdir(mode=0o555)
    process = launch(tiny_config, run_dir, "", UNPRIVILEGED)
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 1
    assert output.splitlines()[-1].startswith(f"{run_dir} may not be written to: ")
    assert "Traceback" not in output
