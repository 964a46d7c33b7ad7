"""`lgnn evaluate`."""

from rich.console import Console

from lgnn_jax.cli import layer_tables
from lgnn_jax.cli.commands import Evaluate
from lgnn_jax.training import data
from lgnn_jax.training import run as run_lib


def run(command: Evaluate) -> None:
    """Evaluates the newest checkpoint of a run.

    Raises:
      DataError, RunError: in one line.
    """
    config = run_lib.load_config(command.run_dir)
    images = data.load(config.data.name, command.data_dir, train_images=config.data.train_images)
    session, state = run_lib.restore(config, images, command.run_dir)
    metrics = session.evaluate(state)
    console = Console()
    layer_tables.topography(console, session.plan, state.params)
    console.print(
        f"\nstep {int(state.step):,}: test accuracy {metrics.accuracy:.2%}, loss "
        f"{metrics.loss:.4f}, on {len(images.test_images):,} images",
        highlight=False,
        soft_wrap=True,
    )
