"""Runs: from a config and images to a trained network and its run directory."""
