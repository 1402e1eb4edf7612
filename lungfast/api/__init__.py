"""The studies from Python: a cache opened once, a configuration in, the content of results.json out.

The configurations are those of the studies themselves::

    embed(("montgomery", "."), "m.zarr")
    lab = Lab("m.zarr")
    found = lab.run(CvConfig(prompts=prompts("points", "box"), lrs=(1e-3,)), "runs/cv", epochs=60)
    found["rows"][0]["f1"]["mean"]
    lab.transfer(Lab("s.zarr"), ("runs/cv", "runs/cv-s"), "runs/transfer")
"""

from lungfast.api.lab import Lab
from lungfast.api.whole import embed, predict, prompts, report, reproduce
from lungfast.frozen.prompts import PromptConfig
from lungfast.studies.baseline import BaselineConfig
from lungfast.studies.curve import CurveConfig
from lungfast.studies.cv import CvConfig
from lungfast.studies.grid import GridConfig
from lungfast.studies.models import FinishedRun
from lungfast.studies.on_request import Extras
from lungfast.studies.thresholds import ThresholdsConfig
from lungfast.studies.unet import UnetStudyConfig
from lungfast.trained.unet import UnetConfig

__all__ = [
    "BaselineConfig",
    "CurveConfig",
    "CvConfig",
    "Extras",
    "FinishedRun",
    "GridConfig",
    "Lab",
    "PromptConfig",
    "ThresholdsConfig",
    "UnetConfig",
    "UnetStudyConfig",
    "embed",
    "predict",
    "prompts",
    "report",
    "reproduce",
]
