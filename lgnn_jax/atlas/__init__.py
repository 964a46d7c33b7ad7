"""What a network has learned, to be looked at."""
