"""The way of one case, from an image file and boxes to label map, scores and picture."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from napari_medsam import tasks
from napari_medsam.demo.overview import draw_overview
from napari_medsam.metrics import dice, volume_ml
from napari_medsam.phantom import Phantom, ct_torso
from napari_medsam.prompts import ObjectPrompts, SliceIndex, SlicePrompts, box_from_mask, prompts_to_json
from napari_medsam.windowing import default_window

if TYPE_CHECKING:
    from napari_medsam.predictor import SlicePredictor
    from napari_medsam.volume import Volume

AXIAL = 0
BOX_MARGIN_PX = 2.0


@dataclass(frozen=True)
class OrganScore:
    """What came of one box.

    Attributes
    ----------
    label, name
        Number and name of the organ.
    dice : float
        3D Dice against the true labels.
    found_ml, true_ml : float
        Volumes.
    seconds : float
        From the box to the last slice.
    """

    label: int
    name: str
    dice: float
    found_ml: float
    true_ml: float
    seconds: float


@dataclass(frozen=True, eq=False)
class DemoResult:
    """Scores, and the files that the demo wrote.

    Attributes
    ----------
    organs : tuple of OrganScore
        In the order in which they were segmented: small ones first.
    image, reference, segmentation : Path
        The CT, its true labels and what was found, NIfTI.
    sidecars : tuple of Path
        Names and description beside both label maps, after BIDS.
    prompts : Path
        The boxes, as ``napari-medsam segment --prompts`` takes them.
    picture : Path
        An overview, PNG.
    seconds : float
        For all boxes together.
    """

    organs: tuple[OrganScore, ...]
    image: Path
    reference: Path
    segmentation: Path
    sidecars: tuple[Path, ...]
    prompts: Path
    picture: Path
    seconds: float

    @property
    def files(self) -> tuple[Path, ...]:
        """Everything that was written."""
        return (self.image, self.reference, self.segmentation, *self.sidecars, self.prompts, self.picture)

    @property
    def mean_dice(self) -> float:
        """Mean of the organs' 3D Dice."""
        return float(np.mean([organ.dice for organ in self.organs]))


def run_demo(
    folder: Path,
    predictor: SlicePredictor,
    *,
    seed: int = 0,
    shape: tuple[int, int, int] = (64, 192, 192),
    on_progress: Callable[[str, int], None] | None = None,
) -> DemoResult:
    """Make a CT phantom, segment every organ from one box, and write images, labels, prompts and a picture.

    Parameters
    ----------
    folder : Path
        Where to write; made if it is not there, files of an earlier demo are replaced.
    predictor : SlicePredictor
        Segments the slices.
    seed : int
        Which patient.
    shape : tuple of int
        Voxels (z, y, x) of the phantom.
    on_progress : callable
        Told the name of the organ at hand and the number of slices done in all, after every slice.

    Returns
    -------
    DemoResult

    Raises
    ------
    PhantomError
        When there is no such phantom.
    VolumeError, OSError
        When the folder cannot be written to; each file of an earlier demo stays whole.
    """
    from napari_medsam.export import Segmentation, write_segmentation
    from napari_medsam.formats.common import replacing, told
    from napari_medsam.session import Session
    from napari_medsam.session_file import Snapshot, session_path, session_to_json, write_session

    def write(labels: NDArray, name: str) -> list[Path]:
        named = Segmentation.from_labels(labels, volume.geometry, names=phantom.names)
        return write_segmentation(named, folder / name, sources=[image.name])

    phantom = ct_torso(seed, shape)
    volume = phantom.volume
    objects = one_box_each(phantom)
    folder.mkdir(parents=True, exist_ok=True)
    image = _write_image(volume, folder / "ct.nii.gz")
    reference, *beside = write(phantom.labels, "reference.nii.gz")
    prompts = folder / "prompts.json"
    with told(prompts, "written"), replacing(prompts, ".json") as temporary:
        temporary.write_text(prompts_to_json(objects, volume.geometry), encoding="utf-8")

    window = default_window(volume)
    session = Session(volume, predictor, window=window, model_name="default")
    seconds: dict[int, float] = {}
    slices_done = 0
    for thing in objects:
        started = time.perf_counter()
        for where, drawn in thing.slices.items():
            session.add_prompts(thing.label, where, drawn, thing.name)
        action = tasks.carry(session, AXIAL, [thing.label], 0, volume.geometry.shape[AXIAL] - 1)
        for _ in tasks.run(session, action):
            slices_done += 1
            if on_progress is not None:
                on_progress(thing.name, slices_done)
        seconds[thing.label] = time.perf_counter() - started

    organs = tuple(_score(thing, phantom, session.labels, seconds[thing.label]) for thing in objects)
    segmentation, *more = write(session.labels, "segmentation.nii.gz")
    more.append(write_session(session_to_json(Snapshot.of(session)), session_path(segmentation)))
    picture = folder / "overview.png"
    scores = {organ.label: organ.dice for organ in organs}
    drawn_organs = draw_overview(volume, session.labels, objects, scores, window=window)
    with told(picture, "written"), replacing(picture, ".png") as temporary:
        drawn_organs.save(temporary, optimize=True)
    return DemoResult(
        organs,
        image,
        reference,
        segmentation,
        (*beside, *more),
        prompts,
        picture,
        sum(seconds.values()),
    )


def one_box_each(phantom: Phantom) -> list[ObjectPrompts]:
    """One box for every organ, a little wider than it, on the axial slice where it is largest.

    Small organs come first: a mask does not overwrite another, so what lies inside an organ keeps its voxels.
    """
    sizes = np.bincount(phantom.labels.ravel(), minlength=max(phantom.names) + 1)
    objects = []
    for label in sorted(phantom.names, key=lambda label: sizes[label]):
        mask = phantom.labels == label
        where = SliceIndex(AXIAL, int(mask.sum(axis=(1, 2)).argmax()))
        box = box_from_mask(where.take(mask), BOX_MARGIN_PX)
        objects.append(ObjectPrompts(label, phantom.names[label], {where: SlicePrompts(box)}))
    return objects


def _score(thing: ObjectPrompts, phantom: Phantom, labels: NDArray, seconds: float) -> OrganScore:
    truth, found = phantom.labels == thing.label, labels == thing.label
    spacing = phantom.volume.geometry.spacing
    return OrganScore(
        label=thing.label,
        name=thing.name,
        dice=dice(truth, found),
        found_ml=volume_ml(found, spacing),
        true_ml=volume_ml(truth, spacing),
        seconds=seconds,
    )


def _write_image(volume: Volume, path: Path) -> Path:
    """Write a CT as NIfTI, complete or not at all."""
    from napari_medsam.formats.common import replacing, told
    from napari_medsam.formats.nifti import write_nifti

    with told(path, "written"), replacing(path, ".nii.gz") as temporary:
        write_nifti(volume.array, volume.geometry, temporary)
    return path
