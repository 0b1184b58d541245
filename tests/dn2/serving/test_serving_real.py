"""`dn2 serve` with EfficientNet-Lite0: its speed beside `dn2 score`, and its memory."""

import io
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from dn2_servers import ROOT, Dn2Server
from PIL import Image

import dn2

pytestmark = pytest.mark.slow

CLIENTS, AT_ONCE, IMAGES = 8, 16, 512


@pytest.fixture(scope="module")
def detector(weights_home, tmp_path_factory):
    """A detector of 40 pictures of noise; `new` beside it holds the files to be scored."""
    folder = tmp_path_factory.mktemp("real")
    rng = np.random.default_rng(0)
    (folder / "new").mkdir()
    for number in range(IMAGES):
        picture = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(picture).save(folder / "new" / f"{number:03d}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DN2_HOME", str(weights_home))
        normal = [rng.integers(0, 256, (32, 32, 3), dtype=np.uint8) for _ in range(40)]
        dn2.ImageDetector().fit(normal).save(folder / "detector")
    return folder / "detector"


@pytest.fixture(scope="module")
def server(detector):
    running = Dn2Server(detector, detector.parent)
    yield running
    assert running.stop() == 0


def send_all(server, batches):
    """Send batches of files from 8 clients, and return the statuses."""
    statuses, left, lock = [], iter(batches), threading.Lock()

    def work():
        while True:
            with lock:
                batch = next(left, None)
            if batch is None:
                return
            statuses.append(server.score(batch)[0])

    threads = [threading.Thread(target=work) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return statuses


def seconds_of(call):
    started = time.monotonic()
    call()
    return time.monotonic() - started


def test_eight_clients_get_most_of_the_throughput_of_score(server, detector):
    """Take turns on a machine that others use, and compare the best rounds."""
    files = [(path.name, path.read_bytes()) for path in (detector.parent / "new").iterdir()]
    batches = [files[start : start + AT_ONCE] for start in range(0, IMAGES, AT_ONCE)]
    code = "import sys; from dn2.commands import run_main; sys.exit(run_main())"
    command = [sys.executable, "-c", code, "score", str(detector), str(detector.parent / "new")]
    served, scored, statuses = [], [], []
    for _ in range(3):
        served.append(seconds_of(lambda: statuses.extend(send_all(server, batches))))
        scored.append(
            seconds_of(lambda: subprocess.run(command, check=True, capture_output=True, cwd=ROOT))
        )
    assert set(statuses) == {200}
    assert min(scored) / min(served) >= 0.7, (scored, served)


def test_memory_does_not_grow_with_requests(server):
    content = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(content, "PNG")
    batch = [("a.png", content.getvalue())]

    def resident():
        status = Path(f"/proc/{server.process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0])

    assert set(send_all(server, [batch] * 500)) == {200}
    before = resident()
    assert set(send_all(server, [batch] * 1500)) == {200}
    assert resident() < before * 1.03
