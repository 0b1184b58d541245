"""Where an image differs from normal ones, and how that is shown."""

import base64
import io
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from toy_encoder import toy_encoders, write_pictures

import dn2
from dn2.crops import read_crop
from dn2.explaining import Explanation, Near, difference, explain, feature_map_of, lay_over
from dn2.explanation_page import PageHead, draw_explanation, png_name, write_article, write_page
from dn2.image_detector import ScoredImage

HEAD = PageHead("detector", "5 images", "at a rate", 3, 1, 0.2, 0.4, ())


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    with toy_encoders(folder):
        good = write_pictures(folder / "good", 12)
        detector = dn2.ImageDetector("toy", k=3).fit(good)
        new = write_pictures(folder / "new", 2, first=100)
        new += write_pictures(folder / "new", 1, first=200, odd=True)
        yield detector, new


def explained(detector, paths):
    left_out = []
    images = detector.score(paths).images
    return list(explain(detector, images, left_out)), left_out


def test_the_place_that_differs_is_the_hottest():
    rng = np.random.default_rng(0)
    kinds = rng.normal(size=(6, 20))  # six kinds of places, anywhere in each image
    maps = [
        (kinds[rng.integers(0, 6, (14, 14))] + rng.normal(0, 0.1, (14, 14, 20))).astype(np.float32)
        for _ in range(5)
    ]
    own, others = maps[0].copy(), maps[1:]
    assert difference(own, others).mean() < 0.4  # nothing stands out
    own[9:12, 2:5] = rng.normal(size=20)
    heat = difference(own, others)
    assert heat.shape == (224, 224)
    assert heat.min() == 0
    assert 0.99 < heat.max() <= 1
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    assert 9 * 16 <= row < 12 * 16
    assert 2 * 16 <= column < 5 * 16
    assert heat[:100, 100:].max() < 0.5
    alone = difference(own, others[:1])  # one normal image is enough
    assert np.unravel_index(alone.argmax(), alone.shape)[0] // 16 in (9, 10, 11)


def test_what_is_the_same_is_cold():
    grid = np.random.default_rng(0).normal(size=(14, 14, 8)).astype(np.float32)
    assert not difference(grid, [grid, grid]).any()


def test_a_detector_of_files_explains_itself(made):
    detector, new = made
    (first, _, odd), left_out = explained(detector, new)
    assert left_out == []
    np.testing.assert_array_equal(odd.crop, read_crop(new[2]))
    assert odd.image.path == new[2]
    assert [near.path for near in odd.nearest] == [near.path for near in odd.image.nearest]
    np.testing.assert_array_equal(odd.nearest[0].crop, read_crop(odd.nearest[0].path))
    assert odd.heat[:70, :80].mean() > 2 * odd.heat[112:].mean()  # its corner is bright
    assert odd.heat.max() == 1
    assert first.heat.max() <= 1


def test_files_that_are_gone_or_have_changed_are_named(made, tmp_path):
    detector, new = made
    images = detector.score(new[2:]).images
    paths = [Path(near.path) for near in images[0].nearest]
    kept = [path.read_bytes() for path in paths]
    try:
        paths[0].unlink()
        paths[1].write_bytes(Path(new[0]).read_bytes())
        (one,) = explain(detector, images, [])
        assert [near.missing for near in one.nearest] == [
            "No such file or directory",
            "it has changed since",
            "",
        ]
        assert [near.crop is None for near in one.nearest] == [True, True, False]
        assert one.heat is not None
        paths[2].write_bytes(b"")
        (one,) = explain(detector, images, [])
        assert one.heat is None
        assert "not shown: no normal image can be read" in write_article(1, one, True, 0.1)
        assert draw_explanation(one).width == 5 * 234 + 10
    finally:
        for path, content in zip(paths, kept, strict=True):
            path.write_bytes(content)
    left_out = []
    lost = ScoredImage(str(tmp_path / "lost.png"), 1.0, 0.1, images[0].nearest)
    assert list(explain(detector, [lost], left_out)) == []
    assert left_out[0].reason == "No such file or directory"


