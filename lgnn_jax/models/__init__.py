"""Networks: those of the paper, and those of any framework as a `Network`."""
