"""A download site on loopback, stand-ins for npm and apt-get, and a process that fetches."""

import hashlib
import os
import subprocess
import sys
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from miniature import (
    DEBIAN_FOLDER,
    fashion_arrays,
    pin,
    write_idx_files,
)

from benchmarks.datasets import fashion_mnist, load_dataset
from benchmarks.datasets.sources import RemoteFile

ROOT = Path(__file__).parent.parent.parent
IMAGES = "train-images-idx3-ubyte"
NOWHERE = "http://127.0.0.1:1/"

FETCH = """
import sys
from dataclasses import replace
from pathlib import Path
sys.path.insert(0, {tests!r})
from miniature import fashion_arrays
from loopback import serve_from
from benchmarks.datasets import DATASETS
from benchmarks.fetch import fetch_dataset
DATASETS["fashion_mnist"] = replace(DATASETS["fashion_mnist"], digest=fashion_arrays().fingerprint)
serve_from({url!r}, {md5!r})
print(fetch_dataset("fashion_mnist", home=Path({home!r}), source={source!r}))
"""


class Site:
    """A download site on loopback.

    ``pages`` maps a path to its content, or to a function of the request's handler.
    """

    def __init__(self):
        self.pages, self.asked = {}, []
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                site.asked.append(self.path)
                page = site.pages.get(self.path)
                if callable(page):
                    page(self)
                elif page is None:
                    self.send_error(404)
                else:
                    self.begin(len(page))
                    self.wfile.write(page)

            def begin(self, length):
                self.send_response(200)
                self.send_header("Content-Length", str(length))
                self.end_headers()

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()


@pytest.fixture
def site():
    site = Site()
    yield site
    site.server.shutdown()
    site.server.server_close()


def serve_from(url, md5):
    """Make FashionMNIST download these files from this address, with these MD5 sums."""
    files = tuple(
        RemoteFile(f"{url}{name}.gz", md5[name], f"{fashion_mnist.FOLDER}/{name}.gz")
        for name in md5
    )
    fashion_mnist.SOURCES["torchvision"] = replace(
        fashion_mnist.SOURCES["torchvision"], files=files
    )


@pytest.fixture
def fashion(tmp_path, monkeypatch, site):
    """Make a miniature FashionMNIST the official one, and serve it from the site.

    The Debian package is not installed.
    """
    arrays = fashion_arrays()
    pin(monkeypatch, "fashion_mnist", arrays)
    write_idx_files(tmp_path / "served", arrays)
    contents = {
        name: (tmp_path / "served" / f"{name}.gz").read_bytes() for name in fashion_mnist.FILES
    }
    site.pages = {f"/{name}.gz": content for name, content in contents.items()}
    site.md5 = {name: hashlib.md5(content).hexdigest() for name, content in contents.items()}
    for kind, source in list(fashion_mnist.SOURCES.items()):
        monkeypatch.setitem(fashion_mnist.SOURCES, kind, source)  # monkeypatch restores it
    serve_from(site.url, site.md5)
    debian = fashion_mnist.SOURCES["debian"]
    fashion_mnist.SOURCES["debian"] = replace(debian, folder=f"/{DEBIAN_FOLDER}")
    return arrays


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """Put programs of our own before npm and apt-get on the PATH."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def write(name, script):
        path = folder / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    return write


def assert_stored(name, home, arrays):
    dataset = load_dataset(name, home=home)
    assert np.array_equal(dataset.images[:], arrays.images)
    assert np.array_equal(dataset.labels, arrays.labels)
    assert np.array_equal(dataset.is_train, arrays.is_train)
    assert not list((home / "data").glob(".*.tmp-*")), "nothing temporary stays"


def start_fetch(site, home, source="torchvision", **options):
    code = FETCH.format(
        tests=str(ROOT / "tests" / "support"),
        url=site.url,
        md5=site.md5,
        home=str(home),
        source=source,
    )
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, **pipes, **options)
