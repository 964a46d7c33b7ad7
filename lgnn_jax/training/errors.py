"""What can go wrong with a run."""


class RunError(Exception):
    """A run that cannot be started, resumed or read as asked; one clear line."""
