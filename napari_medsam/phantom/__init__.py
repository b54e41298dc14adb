"""Synthetic patients: a CT torso and an MR brain with exact labels, made from a seed by numpy alone.

They let a machine without any patient data run the demo, the tests and the documentation. Organs are smooth
closed shapes at plausible places, with plausible Hounsfield units (portal venous CT) or T1-weighted signal
(MR), partial volume at every boundary, texture, noise, anisotropic voxels and a slightly oblique direction.
They are pictures to try the tools on, not anatomy to learn from, and no model of this package is trained on
them.
"""

from napari_medsam.phantom.brain import MR_NAMES, mr_brain
from napari_medsam.phantom.scene import Phantom, PhantomError
from napari_medsam.phantom.torso import CT_NAMES, ct_torso

__all__ = ["CT_NAMES", "MR_NAMES", "Phantom", "PhantomError", "ct_torso", "mr_brain"]
