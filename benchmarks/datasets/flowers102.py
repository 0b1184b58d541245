"""Oxford Flowers-102: 8,189 photographs of flowers in 102 classes.

The data is by Nilsback and Zisserman 2008. This is the official split: 10 training images per class
(``trnid``, 1,020) and 6,149 test images (``tstid``); ``valid`` is not used.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from benchmarks.contracts import Dataset
from benchmarks.datasets.image_files import Files, find_folder
from benchmarks.datasets.reading import read_limited
from benchmarks.datasets.sources import Download, LocalCopy, RemoteFile, Source

_NAMES = """
pink_primrose hard_leaved_pocket_orchid canterbury_bells sweet_pea english_marigold tiger_lily
moon_orchid bird_of_paradise monkshood globe_thistle snapdragon colts_foot king_protea spear_thistle
yellow_iris globe_flower purple_coneflower peruvian_lily balloon_flower giant_white_arum_lily
fire_lily pincushion_flower fritillary red_ginger grape_hyacinth corn_poppy prince_of_wales_feathers
stemless_gentian artichoke sweet_william carnation garden_phlox love_in_the_mist mexican_aster
alpine_sea_holly ruby_lipped_cattleya cape_flower great_masterwort siam_tulip lenten_rose
barbeton_daisy daffodil sword_lily poinsettia bolero_deep_blue wallflower marigold buttercup
oxeye_daisy common_dandelion petunia wild_pansy primula sunflower pelargonium bishop_of_llandaff
gaura geranium orange_dahlia pink_yellow_dahlia cautleya_spicata japanese_anemone black_eyed_susan
silverbush californian_poppy osteospermum spring_crocus bearded_iris windflower tree_poppy gazania
azalea water_lily rose thorn_apple morning_glory passion_flower lotus toad_lily anthurium frangipani
clematis hibiscus columbine desert_rose tree_mallow magnolia cyclamen watercress canna_lily
hippeastrum bee_balm ball_moss foxglove bougainvillea camellia mallow mexican_petunia bromelia
blanket_flower trumpet_creeper blackberry_lily
"""
CLASS_NAMES = tuple(_NAMES.split())
"""The names of the authors' labels 1 to 102, as torchvision has them.

The files hold numbers only.
"""

FOLDER = "flowers-102"


def load(home: Path, root: Path | None = None) -> Dataset:
    """Open torchvision's layout below ``root``, or below ``home/data/flowers102``."""
    return read(root or home / "data" / "flowers102").as_dataset("flowers102")


def read(root: Path) -> Files:
    """Read labels and split; each partition is in the authors' order.

    Raises
    ------
    ValueError
        If a .mat file is not one, or the labels are not 1 to 102.
    """
    folder = find_folder(root, "setid.mat", FOLDER)
    labels = _read_mat(folder / "imagelabels.mat", "labels")["labels"] - 1
    ids = _read_mat(folder / "setid.mat", "trnid", "tstid")
    train, test = ids["trnid"], ids["tstid"]
    for name, values, highest in (
        ("labels", labels + 1, len(CLASS_NAMES)),
        ("trnid", train, len(labels)),
        ("tstid", test, len(labels)),
    ):
        if not len(values) or values.min() < 1 or values.max() > highest:
            raise ValueError(f"{name} of {folder} must lie in 1 to {highest}: copy the file again")
    if len(np.unique(np.concatenate([train, test]))) < len(train) + len(test):
        raise ValueError(f"setid.mat of {folder} names an image twice: copy the file again")
    first, second = (
        [(folder / "jpg" / f"image_{number:05}.jpg", int(labels[number - 1])) for number in part]
        for part in (train, test)
    )
    return Files.from_rows(root, first, second, CLASS_NAMES)


def _read_mat(path: Path, *names: str) -> dict[str, np.ndarray]:
    """Read whole numbers from a .mat file, each as (n,); ValueError if they are not there."""
    from scipy.io import loadmat

    content = read_limited(path, 2**24)
    try:
        found = loadmat(io.BytesIO(content), variable_names=names)
        arrays = {name: np.asarray(found[name]) for name in names}
    except Exception as error:  # the reader of damaged files raises almost anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ValueError(f"{path} cannot be read ({reason}): copy it again") from None
    for name, array in arrays.items():
        if array.dtype.kind not in "iuf" or not np.isfinite(array).all():
            raise ValueError(f"{name} of {path} holds no whole numbers: copy it again")
        if (array != np.floor(array)).any() or (np.abs(array) > 2**31).any():
            raise ValueError(f"{name} of {path} holds no whole numbers: copy it again")
    return {name: array.ravel().astype(int) for name, array in arrays.items()}


URL = "https://www.robots.ox.ac.uk/~vgg/data/flowers/102"
SOURCES: dict[str, Source] = {
    "local": LocalCopy(
        read, f"{FOLDER}/ (jpg/image_00001.jpg to image_08189.jpg, imagelabels.mat, setid.mat)"
    ),
    "torchvision": Download(
        read,
        (
            RemoteFile(
                f"{URL}/setid.mat", "a5357ecc9cb78c4bef273ce3793fc85c", f"{FOLDER}/setid.mat"
            ),
            RemoteFile(
                f"{URL}/imagelabels.mat",
                "e0620be6f572b9609742df49c70aed4d",
                f"{FOLDER}/imagelabels.mat",
            ),
            RemoteFile(
                f"{URL}/102flowers.tgz",
                "52808999861908f626f3c1f4e79d11fa",
                f"{FOLDER}/102flowers.tgz",
                unpack=True,
            ),
        ),
    ),
}
"""In the order in which `benchmarks.fetch` tries them."""
