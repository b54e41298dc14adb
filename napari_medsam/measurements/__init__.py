"""What a report says of every object: size, intensities, surface, diameters; and how two label maps agree.

Numbers that a scan of one slice cannot have (surface, sphericity), and intensities without an image, are
None. Positions are given twice: as array indices (z, y, x), pixel centres on integers, and in the patient, in
mm, LPS, as (x, y, z).
"""

from napari_medsam.measurements.objects import (
    PERCENTILES,
    Diameter,
    Intensities,
    Measurement,
    MeasurementError,
    Recist,
    each_measured,
    measure_labels,
    measure_segments,
    surface_mm2,
)
from napari_medsam.measurements.scores import LabelScore, compare_labels, compare_masks, compare_segments
from napari_medsam.measurements.table import measurements_to_csv, measurements_to_json, volume_text

__all__ = [
    "PERCENTILES",
    "Diameter",
    "Intensities",
    "LabelScore",
    "Measurement",
    "MeasurementError",
    "Recist",
    "compare_labels",
    "compare_masks",
    "compare_segments",
    "each_measured",
    "measure_labels",
    "measure_segments",
    "measurements_to_csv",
    "measurements_to_json",
    "surface_mm2",
    "volume_text",
]
