"""If these fail, the default model learns from scans that no scanner makes."""

import torch

from napari_medsam.training.contrasts import BRAIN_TISSUES, LESION, UNUSED, brain_means, tissue_means
from napari_medsam.training.shapes import BLOOD, CLASSES, FAT, MUSCLE, ORGAN, Draw

FLUID, WHITE, CORTEX = 1, 2, 4


def draw(n):
    return Draw(n, torch.Generator().manual_seed(0))


def test_lesions_are_the_brightest_on_flair_and_fluid_is_on_t2():
    means = brain_means(draw(300))[:, : len(BRAIN_TISSUES)]
    t1 = means[:, WHITE] > means[:, CORTEX]
    t2 = means[:, FLUID] > 0.7
    flair = ~t1 & ~t2
    assert min(int(part.sum()) for part in (t1, t2, flair)) > 60
    assert set(means[flair].argmax(1).tolist()) == {LESION}
    assert set(means[t2].argmax(1).tolist()) <= {LESION, FLUID}
    assert set(means[t1].argmax(1).tolist()) <= {WHITE, 3}


def test_what_no_sequence_names_is_as_bright_in_one_as_in_another():
    means = brain_means(draw(300))[:, UNUSED:]
    assert float(means.min()) < 0.05
    assert float(means.max()) > 0.95


def test_in_mr_the_heart_has_a_dark_wall_around_bright_blood_in_some_and_fat_is_bright_in_all():
    means = tissue_means(draw(300), mr=1)
    assert means.shape == (300, CLASSES)
    assert bool((means[:, FAT] > means[:, MUSCLE]).all())
    bright_blood = means[:, BLOOD] > means[:, ORGAN] + 0.3
    assert 60 < int(bright_blood.sum()) < 140


def test_without_mr_half_of_the_trunks_are_as_on_ct():
    means = tissue_means(draw(300), mr=0)
    ct = (means[:, 0] < 0.05) & (means[:, FAT] < means[:, MUSCLE] + 0.1)
    assert 130 < int(ct.sum()) < 200
