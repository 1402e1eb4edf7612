"""Logits in, integers out: every threshold in one pass; ratios last. Numba, no torch."""
