"""The models there are, as data.

Sizes and digests marked as third-party were published by others than the model's makers, in agreement with
one another; a download that does not match them is refused.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_DEVIATION = (58.395, 57.12, 57.375)
"""Of ImageNet's red, green and blue, 0 to 255."""

ALL_PROMPTS = frozenset({"box", "point", "mask"})
SAM_URL = "https://dl.fbaipublicfiles.com/segment_anything/"
SAM_DATA = "SA-1B: 11 million photographs, 1.1 billion masks, nothing medical"


class ModelError(ValueError):
    """A model that is unknown or cannot be loaded; the message is one sentence for the user."""


@dataclass(frozen=True)
class ModelSpec:
    """One model.

    Attributes
    ----------
    name
        What a user types.
    architecture
        Key of `napari_medsam.models.sam.VARIANTS`; empty for the default model.
    family
        Key of `napari_medsam.contracts.CONTRACTS`.
    file
        Name of the file with the weights.
    page
        Where a person reads about the weights and, where there is no `url`, fetches them by hand.
    licence
        SPDX name of the licence of the weights, or what is known of it.
    trained_on
        In a few words.
    supported_prompts
        Subset of ``{"box", "point", "mask"}`` that the weights were trained with.
    image_size
        Side of the square the net works on, in pixels.
    url
        Where a program fetches the file; empty where its makers offer a page for people only.
    size_bytes
        Of the file; 0 where it is not known.
    digest
        ``algorithm:hexadecimal`` of the file, with sha256, md5 or xxh128; empty where none is known.
    third_party
        Whether size and digest come from others than the model's makers.
    """

    name: str
    architecture: str
    family: str
    file: str
    page: str
    licence: str
    trained_on: str
    supported_prompts: frozenset[str]
    image_size: int
    url: str = ""
    size_bytes: int = 0
    digest: str = ""
    third_party: bool = True


_SPECS = (
    ModelSpec(
        name="default",
        architecture="",
        family="grey",
        file="prompt_unet.safetensors",
        page="",
        licence="BSD-3-Clause",
        trained_on="synthetic slices, SynthSeg label maps, four openly licensed MR scans",
        supported_prompts=ALL_PROMPTS,
        image_size=96,
        third_party=False,
    ),
    ModelSpec(
        name="sam_vit_b",
        architecture="vit_b",
        family="sam",
        file="sam_vit_b_01ec64.pth",
        page="https://github.com/facebookresearch/segment-anything",
        licence="Apache-2.0",
        trained_on=SAM_DATA,
        supported_prompts=ALL_PROMPTS,
        image_size=1024,
        url=SAM_URL + "sam_vit_b_01ec64.pth",
        size_bytes=375_042_383,
        digest="sha256:ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
    ),
    ModelSpec(
        name="sam_vit_l",
        architecture="vit_l",
        family="sam",
        file="sam_vit_l_0b3195.pth",
        page="https://github.com/facebookresearch/segment-anything",
        licence="Apache-2.0",
        trained_on=SAM_DATA,
        supported_prompts=ALL_PROMPTS,
        image_size=1024,
        url=SAM_URL + "sam_vit_l_0b3195.pth",
        size_bytes=1_249_524_607,
        digest="sha256:3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
    ),
    ModelSpec(
        name="sam_vit_h",
        architecture="vit_h",
        family="sam",
        file="sam_vit_h_4b8939.pth",
        page="https://github.com/facebookresearch/segment-anything",
        licence="Apache-2.0",
        trained_on=SAM_DATA,
        supported_prompts=ALL_PROMPTS,
        image_size=1024,
        url=SAM_URL + "sam_vit_h_4b8939.pth",
        size_bytes=2_564_550_879,
        digest="sha256:a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
    ),
    ModelSpec(
        name="medsam_vit_b",
        architecture="vit_b",
        family="medsam",
        file="medsam_vit_b.pth",
        page="https://zenodo.org/records/10689643",
        licence="CC-BY-4.0",
        trained_on="1.6 million medical image-mask pairs of ten modalities; boxes only",
        supported_prompts=frozenset({"box"}),
        image_size=1024,
        url="https://zenodo.org/records/10689643/files/medsam_vit_b.pth",
        size_bytes=375_049_145,
        digest="md5:3bb6db55bd0c9ca30b61248bca72f8d6",
    ),
    ModelSpec(
        name="mobile_sam",
        architecture="vit_t",
        family="sam",
        file="mobile_sam.pt",
        page="https://github.com/ChaoningZhang/MobileSAM",
        licence="Apache-2.0",
        trained_on="1 % of SA-1B, to imitate SAM's image encoder",
        supported_prompts=ALL_PROMPTS,
        image_size=1024,
        url="https://github.com/ChaoningZhang/MobileSAM/raw/master/weights/mobile_sam.pt",
        size_bytes=40_728_226,
        digest="sha256:6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f",
    ),
    ModelSpec(
        name="lite_medsam",
        architecture="lite_medsam",
        family="lite_medsam",
        file="lite_medsam.pth",
        page="https://drive.google.com/file/d/18Zed-TUTsmr2zc5CHUWd5Tu13nb6vq6z/view",
        licence="Apache-2.0",
        trained_on="medical image-mask pairs, to imitate MedSAM; boxes only",
        supported_prompts=frozenset({"box"}),
        image_size=256,
    ),
    ModelSpec(
        name="sam_med2d",
        architecture="sam_med2d",
        family="sam_med2d",
        file="sam-med2d_b.pth",
        page="https://drive.google.com/file/d/1ARiB5RkSsWmAB_8mqWnwDF8ZKTtFwsjl/view",
        licence="Apache-2.0",
        trained_on="4.6 million medical images, 19.7 million masks, of ten modalities",
        supported_prompts=ALL_PROMPTS,
        image_size=256,
    ),
    ModelSpec(
        name="medicosam_vit_b",
        architecture="vit_b",
        family="sam",
        file="vit_b_medical_imaging.pt",
        page="https://github.com/computational-cell-analytics/medico-sam",
        licence="not stated with the file: see its page",
        trained_on="medical slices of many modalities, with points, boxes and masks",
        supported_prompts=ALL_PROMPTS,
        image_size=1024,
        url="https://owncloud.gwdg.de/index.php/s/f5Ol4FrjPQWfjUF/download",
        digest="xxh128:40169f1e3c03a4b67bff58249c176d92",
        third_party=False,
    ),
)

MODELS: Mapping[str, ModelSpec] = MappingProxyType({spec.name: spec for spec in _SPECS})
"""By name; the first needs no download."""
