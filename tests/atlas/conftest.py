"""Runs to look at, trained once for all tests of a session."""

import dataclasses
import io

import pytest
from rich.console import Console

from lgnn_jax.atlas import analyze
from lgnn_jax.cli.analysis_table import analysis as print_analysis
from lgnn_jax.training.log import Log
from lgnn_jax.training.run import run


@pytest.fixture(scope="session")
def run_dirs(tmp_path_factory):
    """Where they are."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def runs(run_dirs, tiny_config, tiny_dataset):
    """A run without the filter and one with it, trained once for all tests."""
    folders = []
    for variant in ("baseline", "constant"):
        folder = run_dirs / variant
        if not folder.exists():
            config = dataclasses.replace(tiny_config, variant=variant, epochs=1)
            with Log() as log:
                run(config, tiny_dataset, folder, log)
        folders.append(folder)
    return folders


@pytest.fixture
def analysis():
    """Analyses runs in no time; returns what analysis.json holds, and the stages."""

    def analyse(runs, dataset, out, **request):
        stages = []
        request = analyze.Request(**{"steps": 2, "shuffles": 20, **request})
        document = analyze.analyze(
            runs, dataset, out, request, progress=lambda stage, done, total: stages.append(stage)
        )
        return document, stages

    return analyse


@pytest.fixture
def printed():
    """What a terminal shows of what analysis.json holds."""

    def printed(document, width=80):
        console = Console(file=io.StringIO(), width=width)
        print_analysis(console, document)
        return console.file.getvalue()

    return printed
