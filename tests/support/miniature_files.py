"""Small data sets as image files, in the exact layouts in which their authors publish them."""

import hashlib
import pickle
from dataclasses import replace

import numpy as np
from PIL import Image

from benchmarks.datasets import DATASETS, cifar100_coarse

WBC_COUNTS = {1: 176, 2: 53, 3: 48, 4: 22, 5: 1}
CUB_NAMES = [
    f"{number:03}.{'Black_footed' if number == 1 else 'Some'}_Bird_{number}"
    for number in range(1, 201)
]


def picture(seed, shape=(8, 9, 3)):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def set_counts(monkeypatch, name, n_train, n_test, digest=""):
    """Make a data set of these numbers of images the official one."""
    monkeypatch.setitem(
        DATASETS, name, replace(DATASETS[name], n_train=n_train, n_test=n_test, digest=digest)
    )


def write_cifar100(root, *, coarse=None):
    """Write 200 training images, two of each fine class, and 100 test images.

    Returns the MD5 sums.
    """
    folder = root / cifar100_coarse.FOLDER
    folder.mkdir(parents=True)
    md5 = {}
    for name, n in (("train", 200), ("test", 100)):
        fine = (np.arange(n) * 7 % 100).tolist()
        labels = cifar100_coarse.FINE_TO_COARSE[fine].tolist() if coarse is None else coarse(fine)
        data = picture(n, (n, 3072))
        batch = {
            "filenames": [],
            "batch_label": name,
            "fine_labels": fine,
            "coarse_labels": labels,
            "data": data,
        }
        content = pickle.dumps(batch, protocol=2)
        (folder / name).write_bytes(content)
        md5[name] = hashlib.md5(content).hexdigest()
    return md5


def write_flowers(root, folder="flowers-102"):
    """Write ten images per class for training, one for validation and one for test.

    The numbers are shuffled. Returns the labels, which start at 1, and the parts.
    """
    from scipy.io import savemat

    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(1, 103), 12))
    rank = np.zeros(len(labels), int)
    for label in range(1, 103):
        rank[labels == label] = np.arange(12)
    ids = np.arange(1, len(labels) + 1)
    folder = root / folder
    for number in ids:
        save(folder / "jpg" / f"image_{number:05}.jpg", picture(number, (5, 4 + number % 3, 3)))
    savemat(folder / "imagelabels.mat", {"labels": labels.astype(np.uint8)[None]})
    parts = {"trnid": ids[rank < 10], "valid": ids[rank == 10], "tstid": ids[rank == 11]}
    savemat(
        folder / "setid.mat", {name: part.astype(np.uint16)[None] for name, part in parts.items()}
    )
    return labels, parts


def write_cub(root, n=400):
    """Write two images of each class, one of which trains.

    The numbers of the images are not in the order of the lines.
    """
    folder = root / "CUB_200_2011"
    lines = {"images": [], "image_class_labels": [], "train_test_split": []}
    for number in range(n, 0, -1):
        label = (number - 1) % 200 + 1
        name = f"{CUB_NAMES[label - 1]}/Bird_{number:04}_{number * 13}.jpg"
        save(folder / "images" / name, picture(number, (6, 5, 3)))
        lines["images"].append(f"{number} {name}")
        lines["image_class_labels"].append(f"{number} {label}")
        lines["train_test_split"].append(f"{number} {int(number <= 200)}")
    lines["classes"] = [f"{number} {name}" for number, name in enumerate(CUB_NAMES, 1)]
    for name, text in lines.items():
        (folder / f"{name}.txt").write_text("\n".join(text) + "\n")
    return folder


def write_asirra(root, numbers=(0, 2, 10, 666, 9999, 10000, 11702, 12499)):
    """Write numbered cats and dogs.

    A Thumbs.db lies among the images; Cat/666.jpg and Dog/11702.jpg are empty, as released.
    """
    for name in ("Cat", "Dog"):
        for number in numbers:
            save(root / "PetImages" / name / f"{number}.jpg", picture(number, (7, 6, 3)))
        (root / "PetImages" / name / "Thumbs.db").write_bytes(b"\xd0\xcf")
    (root / "PetImages" / "Cat" / "666.jpg").write_bytes(b"")
    (root / "PetImages" / "Dog" / "11702.jpg").write_bytes(b"")


