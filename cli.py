"""Run lungfast from a checkout: ``python cli.py grid m.zarr …`` is ``lungfast grid m.zarr …``."""

from lungfast.commands import main

if __name__ == "__main__":
    main()
