"""What makes neighbours alike: transformations for optax."""
