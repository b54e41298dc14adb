"""The mean of several runs' weights, which is often better than each of them.

    python -m napari_medsam.training.mean_of_weights RUN/prompt_unet.safetensors ... --out mean.safetensors

The runs have to branch off a common start: see "model soups" (Wortsman et al. 2022,
https://arxiv.org/abs/2203.05482).
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file


def mean_of_weights(paths: Sequence[Path], out: Path) -> None:
    """Write the mean of weights as float16, with what made each of them in the header.

    Parameters
    ----------
    paths
        Files that `default_model.export` or this function wrote; each counts once.
    out
        The new file.

    Raises
    ------
    ValueError
        When two files are of different nets.
    """
    weights = [load_file(path) for path in paths]
    shapes = [{name: tensor.shape for name, tensor in each.items()} for each in weights]
    for path, each in zip(paths, shapes, strict=True):
        if each != shapes[0]:
            raise ValueError(
                f"{path} is of another net than {paths[0]}: only weights of one net have a mean."
            )
    made_by = []
    for path in paths:
        with safe_open(path, "pt") as file:
            made_by.append(json.loads((file.metadata() or {}).get("made by", "null")))
    means = {
        name: torch.stack([each[name].double() for each in weights]).mean(0).half() for name in weights[0]
    }
    save_file(means, out, metadata={"made by": json.dumps({"mean of": made_by})})


def main() -> None:
    """Read the arguments and do what they say."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("weights", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    try:
        mean_of_weights(options.weights, options.out)
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
