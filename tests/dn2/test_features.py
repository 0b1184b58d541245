"""Pixels equal torchvision's on PIL, engines agree, and features are those of the plain way."""

import tracemalloc

import numpy as np
import pytest
import torch
from brightness import brightness_extractor
from PIL import Image
from torchvision import transforms

from dn2 import engines
from dn2.encoders import ENCODERS, find_weights
from dn2.features import LARGEST_MATRIX, encode, encode_batches, load_extractor
from dn2.preprocessing import Normalize, Resize
from dn2.squares import resize_with_pil

RESIZE_AND_CROP = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224)])
SIZES = [
    (28, 28),
    (32, 32),
    (1, 1),
    (2, 3),
    (29, 31),
    (31, 64),
    (1, 50),
    (50, 1),
    (96, 96),
    (120, 120),
    (128, 77),
    (100, 37),
]
LARGE = [
    (224, 224),
    (255, 257),
    (256, 256),
    (256, 300),
    (300, 256),
    (300, 400),
    (640, 480),
    (700, 1000),
    (17, 900),
]


def natural_images(n, shape=(32, 32, 3), seed=0):
    """Images like photographs: smooth at large, with edges and a little noise."""
    rng = np.random.default_rng(seed)
    height, width = shape[:2]
    images = np.empty((n, *shape), np.uint8)
    for image in images:
        small = rng.integers(0, 256, (4, 4, *shape[2:]), dtype=np.uint8)
        smooth = np.array(
            Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC), np.float64
        )
        top, left = rng.integers(0, height // 2), rng.integers(0, width // 2)
        smooth[top : top + height // 2, left : left + width // 2] += rng.integers(-80, 80)
        image[...] = np.clip(smooth + rng.normal(0, 4, shape), 0, 255)
    return images


def torchvision_pixels(image):
    return np.asarray(RESIZE_AND_CROP(Image.fromarray(image)).convert("RGB"))


@pytest.fixture(scope="module")
def extractors(weights_home):
    """One per engine: compiling takes seconds."""
    weights = find_weights(ENCODERS["efficientnet_lite0"], weights_home / "weights")
    return {
        engine: load_extractor("efficientnet_lite0", weights, engine, "cpu")
        for engine in engines.ENGINES
    }


@pytest.fixture
def extractor(extractors):
    return extractors["openvino"]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", SIZES + LARGE, ids=str)
def test_matrices_equal_torchvision_bit_for_bit(size, channels):
    image = np.random.default_rng(1).integers(0, 256, (*size, channels), dtype=np.uint8)
    image[: size[0] // 2] = np.where(image[: size[0] // 2] > 127, 255, 0)  # extremes too
    ours = Resize(*size)(torch.from_numpy(image[None]))[0].permute(1, 2, 0).numpy()
    expected = np.asarray(
        RESIZE_AND_CROP(Image.fromarray(image[..., 0] if channels == 1 else image))
    )
    np.testing.assert_array_equal(ours, expected.reshape(ours.shape))


def test_matrices_are_exact_for_every_size_they_are_used_for():
    rng = np.random.default_rng(6)
    for size in range(1, LARGEST_MATRIX + 1):
        image = rng.integers(0, 256, (size, rng.integers(1, LARGEST_MATRIX + 1)), dtype=np.uint8)
        ours = Resize(*image.shape)(torch.from_numpy(image[None, ..., None]))[0, 0].numpy()
        np.testing.assert_array_equal(
            ours, np.asarray(RESIZE_AND_CROP(Image.fromarray(image))), err_msg=str(image.shape)
        )


@pytest.mark.parametrize(
    "shape", [*SIZES, *LARGE, (28, 28, 3), (300, 400, 3), (90, 500, 3)], ids=str
)
def test_pil_equals_torchvision_bit_for_bit(shape):
    image = np.random.default_rng(2).integers(0, 256, shape, dtype=np.uint8)
    np.testing.assert_array_equal(resize_with_pil(image), torchvision_pixels(image))


@pytest.mark.parametrize("engine", engines.ENGINES)
@pytest.mark.parametrize("shape", [(32, 32, 3), (28, 28, 1), (120, 90, 3)], ids=str)
def test_engines_compute_the_pixels_exactly(engine, shape):
    class Flat(torch.nn.Module):
        def forward(self, x):
            return x.flatten(1)

    images = np.random.default_rng(3).integers(0, 256, (3, *shape), dtype=np.uint8)
    module = torch.nn.Sequential(Resize(*shape[:2]), Flat())
    run = engines.load_engine(engine, module, shape, "cpu")
    (ours,) = run([images])
    expected = [np.asarray(RESIZE_AND_CROP(Image.fromarray(image.squeeze()))) for image in images]
    expected = np.stack(
        [image.reshape(224, 224, -1).transpose(2, 0, 1).ravel() for image in expected]
    )
    np.testing.assert_array_equal(ours, expected)


def test_normalise_is_torchvisions_and_replicates_grey():
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    expected = transforms.Compose([transforms.ToTensor(), transforms.Normalize(mean, std)])(
        Image.fromarray(levels).convert("RGB")
    )
    ours = Normalize(mean, std)(torch.from_numpy(levels[None, None].astype(np.float32)))[0]
    assert ours.shape == (3, 16, 16)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-6)


def test_features_are_those_of_the_usual_path(extractor):
    """Torchvision's transforms on PIL images, one batch, eager torch."""
    images = natural_images(8)
    steps = [
        *RESIZE_AND_CROP.transforms,
        transforms.ToTensor(),
        transforms.Normalize([0.5] * 3, [0.5] * 3),
    ]
    batch = torch.stack([transforms.Compose(steps)(Image.fromarray(image)) for image in images])
    with torch.inference_mode():
        usual = extractor.network(batch).numpy()
    assert relative_difference(encode(images, extractor), usual) < 1e-4


def test_engines_agree(extractors):
    images = natural_images(6)
    features = {engine: encode(images, extractor) for engine, extractor in extractors.items()}
    for engine in features:
        # Bfloat16, which some engines choose by themselves, would differ by 1e-2.
        assert relative_difference(features[engine], features["torch"]) < 1e-4, engine
        assert features[engine].dtype == np.float32


@pytest.mark.parametrize("engine", engines.ENGINES)
def test_a_row_depends_on_its_image_alone(extractors, engine):
    images, extractor = natural_images(8), extractors[engine]
    features = encode(images, extractor)
    rows = np.array([7, 2, 5])
    np.testing.assert_array_equal(encode(images[rows], extractor), features[rows])
    np.testing.assert_array_equal(encode(images, extractor, slice(3, 4)), features[3:4])


@pytest.mark.parametrize("engine", engines.ENGINES)
def test_images_of_any_sizes_come_back_in_order(engine):
    rng = np.random.default_rng(5)
    sizes = [(32, 32), (28, 28, 3), (300, 200), (10, 500, 3), (1, 1)] * 14
    images = [rng.integers(0, 256, size, dtype=np.uint8) for size in sizes]
    pixels = np.stack([torchvision_pixels(image) for image in images]) / 255
    scaled = (pixels - (0.4, 0.5, 0.6)) / (0.2, 0.25, 0.3)
    expected = np.concatenate([scaled.mean((1, 2)), scaled[:, 0, 0]], axis=1)
    features = encode(images, brightness_extractor(engine))
    np.testing.assert_allclose(features, expected, atol=1e-3)  # one grey level is 1e-2


def test_arrays_and_lists_grey_and_its_copies_are_the_same_pixels():
    """Arrays of small images go through matrices, lists through PIL."""
    extractor, grey = brightness_extractor(), natural_images(4, (28, 28))
    colour = np.repeat(grey[..., None], 3, axis=3)
    features = encode(grey, extractor)
    for same in (colour, list(grey), list(colour)):
        np.testing.assert_allclose(
            encode(same, extractor), features, atol=1e-3
        )  # one grey level is 1e-2


def test_no_images_are_no_features():
    assert encode(np.empty((0, 32, 32, 3), np.uint8), brightness_extractor()).shape == (0, 6)
    assert encode([], brightness_extractor()).shape == (0, 6)


def test_progress_counts_to_the_end():
    calls = []
    encode(
        natural_images(70),
        brightness_extractor(),
        progress=lambda done, total: calls.append((done, total)),
    )
    assert calls == [(32, 70), (64, 70), (70, 70)]


@pytest.mark.parametrize(
    ("images", "says"),
    [
        (np.zeros((2, 32, 32, 3)), "image 0 must be uint8 .* got float64"),
        (np.zeros((2, 32, 32, 4), np.uint8), r"image 0 .* got uint8 \(32, 32, 4\)"),
        (
            [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 2), np.uint8)],
            r"image 1 .* got uint8 \(8, 8, 2\)",
        ),
        ([np.zeros((0, 8), np.uint8)], "image 0 must be"),
        (np.zeros((4,), np.uint8), r"image 0 .* got uint8 \(\)"),
    ],
)
def test_what_is_no_image_is_refused(images, says):
    with pytest.raises(ValueError, match=says):
        encode(images, brightness_extractor())


