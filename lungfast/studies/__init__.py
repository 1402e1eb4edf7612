"""One file per study on top of one protocol: fit, choose on validation, apply to test."""
