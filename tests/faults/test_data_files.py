"""Damaged files of data sets: the same content, another fingerprint where nothing can tell, or one
line that names the file.

What has checksums or a pinned digest gives the same content or a refusal. The authors' lists of
labels have neither; what is read from an altered one is another data set, with another fingerprint.
"""

import os
import pickle

import numpy as np
import pytest
from miniature import cifar_arrays, fashion_arrays, pin, store, write_cifar_pickles, write_idx_files
from miniature_files import dior_objects, write_cub, write_dior, write_flowers, write_wbc
from mutations import damaged, judge, tally_of, try_damaged

from benchmarks.contracts import MissingDataError, UsageError
from benchmarks.datasets import cifar10, cub200, dior, fashion_mnist, flowers102, load_dataset, wbc

TRIES = int(os.environ.get("DN2_FAULT_TRIES", "2000"))
FEW = 12
ORDER = [pytest.param(FEW), pytest.param(TRIES, marks=pytest.mark.slow)]
REFUSALS = (MissingDataError, UsageError, ValueError, OSError)

npz_arrays = {
    "train_images": np.arange(6 * 8 * 9, dtype=np.uint8).reshape(6, 8, 9),
    "train_labels": np.arange(6) % 2,
    "test_images": np.arange(4 * 8 * 9, dtype=np.uint8).reshape(4, 8, 9)[:, ::-1],
    "test_labels": np.arange(4) % 2,
}


def same_dataset(whole):
    """Tell whether a data set has the content of another, to the last bit."""

    def is_same(found):
        return (
            found.class_names == whole.class_names
            and np.array_equal(found.labels, whole.labels)
            and found.is_train.dtype == bool
            and np.array_equal(found.is_train, whole.is_train)
            and np.asarray(found.images[:]).dtype == np.uint8
            and np.array_equal(found.images[:], whole.images[:])
        )

    return is_same


@pytest.mark.filterwarnings("ignore:.*not used")
@pytest.mark.parametrize("tries", ORDER)
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz(save, tries, tmp_path):
    path = tmp_path / "mine.npz"
    save(path, **npz_arrays)
    read = lambda: load_dataset(f"npz:{path}", home=tmp_path)  # noqa: E731
    is_same = same_dataset(read())
    try_damaged(save.__name__, path, read, is_same, (MissingDataError,), tries=tries)


@pytest.mark.parametrize("tries", ORDER)
@pytest.mark.parametrize("name", ["images.npy", "labels.npy", "is_train.npy", "images.sha256"])
def test_stored_arrays(name, tries, tmp_path, monkeypatch):
    arrays = fashion_arrays()
    pin(monkeypatch, "fashion_mnist", arrays)
    path = store(tmp_path, "fashion_mnist", arrays) / name
    read = lambda: load_dataset("fashion_mnist", home=tmp_path)  # noqa: E731
    is_same = same_dataset(read())
    try_damaged(f"stored {name}", path, read, is_same, (MissingDataError,), tries=tries)


@pytest.mark.parametrize("tries", ORDER)
@pytest.mark.parametrize("gzipped", [False, True])
@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
def test_idx(name, gzipped, tries, tmp_path, monkeypatch):
    arrays = fashion_arrays()
    pin(monkeypatch, "fashion_mnist", arrays)
    folder = tmp_path / fashion_mnist.FOLDER
    write_idx_files(folder, arrays, gzipped=gzipped)
    path = folder / (f"{name}.gz" if gzipped else name)
    read = lambda: load_dataset("fashion_mnist", home=tmp_path, root=tmp_path)  # noqa: E731
    is_same = same_dataset(read())
    try_damaged(f"idx {'gz' * gzipped}", path, read, is_same, (MissingDataError,), tries=tries)


