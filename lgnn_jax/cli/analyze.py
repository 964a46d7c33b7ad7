"""`lgnn analyze`."""

from rich.console import Console

from lgnn_jax.cli.analysis_table import analysis
from lgnn_jax.cli.commands import Analyze
from lgnn_jax.cli.errors import UsageError
from lgnn_jax.cli.show import say
from lgnn_jax.cli.stages import Stages
from lgnn_jax.training import data
from lgnn_jax.training.run_dir import load_config as load_saved


def run(command: Analyze) -> None:
    """Draws the maps of runs, and prints the numbers of their order.

    Raises:
      UsageError, DataError, RunError: in one line.
    """
    if not command.run_dirs:
        raise UsageError("name one or more run directories.")
    if command.steps < 1:
        raise UsageError(f"--steps must be at least 1, got {command.steps}.")
    config = load_saved(command.run_dirs[0])
    images = data.load(config.data.name, command.data_dir, train_images=config.data.train_images)

    # Slow to import, and not needed before.
    from lgnn_jax.atlas import analyze
    from lgnn_jax.training import trained

    runs = trained.load(command.run_dirs, images)
    out = command.out or command.run_dirs[0]
    request = analyze.Request(command.layers, command.classes, command.visualize, command.steps)
    console = Console()
    with Stages(console) as stages:
        document = analyze.analyze(runs, images, out, request, progress=stages)
    analysis(console, document)
    figures = out / analyze.FOLDER
    say(console, f"\n{len(document['figures'])} figures, PNG and SVG, in {figures}/;")
    say(console, f"all numbers in {out / analyze.NUMBERS}")
