"""Results in, tables out. Pure."""