@pytest.mark.parametrize("tries", ORDER)
def test_cifar_pickles(tries, tmp_path, monkeypatch):
    arrays = cifar_arrays()
    pin(monkeypatch, "cifar10", arrays)
    monkeypatch.setattr(cifar10, "BATCHES", write_cifar_pickles(tmp_path, arrays))
    path = tmp_path / cifar10.FOLDER / "data_batch_3"
    whole, opened = path.read_bytes(), pickle.loads
    official = {(tmp_path / cifar10.FOLDER / name).read_bytes() for name in cifar10.BATCHES}

    def loads(content, **options):
        assert content in official, "a damaged pickle was opened"
        return opened(content, **options)

    monkeypatch.setattr(pickle, "loads", loads)
    read = lambda: load_dataset("cifar10", home=tmp_path, root=tmp_path)  # noqa: E731
    is_same = same_dataset(read())
    names = path.name
    refusals = (MissingDataError,)
    try_damaged("cifar pickle", path, read, is_same, refusals, tries=tries, names=names)
    assert path.read_bytes() == whole


LISTS = {
    "wbc csv": (write_wbc, wbc.read, wbc.LABELS, True),
    "cub images": (write_cub, cub200.read, "CUB_200_2011/images.txt", True),
    "cub labels": (write_cub, cub200.read, "CUB_200_2011/image_class_labels.txt", True),
    "cub split": (write_cub, cub200.read, "CUB_200_2011/train_test_split.txt", True),
    "flowers labels": (write_flowers, flowers102.read, "flowers-102/imagelabels.mat", False),
    "flowers split": (write_flowers, flowers102.read, "flowers-102/setid.mat", False),
    "dior xml": (None, dior.read, f"{dior.ANNOTATIONS}/00001.xml", True),
    "dior list": (None, dior.read, "ImageSets/Main/train.txt", True),
}
"""Format -> who writes the data set, who reads it, the file, whether it is read by lines."""


@pytest.fixture(scope="module", params=LISTS)
def listed(request, tmp_path_factory):
    write, read, name, lines = LISTS[request.param]
    root = tmp_path_factory.mktemp("listed")
    if write is None:
        write_dior(root, dior_objects(4))
    else:
        write(root)
    return request.param, root, read, root / name, lines


@pytest.mark.parametrize("tries", ORDER)
def test_lists_of_authors(listed, tries, monkeypatch):
    format_name, root, read, path, lines = listed
    monkeypatch.setattr(dior, "MORE_THAN", 2)
    whole = read(root)

    def identity(files):
        boxes = None if files.images.boxes is None else files.images.boxes.tolist()
        return list(files.images.paths), boxes, files.labels.tolist(), files.is_train.tolist()

    def is_same_or_another(files):
        """Tell whether content differs only where the fingerprint does, so that nothing mixes."""
        if identity(files) == identity(whole) and files.class_names == whole.class_names:
            return True
        missing = [one for one in files.images.paths if not one.is_file()]
        if missing:  # the fingerprint cannot be made, and says so
            with pytest.raises(OSError, match=r"No such file|cannot be read|too long"):
                _ = files.fingerprint
            return True
        known = (whole.fingerprint, whole.class_names)
        return (files.fingerprint, files.class_names) != known

    refusals = (ValueError, OSError)
    try_damaged(
        format_name,
        path,
        lambda: read(root),
        is_same_or_another,
        refusals,
        tries=tries,
        lines=lines,
    )


@pytest.mark.parametrize("tries", ORDER)
def test_the_archive_of_cifar(tries, tmp_path, monkeypatch):
    from miniature import write_cifar_archive

    arrays = cifar_arrays()
    pin(monkeypatch, "cifar10", arrays)
    monkeypatch.setattr(cifar10, "BATCHES", write_cifar_pickles(tmp_path, arrays))
    write_cifar_archive(tmp_path)
    path = tmp_path / cifar10.ARCHIVE
    read = lambda: load_dataset("cifar10", home=tmp_path, root=tmp_path)  # noqa: E731
    is_same = same_dataset(read())
    try_damaged("cifar archive", path, read, is_same, (MissingDataError,), tries=tries)


def header(descr="'|u1'", shape="(6, 8, 9)", more="'fortran_order': False, "):
    text = f"{{'descr': {descr}, {more}'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\1\0" + len(text).to_bytes(2, "little") + text.encode()


