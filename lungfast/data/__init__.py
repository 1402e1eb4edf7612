"""Chest X-rays in: dataset folders, generated phantoms, splits."""