def voc(name, objects):
    boxes = "".join(
        f"<object><name>{label}</name><pose>Unspecified</pose><bndbox>"
        f"<xmin>{box[0]}</xmin><ymin>{box[1]}</ymin>"
        f"<xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox></object>"
        for label, box in objects
    )
    return (
        f"<annotation><filename>{name}.jpg</filename>"
        f"<size><width>300</width><height>280</height></size>{boxes}</annotation>"
    )


def write_dior(root, objects):
    """Write annotated images.

    ``objects`` maps each part to one list of (class, box) per image. The images are PNG inside,
    which keeps every pixel.
    """
    (root / "ImageSets" / "Main").mkdir(parents=True)
    (root / "Annotations" / "Horizontal Bounding Boxes").mkdir(parents=True)
    number = 0
    for part, images in objects.items():
        names = []
        for found in images:
            number += 1
            names.append(f"{number:05}")
            place = (
                root
                / ("JPEGImages-test" if part == "test" else "JPEGImages-trainval")
                / f"{names[-1]}.jpg"
            )
            save(place, picture(number, (280, 300, 3)), format="PNG", compress_level=0)
            annotation = root / "Annotations" / "Horizontal Bounding Boxes" / f"{names[-1]}.xml"
            annotation.write_text(voc(names[-1], found))
        (root / "ImageSets" / "Main" / f"{part}.txt").write_text("\n".join(names) + "\n")


def dior_objects(n=20):
    """List 20 classes with 2 training boxes and 1 test box each.

    One more class is too small everywhere.
    """
    labels = [f"Class-{letter}" for letter in "ABCDEFGHIJKLMNOPQRST"[:n]]
    large = [(label, (1, 2, 121 + position, 122)) for position, label in enumerate(labels)]
    return {"train": [large, [("tiny", (0, 0, 119, 200))]], "val": [large], "test": [large]}


def write_wbc(root):
    """Write 300 images, labelled in a mixed order; return the labels by number."""
    labels = np.random.default_rng(0).permutation(
        np.repeat(list(WBC_COUNTS), list(WBC_COUNTS.values()))
    )
    for number in range(1, 301):
        save(root / "Dataset 1" / f"{number:03}.bmp", picture(number, (6, 5 + number % 2, 3)))
    rows = "".join(f"{number},{label}\r\n" for number, label in enumerate(labels, 1))
    (root / "Class Labels of Dataset 1.csv").write_bytes(f"image ID,class label\r\n{rows}".encode())
    return dict(enumerate(labels.tolist(), 1))


def write_tree(root, counts, shape=(5, 6, 3)):
    """Write folders of images; ``counts`` maps "train/cat" to a number of images."""
    for number, (folder, n) in enumerate(counts.items()):
        (root / folder).mkdir(parents=True, exist_ok=True)
        for row in range(n):
            save(root / folder / f"{row}.png", picture(100 * number + row, shape))
    return root


def write_named(name, home, monkeypatch):
    """Put a small data set of the table into ``home/data/<name>``.

    Its counts become the official ones.
    """
    from benchmarks.datasets import cats_vs_dogs, cub200, dior, flowers102, wbc

    root = home / "data" / name
    monkeypatch.setattr(dior, "MORE_THAN", 2)
    write, read = {
        "flowers102": (write_flowers, flowers102.read),
        "cub200": (write_cub, cub200.read),
        "cats_vs_dogs": (write_asirra, cats_vs_dogs.read),
        "dior": (lambda root: write_dior(root, dior_objects()), dior.read),
        "wbc": (write_wbc, wbc.read),
    }[name]
    write(root)
    files = read(root)
    n_train = int(files.is_train.sum())
    set_counts(
        monkeypatch,
        name,
        n_train,
        len(files.labels) - n_train,
        files.fingerprint if DATASETS[name].digest else "",
    )
    return root
