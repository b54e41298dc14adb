"""The demo: a synthetic CT, one box an organ, label maps, scores, a picture; no data, no network."""

from napari_medsam.demo.overview import draw_overview
from napari_medsam.demo.run import DemoResult, OrganScore, run_demo

__all__ = ["DemoResult", "OrganScore", "draw_overview", "run_demo"]