def test_a_map_is_the_last_one_of_14_positions():
    openvino = pytest.importorskip("openvino")
    from openvino import opset13 as ops

    def last(*shapes):
        """Chain tensors of these shapes, and say which of them is the feature map."""
        node = ops.parameter(shapes[0], np.float32)
        first, nodes = node, []
        for shape in shapes:
            node = ops.relu(
                ops.broadcast(ops.reduce_max(node, list(range(len(node.shape)))), shape)
            )
            nodes.append(node)
        found = feature_map_of(openvino.Model([node], [first]))
        return None if found is None else tuple(found.get_partial_shape().to_shape())

    assert last((1, 8, 28, 28), (1, 16, 14, 14), (1, 32, 7, 7), (1, 32)) == (1, 16, 14, 14)
    assert last((1, 28, 28, 8), (1, 16, 16, 9), (1, 32)) == (1, 16, 16, 9)
    assert last((1, 3, 224, 224), (1, 197, 12), (1, 3, 197, 197), (1, 12)) == (1, 197, 12)
    assert last((1, 3, 224, 224), (1, 5, 4, 4), (1, 9, 7, 7), (1, 9)) == (1, 9, 7, 7)
    assert last((1, 3, 224, 224), (1, 9)) is None


def an_explanation(path="a.png", near="b.png"):
    crop = np.full((224, 224, 3), 128, np.uint8)
    scored = ScoredImage(path, 0.5, 0.01, ())
    return Explanation(scored, crop, np.zeros((224, 224), np.float32), (Near(near, 0.25, crop),))


def test_a_page_holds_its_pictures_and_no_markup_of_others():
    name = '<script>alert(1)</script>&".png'
    one = an_explanation(name, "/x/<b>\udcff\x1b.png")
    page = write_page(
        HEAD,
        [(name, 0.5, True, one.crop), (name, 0.2, False, None)],
        [write_article(1, one, True, 0.2)],
    )
    page.encode()  # no lone surrogates
    assert "<script" not in page
    assert "<b>\\" not in page
    assert "\x1b" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;&amp;&quot;.png" in page
    assert re.findall(r'(?:src|href)="(?!data:image/jpeg;base64,|#image-1")', page) == []
    assert 'href="#image-1"' in page
    assert 'id="image-1"' in page
    pictures = re.findall(r"base64,([^\"]+)", page)
    sizes = [Image.open(io.BytesIO(base64.b64decode(text))).size for text in pictures]
    assert sizes == [(128, 128), (224, 224), (224, 224), (160, 160)]
    assert "2.5 times the median" in page


def test_heat_is_painted_in_red_and_its_absence_in_grey():
    crop = np.random.default_rng(0).integers(0, 256, (224, 224, 3)).astype(np.uint8)
    heat = np.zeros((224, 224), np.float32)
    heat[:112] = 1
    painted = lay_over(crop, heat).astype(int)
    assert (painted[:112, :, 0] > painted[:112, :, 1] + 100).all()
    assert (np.ptp(painted[112:], axis=2) <= 1).all()


def test_names_of_pictures_stay_in_their_folder():
    assert png_name(1, "new/../../x y.png") == "001-x-y-png.png"
    assert png_name(12, "\udcff") == "012-image.png"
    assert len(png_name(1, "a" * 300)) < 80


def test_explaining_needs_no_torch(made, tmp_path):
    detector, new = made
    detector.save(tmp_path / "detector")
    code = (
        "import sys, dn2\nfrom dn2.explaining import explain\nimport dn2.explanation_page\n"
        "d = dn2.load(sys.argv[1])\n"
        "(one,) = explain(d, d.score(sys.argv[2:]).images, [])\n"
        "assert one.heat is not None\n"
        "sys.exit(bool({'torch', 'timm', 'mlflow', 'matplotlib'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "detector"), new[2]]
    done = subprocess.run(command, cwd=Path(dn2.__file__).parent.parent, check=False)
    assert done.returncode == 0
