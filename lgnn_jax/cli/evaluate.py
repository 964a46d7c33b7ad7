"""`lgnn evaluate`."""

from rich.console import Console

from lgnn_jax.cli import layer_tables
from lgnn_jax.cli.commands import Evaluate
from lgnn_jax.training import data, trained
from lgnn_jax.training.run_dir import load_config


def run(command: Evaluate) -> None:
    """Evaluates the newest checkpoint of a run.

    Raises:
      DataError, RunError: in one line.
    """
    config = load_config(command.run_dir)
    images = data.load(config.data.name, command.data_dir, train_images=config.data.train_images)
    found = trained.read(command.run_dir, images)
    metrics = found.evaluate(images.test_images, images.test_labels)
    console = Console()
    layer_tables.topography(console, found.plan, found.params, found.places)
    console.print(
        f"\nstep {found.step:,}: test accuracy {metrics.accuracy:.2%}, loss "
        f"{metrics.loss:.4f}, on {len(images.test_images):,} images",
        highlight=False,
        soft_wrap=True,
    )
