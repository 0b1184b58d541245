"""Measure how much decoding JPEGs at a reduced size changes scores, beside another interpolation.

    python speed/reduced.py FOLDER [--encoder efficientnet_lite0] [--k 5]

FOLDER has photographs, of any depth; JPEGs that would not be decoded at a reduced size are passed
over, and so are copies. Each is scored against all others by DN2, with `normalize=power`, after
every image was prepared in one way:

    whole      decoded whole, bilinear
    reduced    decoded at a half, a quarter or an eighth, bilinear: what `dn2` does
    bicubic    decoded whole, bicubic
    lanczos    decoded whole, Lanczos

Printed is how much the score differs from that of `whole`, relative to it. With ``--new`` the bank
stays as `whole` makes it, and only the image that is scored is prepared otherwise.
"""

import argparse
import io
from pathlib import Path

import numpy as np
from PIL import Image

from dn2.crops import DECODED_SIDE, read_crop
from dn2.features import Encoder
from dn2.images import decode_image
from dn2.search import Bank, leave_out
from dn2.squares import CROP, crop_offset, resized_size

FILTERS = {
    "whole": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def is_reduced(content: bytes) -> bool:
    """Whether a file is a JPEG that `dn2` decodes at a reduced size."""
    with Image.open(io.BytesIO(content)) as image:
        size = image.size
        image.draft(None, (DECODED_SIDE, DECODED_SIDE))
        return image.size != size


def prepare(content: bytes) -> dict[str, np.ndarray]:
    """Make an image's crop in each way."""
    image = Image.fromarray(decode_image(content, "image")).convert("RGB")
    height, width = resized_size(image.height, image.width)
    top, left = crop_offset(height), crop_offset(width)
    box = (left, top, left + CROP, top + CROP)
    ways = {
        name: np.asarray(image.resize((width, height), way).crop(box))
        for name, way in FILTERS.items()
    }
    return {**ways, "reduced": read_crop(content)}


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--encoder", default="efficientnet_lite0")
    parser.add_argument("--k", type=int, default=5)
    parser.add_argument("--new", action="store_true", help="prepare the bank as `whole` does")
    arguments = parser.parse_args()

    crops: dict[bytes, dict[str, np.ndarray]] = {}
    pixels = []
    for path in sorted(arguments.folder.rglob("*.[jJ][pP]*[gG]")):
        content = path.read_bytes()
        if path.is_symlink() or content in crops or not is_reduced(content):
            continue
        crops[content] = prepare(content)
        with Image.open(path) as image:
            pixels.append(image.width * image.height / 1e6)
    encoder = Encoder(arguments.encoder, normalize="power")
    made = list(crops.values())
    features = {way: encoder.transform([crop[way] for crop in made]) for way in made[0]}
    banks = {way: Bank(rows) for way, rows in features.items()}
    own = np.arange(len(made))

    def score(way: str) -> np.ndarray:
        bank = banks["whole" if arguments.new else way]
        found = bank.nearest(features[way], len(made))  # all: an image's own row is among them
        return leave_out(*found, own)[0][:, : arguments.k].mean(axis=1)

    whole = score("whole")
    changes = {way: np.abs(score(way) - whole) / whole for way in ("reduced", "bicubic", "lanczos")}
    print(
        f"{len(made)} photographs of {min(pixels):.1f} to {max(pixels):.1f} megapixels, median "
        f"{np.median(pixels):.1f}; {arguments.encoder}, k = {arguments.k}"
    )
    print("| way | mean change of the score | median | 90th percentile | largest |")
    print("|---|---:|---:|---:|---:|")
    for way, change in changes.items():
        numbers = (change.mean(), np.median(change), np.quantile(change, 0.9), change.max())
        print(f"| {way} | " + " | ".join(f"{100 * number:.2f} %" for number in numbers) + " |")
    less = changes["reduced"] < changes["bicubic"]
    print(f"reduced changes less than bicubic for {less.sum()} of {len(less)}")


if __name__ == "__main__":
    main()