class Lazy:
    """A sequence that decodes on demand and remembers how much was asked for at once."""

    def __init__(self, n):
        self.n = n
        self.most = 0

    def __len__(self):
        return self.n

    def __getitem__(self, rows):
        if not isinstance(rows, slice):
            return np.full((200, 300, 3), rows % 256, np.uint8)
        wanted = range(self.n)[rows]
        self.most = max(self.most, len(wanted))
        return [self[row] for row in wanted]


class LazyArray(Lazy):
    """Its slices are arrays, as of a stored data set; of another size from row 40."""

    def __getitem__(self, rows):
        wanted = range(self.n)[rows]
        return np.stack(
            [np.full((16, 16, 3) if row < 40 else (32, 32, 3), row, np.uint8) for row in wanted]
        )


def test_a_lazy_sequence_of_equal_images_goes_through_matrices():
    extractor = brightness_extractor()
    features = encode(LazyArray(40), extractor)
    np.testing.assert_allclose(features[:, 0], (np.arange(40) / 255 - 0.4) / 0.2, atol=1e-3)
    assert list(extractor._engines) == [(16, 16, 3)]
    with pytest.raises(
        ValueError,
        match=r"images from row 64 must be an array of shape \(b, 16, 16, 3\) .* got "
        r"\(6, 32, 32, 3\)",
    ):
        encode(LazyArray(70), extractor, slice(64, 70))


