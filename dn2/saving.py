"""A detector as a folder: a JSON manifest, NumPy arrays without pickles, and OpenVINO networks.

    detector/
        manifest.json                   versions, parameters, and each file's size and SHA-256
        features-1f2e....npy            float32, a row for each normal image
        in_bank-....npy, calibration-....npy, paths-....json
        network-....xml, network-....bin
        index-....faiss, index_centre-....npy, ...    where an approximate index was built

A file is named after its content. So a change writes new files beside the old ones and then
replaces the manifest: a program that opens the folder meanwhile finds one whole detector.
What a broken-off change left is removed by the next one.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
import shutil
import stat
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

import numpy as np

from dn2.files import (
    hold,
    open_regular,
    read_regular,
    remove_leftovers,
    temporary_of,
    write_atomically,
)
from dn2.image_detector import ImageDetector
from dn2.images import ALL_LEVELS
from dn2.networks import Network, crops_of

if TYPE_CHECKING:
    from dn2.search import Built

FORMAT = 2
"""The version of the folder's form: a change that older programs cannot read adds 1.

The folder says the first version that can read it: 1 without an index, 2 with one.
"""

MANIFEST = "manifest.json"
LOCK = ".lock"
LARGEST_MANIFEST = 2**20
MAPPED_BYTES = 2**26  # from which on an array is not read at once
PARAMETERS = ("encoder", "normalize", "k", "holdout", "seed", "index")

OWN_FILE = re.compile(
    r"(manifest\.json|(network|features|in_bank|calibration|paths|index|index_[a-z_]+)"
    r"-[0-9a-f]{16}\.(xml|bin|npy|json|faiss))(\..+\.tmp)?"
)
"""The names of the files that are written here, those of unfinished ones included."""

T = TypeVar("T")


class BadDetectorError(ValueError):
    """The error of a folder that is no whole detector: it names the file, and what is wrong."""


def save_detector(detector: ImageDetector, path: Path, *, force: bool = False) -> None:
    """Write a detector to a folder, which holds one only when it is whole.

    Parameters
    ----------
    detector : ImageDetector
        Fitted.
    path : Path
        A folder that is not there yet, that is empty, or with ``force`` one with a detector.
    force : bool
        Whether to replace the detector that is there. A folder with anything else is never
        replaced.

    Raises
    ------
    FileExistsError
        If there is something already.
    OSError
        If it cannot be written.
    """
    check_target(path, force=force)
    if path.is_dir():
        # It stays the folder that it is: it may be a link, a mount, the working directory.
        with hold(path / LOCK, wait=True):
            check_target(path, force=force)  # another may have been faster
            _replace(detector, path)
        return
    hidden = path.with_name(f".{path.name}")
    remove_leftovers(hidden)
    temporary = temporary_of(hidden)
    try:
        temporary.mkdir()
        _replace(detector, temporary)
        check_target(path, force=force)
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_target(path: Path, *, force: bool) -> None:
    """Raise an OSError if a detector cannot be written to a path, such as FileExistsError."""
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {path.parent}: make it first")
    if path.is_dir():
        if (path / MANIFEST).exists():
            if not force:
                raise FileExistsError(
                    f"{path} holds a detector already: choose another name, or replace it with "
                    "force=True"
                )
        elif _others_in(path):
            raise FileExistsError(
                f"{path} is a folder with other files: choose another name for the detector"
            )
        with hold(path / LOCK, wait=False):  # fails where it will fail when all is computed
            pass
    elif path.exists() or path.is_symlink():
        raise FileExistsError(f"{path} is a file: choose another name for the detector's folder")


def _others_in(folder: Path) -> bool:
    """Tell whether a folder has files that no detector has, not even an unfinished one."""
    return any(path.name != LOCK and not OWN_FILE.fullmatch(path.name) for path in folder.iterdir())


def load(path: str | Path) -> ImageDetector:
    """Read a detector, and check that it is as it was written. Imports no torch.

    Raises
    ------
    FileNotFoundError
        If there is no detector.
    BadDetectorError
        If a file is missing or altered, or the detector was made by a newer version.
    """
    folder = Path(path)
    while True:
        manifest = _read_manifest(folder)
        try:
            return _build(folder, manifest)
        except BadDetectorError:
            # Another process may have replaced the detector between two reads.
            if _read_manifest(folder) == manifest:
                raise


def read_manifest(path: str | Path) -> dict[str, Any]:
    """Read what the manifest says, without reading the other files.

    Raises
    ------
    FileNotFoundError, BadDetectorError
        As `load`.
    """
    return _read_manifest(Path(path))


def change_detector(path: str | Path, change: Callable[[ImageDetector], T]) -> T:
    """Load a detector, change it, and save it in its place; others that do so wait.

    A reader finds the old one or the new one. If ``change`` raises, the old one stays.
    """
    folder = Path(path)
    _read_manifest(folder)  # so that no lock file is made in a folder that is none
    with hold(folder / LOCK, wait=True):
        detector = load(folder)
        answer = change(detector)
        _replace(detector, folder)
        return answer


# ---- Writing


def _replace(detector: ImageDetector, folder: Path) -> None:
    """Replace what a folder holds, whose lock is held; if that fails, the old detector stays."""
    try:
        _write(detector, folder)
    finally:
        _remove_unnamed(folder)


def _write(detector: ImageDetector, folder: Path) -> None:
    """Write the files that are missing, then the manifest."""
    old: Mapping[str, Any] = {}
    with contextlib.suppress(FileNotFoundError, BadDetectorError):
        old = _read_manifest(folder)["files"]
    files: dict[str, dict[str, Any]] = {}

    def write(stem: str, suffix: str, content: bytes | Callable[[BinaryIO], object]) -> str:
        digest = _digest_content(content)
        name = f"{stem}-{digest['sha256'][:16]}{suffix}"
        files[name] = digest
        if old.get(name) != digest:
            write_atomically(folder / name, content)
        return name

    manifest: dict[str, Any] = {"format": 1 if detector.index == "exact" else 2, **_versions()}
    manifest["encoders"] = []
    for network in detector.networks_:
        constants = write("network", ".bin", network.constants)
        manifest["encoders"].append(
            {
                "name": network.name,
                "weights_sha256": network.digest,
                "width": network.width,
                "constants": constants,
                "graph": write("network", ".xml", network.graph),
            }
        )
    manifest["preprocessing"] = crops_of(detector.view)
    # Only where they are not the usual: older programs then read the detector as before.
    if detector.square != "crop":
        manifest["square"] = detector.square
    if detector.levels_ != ALL_LEVELS:
        manifest["levels"] = list(detector.levels_)
    manifest |= {name: value for name, value in detector.get_params().items() if name in PARAMETERS}
    manifest["n_images"] = len(detector.paths_)
    manifest["calibration"] = {
        "method": "split" if detector.holdout else "leave-one-out",
        "n_images": len(detector.calibration_),
        "n_copies": detector.n_copies_,
        "largest_score": float(detector.calibration_.max()),
        "median_score": float(np.median(detector.calibration_)),
    }
    manifest["arrays"] = {
        "paths": write("paths", ".json", json.dumps(list(detector.paths_), indent=0).encode()),
        **{
            name: write(name, ".npy", _saver(array))
            for name, array in (
                ("features", detector.features_),
                ("in_bank", detector.in_bank_),
                ("calibration", detector.calibration_),
            )
        },
    }
    if detector.index != "exact":
        manifest["recall"] = detector.recall_
    if (built := detector.built) is not None:
        manifest["graph"] = write("index", ".faiss", built.write)
        manifest["graph_arrays"] = {
            name: write(f"index_{name}", ".npy", _saver(array))
            for name, array in built.arrays.items()
        }
    manifest["files"] = files
    manifest["sha256"] = _digest(manifest)
    write_atomically(folder / MANIFEST, json.dumps(manifest, indent=1).encode())


def _remove_unnamed(folder: Path) -> None:
    """Remove the files of earlier detectors and of changes that were broken off.

    No other writer is at work, as the lock is held.
    """
    named: set[str] = set()
    try:
        named = {MANIFEST, *_read_manifest(folder)["files"]}
    except FileNotFoundError:
        pass
    except BadDetectorError:
        return  # it does not say what it needs
    for path in folder.iterdir():
        if OWN_FILE.fullmatch(path.name) and path.name not in named:
            with contextlib.suppress(OSError):
                path.unlink()


def _versions() -> dict[str, str]:
    import openvino

    from dn2 import __version__

    return {
        "dn2": __version__,
        "openvino": openvino.get_version(),
        "numpy": np.__version__,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _saver(array: np.ndarray) -> Callable[[BinaryIO], None]:
    """Make a function that saves an array, a piece at a time."""
    return lambda file: np.save(file, np.ascontiguousarray(array), allow_pickle=False)


class _Digester:
    """A file that is not kept, but for its length and digest."""

    def __init__(self) -> None:
        self.bytes, self.sha256 = 0, hashlib.sha256()

    def write(self, content: bytes) -> int:
        self.bytes += len(content)
        self.sha256.update(content)
        return len(content)


def _digest_content(content: bytes | Callable[[BinaryIO], object]) -> dict[str, Any]:
    """Compute the size and the SHA-256 of what will be written; a large array is not copied."""
    digester = _Digester()
    if callable(content):
        content(digester)  # type: ignore[arg-type]
    else:
        digester.write(content)
    return {"bytes": digester.bytes, "sha256": digester.sha256.hexdigest()}


def _digest(manifest: Mapping[str, Any]) -> str:
    """Compute the SHA-256 of all that a manifest says but this."""
    said = {name: value for name, value in manifest.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


# ---- Reading


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not folder.is_dir():
        what = "is a file, not a detector's folder" if folder.exists() else "does not exist"
        raise FileNotFoundError(f"{folder} {what}: make a detector with `dn2 fit`")
    if not path.exists():
        raise FileNotFoundError(
            f"{folder} is no detector (it has no {MANIFEST}): make one with `dn2 fit`"
        )
    if not path.is_file() or path.stat().st_size > LARGEST_MANIFEST:
        raise _bad(path, "is no detector's manifest")
    try:
        manifest = json.loads(read_regular(path))
    except (ValueError, RecursionError):
        raise _bad(path, "is not whole JSON") from None
    version = manifest.get("format") if isinstance(manifest, dict) else None
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise _bad(path, "is no detector's manifest")
    if version > FORMAT:
        raise BadDetectorError(
            f"{folder} was made by a newer dn2 ({str(manifest.get('dn2'))[:40]}, format {version}; "
            f"this one reads up to {FORMAT}): install that version, or fit again"
        )
    files = manifest.get("files")
    if not isinstance(files, dict):
        raise _bad(path, "is no detector's manifest")
    for name in files:
        # Before the digest, which anybody can make: a name must not lead out of the folder.
        if name != Path(name).name or name in ("", ".", "..") or "\0" in name or "\\" in name:
            raise BadDetectorError(
                f"{path} names a file outside of the detector, {name!r}: do not use this detector"
            )
    if manifest.get("sha256") != _digest(manifest):
        raise _bad(path, "was altered")
    return manifest


def _build(folder: Path, manifest: Mapping[str, Any]) -> ImageDetector:
    try:
        arrays = manifest["arrays"]
        detector = ImageDetector(
            **{name: manifest[name] for name in PARAMETERS[:-1]},
            # of which older manifests say nothing
            index=manifest.get("index", "exact"),
            square=manifest.get("square", "crop"),
        )
        detector.check_params()
        detector.levels_ = _levels(manifest.get("levels", ALL_LEVELS))
        if manifest.get("preprocessing") != crops_of(detector.view):
            raise BadDetectorError(
                f"{folder} was made with another preprocessing of images "
                f"({manifest.get('preprocessing')}): fit again"
            )
        detector.networks_ = tuple(
            Network(
                entry["name"],
                entry["weights_sha256"],
                entry["width"],
                _read_checked(folder, entry["graph"], manifest),
                _read_checked(folder, entry["constants"], manifest),
            )
            for entry in manifest["encoders"]
        )
        paths = json.loads(_read_checked(folder, arrays["paths"], manifest))
        features, in_bank, calibration = (
            _load_array(folder, arrays[name], manifest)
            for name in ("features", "in_bank", "calibration")
        )
        _check_said(manifest)
        if detector.encoder != "+".join(network.name for network in detector.networks_):
            raise ValueError(f"its networks are not those of {detector.encoder}")
        width = sum(network.width for network in detector.networks_)
        if not (
            features.shape == (len(paths), width)
            and features.dtype == calibration.dtype == np.float32
            and in_bank.shape == (len(paths),)
            and in_bank.dtype == bool
            and calibration.ndim == 1
            and len(calibration) > 0
            and in_bank.sum() >= detector.k
            and np.isfinite(calibration).all()
            and isinstance(paths, list)
            and all(isinstance(path, str) for path in paths)
        ):
            raise ValueError("its arrays do not fit each other")
        bank = detector._make_bank(features, in_bank, _read_built(folder, manifest))
        recall = manifest["recall"] if detector.index != "exact" else None
        if detector.index != "exact" and not (isinstance(recall, float) and 0 <= recall <= 1):
            raise ValueError(f"its recall is {recall!r}")
    except BadDetectorError:
        raise
    except FileNotFoundError as error:
        raise _missing(Path(error.filename)) from None
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise _bad(folder / MANIFEST, f"does not describe a detector ({error})") from None
    detector._restore(tuple(paths), features, in_bank, calibration, bank, recall)
    detector.n_copies_ = manifest["calibration"]["n_copies"]
    return detector


def _levels(said: Any) -> tuple[int, int]:
    black, white = said
    if not (type(black) is type(white) is int and 0 <= black < white <= ALL_LEVELS[1]):
        raise ValueError(f"levels are {said}")
    return black, white


def _check_said(manifest: Mapping[str, Any]) -> None:
    """Raise ValueError if something that is only shown is of another type than was written."""
    calibration, networks = manifest["calibration"], manifest["encoders"]
    files = manifest["files"].values()
    kinds: dict[type, list[Any]] = {
        str: [manifest["created"], manifest["dn2"], calibration["method"]],
        int: [manifest["n_images"], calibration["n_images"], calibration["n_copies"]],
        float: [calibration["largest_score"], calibration["median_score"]],
    }
    kinds[str] += [entry[what] for entry in networks for what in ("name", "weights_sha256")]
    kinds[int] += [entry["width"] for entry in networks] + [file["bytes"] for file in files]
    for kind, values in kinds.items():
        for value in values:
            if type(value) is not kind:
                raise ValueError(f"{value!r:.40} should be a {kind.__name__}")


def _read_checked(folder: Path, name: str, manifest: Mapping[str, Any]) -> bytes:
    """Read a file of the manifest, and compare its size and digest."""
    said = manifest["files"][name]
    path = folder / name
    _check_size(path, said["bytes"])
    content = read_regular(path)
    if hashlib.sha256(content).hexdigest() != said["sha256"]:
        raise _bad(path, "was altered")
    return content


def _read_built(folder: Path, manifest: Mapping[str, Any]) -> Built | None:
    """Check and read what an approximate index made of the rows; None if there is nothing."""
    if "graph" not in manifest:
        return None
    from dn2.search import Built

    arrays = {
        name: _load_array(folder, file, manifest) for name, file in manifest["graph_arrays"].items()
    }
    _check_file(folder, manifest["graph"], manifest)
    return Built.read(folder / manifest["graph"], arrays)


def _load_array(folder: Path, name: str, manifest: Mapping[str, Any]) -> np.ndarray:
    """Check and read an array; a large one is mapped, and an approximate index reads it there.

    The exact search copies it into memory.
    """
    path = folder / name
    if manifest["files"][name]["bytes"] <= MAPPED_BYTES:
        content = io.BytesIO(_read_checked(folder, name, manifest))
        return np.load(content, allow_pickle=False)
    _check_file(folder, name, manifest)
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _check_file(folder: Path, name: str, manifest: Mapping[str, Any]) -> None:
    """Compare a large file's size and digest, a piece at a time."""
    said, path = manifest["files"][name], folder / name
    _check_size(path, said["bytes"])
    with open_regular(path) as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != said["sha256"]:
            raise _bad(path, "was altered")


def _check_size(path: Path, size: int) -> None:
    """Refuse what is of another size, or no file: a FIFO or device is not opened."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise _bad(path, "is no regular file")
    if status.st_size != size:
        how = "is cut short" if status.st_size < size else "is longer than it was written"
        raise _bad(path, f"{how} ({status.st_size:,} of {size:,} bytes)")


def _missing(path: Path) -> BadDetectorError:
    return BadDetectorError(f"{path} is missing: copy the whole folder, or fit again")


def _bad(path: Path, what: str) -> BadDetectorError:
    return BadDetectorError(
        f"{path} {what}: copy the detector again from where it was made, or fit"
    )