HEADERS = {
    "huge": header(shape="(6, 999999999, 999999999)"),
    "overflowing": header(shape="(6, 4294967296, 4294967296)"),
    "negative": header(shape="(6, -8, -9)"),
    "a float": header(shape="(6.0, 8, 9)"),
    "true": header(shape="(True, 8, 9)"),
    "no tuple": header(shape="432"),
    "code": header(shape="__import__('os').getcwd()"),
    "deep": header(shape="(" * 40 + "6" + ",)" * 40),
    "objects": header(descr="'|O'"),
    "fields": header(descr="[('a', '|u1')]"),
    "dates": header(descr="'<M8[ns]'"),
    "no such type": header(descr="'<u3'"),
    "no order": header(more=""),
    "cut": header()[:60],
    "other version": header().replace(b"NUMPY\1", b"NUMPY\7"),
    "other labels": header(shape="(7, 8, 9)"),
    "too much data": header(shape="(6, 8, 8)"),
}


@pytest.mark.parametrize("what", HEADERS)
def test_headers_that_lie_are_refused_before_anything_is_inflated(what, tmp_path, monkeypatch):
    import zipfile

    from benchmarks.datasets import npz

    path = tmp_path / "mine.npz"
    np.savez(path, **npz_arrays)
    with zipfile.ZipFile(path) as archive:
        members = {info: archive.read(info) for info in archive.namelist()}
    members["train_images.npy"] = HEADERS[what] + bytes(432)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    monkeypatch.setattr(npz, "read_into", lambda *_: pytest.fail("inflated"))
    read = lambda: load_dataset(f"npz:{path}", home=tmp_path)  # noqa: E731
    assert judge(read, lambda _: False, (MissingDataError,), "train_images") == "refused"


def test_a_password_and_other_compressions_are_one_line(tmp_path):
    import zipfile

    path = tmp_path / "mine.npz"
    for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA, zipfile.ZIP_STORED):
        np.savez(path, **npz_arrays)
        with zipfile.ZipFile(path) as archive:
            members = {info: archive.read(info) for info in archive.namelist()}
        with zipfile.ZipFile(path, "w", method) as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        if method == zipfile.ZIP_STORED:
            content = bytearray(path.read_bytes())
            at = content.find(b"PK\1\2")
            content[at + 8] |= 1  # the flag that there is a password
            path.write_bytes(content)
        word = "has a password" if method == zipfile.ZIP_STORED else "is compressed by method"
        with pytest.raises(
            MissingDataError, match=rf"train_images of .*mine\.npz {word}"
        ) as caught:
            load_dataset(f"npz:{path}", home=tmp_path)
        assert "\n" not in str(caught.value)


def test_arrays_beyond_the_free_memory_are_not_inflated(tmp_path, monkeypatch):
    from benchmarks.datasets import npz

    path = tmp_path / "mine.npz"
    np.savez_compressed(path, **npz_arrays)
    monkeypatch.setattr(npz, "_free_memory", lambda: 1000.0)
    monkeypatch.setattr(npz, "read_into", lambda *_: pytest.fail("inflated"))
    with pytest.raises(MissingDataError, match=r"more than half of the .* GB of memory"):
        load_dataset(f"npz:{path}", home=tmp_path)


def test_a_bomb_of_entities_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(dior, "MORE_THAN", 2)
    write_dior(tmp_path, dior_objects(4))
    path = tmp_path / dior.ANNOTATIONS / "00001.xml"
    text = path.read_text()
    bomb = '<!DOCTYPE b [<!ENTITY a "' + "x" * 1000 + '">]>'
    for content in (bomb + text, (bomb + text).encode("utf-16")):
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        with pytest.raises(ValueError, match=r"00001\.xml cannot be read \(it declares a document"):
            dior.read(tmp_path)


def test_a_try_is_found_again_by_its_number():
    content = bytes(range(256))
    assert damaged(content, 0, 5) == damaged(content, 0, 5)
    assert tally_of("no format").tries == 0