def test_memory_does_not_grow_with_the_number_of_images():
    extractor = brightness_extractor()
    encode(Lazy(1), extractor)  # compiles
    peaks = []
    for n in (32, 96, 384):
        images = Lazy(n)
        tracemalloc.start()
        batches = sum(len(batch) for batch in encode_batches(images, extractor))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert batches == n
        assert images.most <= 32
    assert peaks[2] < 1.2 * peaks[1]  # 384 decoded images would be 69 MB, 96 are 17


def test_threads_and_gradients_of_the_caller_are_left_alone():
    before = torch.get_num_threads()
    batches = encode_batches(natural_images(40), brightness_extractor(threads=before + 1))
    next(batches)
    assert torch.get_num_threads() == before
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()


@pytest.mark.parametrize(
    ("name", "device", "says"),
    [
        ("openvin", None, "did you mean openvino.*there are openvino, onnxruntime, torch"),
        ("openvino", "cuda", "runs on the cpu only"),
        (None, "tpu", "unknown device 'tpu'"),
    ],
)
def test_unknown_engines_and_devices_are_refused(name, device, says):
    with pytest.raises(ValueError, match=says):
        engines.engine_class(name, device)


def test_cuda_is_asked_for_only_where_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert engines.engine_class() == "openvino-float32"
    with pytest.raises(ValueError, match="torch sees no CUDA device"):
        engines.engine_class("torch", "cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert engines.engine_class() == "torch-float32"
    assert engines.engine_class("openvino") == "openvino-float32"
    assert engines.engine_class(None, "cpu") == "openvino-float32"


def test_torch_off_the_cpu_runs_batches_of_one_size():
    sizes = []

    class Counting(torch.nn.Module):
        def forward(self, x):
            sizes.append(len(x))
            return x.flatten(1).float()

    images = np.random.default_rng(7).integers(
        0, 256, (engines.CUDA_BATCH + 3, 2, 2, 1), dtype=np.uint8
    )
    # "cpu:0" is the same device to torch, and to the engine one that is not the CPU.
    (features,) = engines.ENGINES["torch"](Counting(), (2, 2, 1), "cpu:0", 1)([images])
    assert sizes == [engines.CUDA_BATCH] * 2
    np.testing.assert_array_equal(features, images.reshape(len(images), -1))


def test_an_engine_that_is_not_installed_says_so(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(ModuleNotFoundError, match="pip install onnxruntime, or use --engine torch"):
        encode(natural_images(1), brightness_extractor("onnxruntime"))


def relative_difference(ours, reference):
    return (np.linalg.norm(ours - reference, axis=1) / np.linalg.norm(reference, axis=1)).max()
