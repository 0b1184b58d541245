"""Fetching data sets of image files: linked, or downloaded and unpacked; all or nothing."""

import hashlib
import shutil
import subprocess
import sys
import tarfile
from dataclasses import replace

import numpy as np
import pytest
from loopback import ROOT
from miniature_files import set_counts, write_asirra, write_cub, write_flowers, write_tree

from benchmarks.contracts import MissingDataError
from benchmarks.datasets import flowers102, is_on_disk, load_dataset
from benchmarks.fetch import fetch_dataset


@pytest.fixture
def flowers(tmp_path, monkeypatch, site):
    """Serve a small Flowers-102 as its authors do: an archive of `jpg/`, and two .mat files."""
    write_flowers(tmp_path / "served", folder=".")
    with tarfile.open(tmp_path / "served" / "102flowers.tgz", "w:gz") as archive:
        archive.add(tmp_path / "served" / "jpg", "jpg")
    files = []
    for file in flowers102.SOURCES["torchvision"].files:
        content = (tmp_path / "served" / file.url.rpartition("/")[2]).read_bytes()
        name = f"/{file.url.rpartition('/')[2]}"
        site.pages[name] = content
        files.append(replace(file, url=site.url + name[1:], md5=hashlib.md5(content).hexdigest()))
    monkeypatch.setitem(
        flowers102.SOURCES,
        "torchvision",
        replace(flowers102.SOURCES["torchvision"], files=tuple(files)),
    )
    set_counts(monkeypatch, "flowers102", 1020, 102)
    return site


def test_flowers_are_downloaded_and_unpacked(flowers, tmp_path):
    home = tmp_path / "home"
    assert not is_on_disk("flowers102", home=home)
    assert fetch_dataset("flowers102", home=home) == "torchvision"
    assert is_on_disk("flowers102", home=home)
    folder = home / "data" / "flowers102"
    assert sorted(path.name for path in (folder / "flowers-102").iterdir()) == [
        "imagelabels.mat",
        "jpg",
        "setid.mat",
    ]
    ours = load_dataset("flowers102", home=home)
    assert ours.fingerprint == flowers102.read(tmp_path / "served").fingerprint
    assert len(flowers.asked) == 3
    assert fetch_dataset("flowers102", home=home) == "stored"
    assert len(flowers.asked) == 3
    assert not list((home / "data").glob(".*.tmp-*"))


@pytest.mark.parametrize("damage", ["md5", "lists", "path"])
def test_a_bad_download_leaves_nothing_that_passes_for_complete(
    damage, flowers, tmp_path, monkeypatch
):
    if damage == "md5":
        flowers.pages["/102flowers.tgz"] += b"x"
    elif damage == "lists":
        set_counts(monkeypatch, "flowers102", 1020, 6149)
    else:
        with tarfile.open(tmp_path / "evil.tgz", "w:gz") as archive:
            archive.add(tmp_path / "served" / "setid.mat", "../../../../escaped")
        content = (tmp_path / "evil.tgz").read_bytes()
        source = flowers102.SOURCES["torchvision"]
        file = replace(source.files[2], md5=hashlib.md5(content).hexdigest())
        flowers.pages["/102flowers.tgz"] = content
        monkeypatch.setitem(
            flowers102.SOURCES, "torchvision", replace(source, files=(*source.files[:2], file))
        )
    reason = {
        "md5": "MD5 hash of downloaded file .* does not match",
        "lists": "1,020 training and 102 test images, expected",
        "path": "outside the destination",
    }[damage]
    with pytest.raises(
        MissingDataError,
        match=rf"flowers102 could not be fetched: local: .*; torchvision: .*{reason}.*By hand: put",
    ):
        fetch_dataset("flowers102", home=tmp_path / "home")
    assert not is_on_disk("flowers102", home=tmp_path / "home")
    assert not list(tmp_path.rglob("escaped"))


def test_files_below_a_root_are_linked_not_copied(tmp_path, monkeypatch):
    set_counts(monkeypatch, "cub200", 200, 200)
    home, root = tmp_path / "home", tmp_path / "root"
    write_cub(root)
    assert fetch_dataset("cub200", home=home, root=root) == "local"
    link = home / "data" / "cub200"
    assert link.is_symlink()
    assert load_dataset("cub200", home=home).images[0].shape == (6, 5, 3)
    assert fetch_dataset("cub200", home=home) == "stored"
    shutil.rmtree(root)
    assert not is_on_disk("cub200", home=home)
    write_cub(tmp_path / "other")
    assert fetch_dataset("cub200", home=home, root=tmp_path / "other") == "local", (
        "a link to nowhere is replaced"
    )
    assert link.resolve() == tmp_path / "other"


def test_linking_elsewhere_leaves_the_first_folder_whole(tmp_path, monkeypatch):
    set_counts(monkeypatch, "cats_vs_dogs", 10, 6)
    home = tmp_path / "home"
    for name in ("one", "two"):
        write_asirra(tmp_path / name)
        assert (
            fetch_dataset("cats_vs_dogs", home=home, root=tmp_path / name, source="local")
            == "local"
        )
    assert (home / "data" / "cats_vs_dogs").resolve() == tmp_path / "two"
    assert len(load_dataset("cats_vs_dogs", home=home, root=tmp_path / "one").labels) == 16


def test_what_nobody_serves_says_what_to_put_where(tmp_path):
    expected = r"cub200 could not be fetched: local: no images.txt.*By hand: put CUB_200_2011/"
    expected += r".*from https://www.vision.caltech.edu"
    with pytest.raises(MissingDataError, match=expected) as caught:
        fetch_dataset("cub200", home=tmp_path / "home")
    assert "\n" not in str(caught.value)
    assert not is_on_disk("cub200", home=tmp_path / "home")


def test_ones_own_data_is_looked_at_where_it_is(tmp_path):
    root = write_tree(tmp_path / "m", {"train/a": 1})
    assert fetch_dataset(f"folder:{root}", home=tmp_path / "home") == "stored"
    np.savez(tmp_path / "a.npz", train_images=np.zeros(3))
    with pytest.raises(MissingDataError, match="has no train_labels"):
        fetch_dataset(f"npz:{tmp_path / 'a.npz'}", home=tmp_path / "home")
    assert not (tmp_path / "home").exists()


def test_what_only_a_fetch_needs_is_not_imported_before():
    code = """
import sys
import benchmarks.fetch
late = {"benchmarks.fetch.data", "benchmarks.fetch.transfer", "benchmarks.fetch.weights", "pooch"}
assert not late & sys.modules.keys()
from benchmarks.fetch import fetch_dataset, fetch_weights
assert not hasattr(benchmarks.fetch, "fetch_all")
assert late - sys.modules.keys() == {"pooch"}
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
