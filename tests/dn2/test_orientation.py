"""An image is turned upright once, in every format that can say how it was taken."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from dn2.images import UPRIGHT, ImageFiles, read_image

SCENE = np.zeros((24, 40, 3), np.uint8)
SCENE[:12, :20] = 250, 20, 20
SCENE[:12, 20:] = 20, 250, 20
SCENE[12:, :20] = 20, 20, 250
SCENE[12:, 20:] = 230, 230, 20

TURNED_BACK = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""How the scene is stored for each orientation: the inverse of what a reader does."""


def exif_of(orientation):
    exif = Image.Exif()
    exif[274] = orientation
    return exif


def with_late_exif(content, orientation):
    """Put the chunk eXIf of a PNG behind the pixels, where it may stand too."""
    body = exif_of(orientation).tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(body)) + b"eXIf" + body
    chunk += struct.pack(">I", zlib.crc32(b"eXIf" + body))
    return content[:-12] + chunk + content[-12:]


def xmp_of(orientation):
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF><rdf:Description '
        f'tiff:Orientation="{orientation}"/></rdf:RDF></x:xmpmeta>'
    ).encode()


FORMS = {
    "jpeg": ("JPEG", lambda n: {"exif": exif_of(n), "quality": 95, "subsampling": 0}),
    "jpeg by xmp": ("JPEG", lambda n: {"xmp": xmp_of(n), "quality": 95, "subsampling": 0}),
    "mpo": ("MPO", lambda n: {"exif": exif_of(n), "quality": 95, "subsampling": 0}),
    "png": ("PNG", lambda n: {"exif": exif_of(n)}),
    "late png": ("PNG", lambda _: {}),
    "webp": ("WEBP", lambda n: {"exif": exif_of(n), "lossless": True}),
    "avif": ("AVIF", lambda n: {"exif": exif_of(n), "quality": 95, "subsampling": "4:4:4"}),
    "tiff": ("TIFF", lambda n: {"tiffinfo": {274: n}}),
    "tiff lzw": ("TIFF", lambda n: {"tiffinfo": {274: n}, "compression": "tiff_lzw"}),
    "tiff jpeg": ("TIFF", lambda n: {"tiffinfo": {274: n}, "compression": "jpeg"}),
}


@pytest.mark.parametrize("name", FORMS)
def test_all_eight_orientations_show_the_same_scene(name, tmp_path):
    form, options = FORMS[name]
    for orientation in range(1, 9):
        stored = Image.fromarray(SCENE)
        if orientation in TURNED_BACK:
            stored = stored.transpose(TURNED_BACK[orientation])
        file = io.BytesIO()
        stored.save(file, form, **options(orientation))
        content = file.getvalue()
        if name == "late png":
            content = with_late_exif(content, orientation)
        path = tmp_path / f"{orientation}.img"
        path.write_bytes(content)
        found = read_image(path)
        assert found.shape == SCENE.shape, orientation
        assert np.abs(found[3:-2:6, 3:-2:7].astype(int) - SCENE[3:-2:6, 3:-2:7]).max() < 40, (
            orientation
        )
        assert ImageFiles([path]).shapes() == [SCENE.shape], orientation


def test_the_table_undoes_what_a_camera_did():
    image = Image.fromarray(SCENE)
    assert {1, *UPRIGHT} == set(range(1, 9))
    for orientation, back in TURNED_BACK.items():
        turned = image.transpose(back).transpose(UPRIGHT[orientation])
        np.testing.assert_array_equal(np.asarray(turned), SCENE)
