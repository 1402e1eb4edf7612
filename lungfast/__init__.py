"""lungfast: adapt the Segment Anything Model to lung segmentation in chest X-rays, in minutes."""

__version__ = "0.1.0"
