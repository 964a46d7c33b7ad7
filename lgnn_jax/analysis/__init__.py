"""Reading maps: arrays in, arrays out."""
