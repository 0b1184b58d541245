"""Which files are found, what is passed over, and that nothing is opened or lost in silence."""

import io
import os

import pytest
from PIL import Image

from dn2.gathering import gather, printable


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A folder of files that are images by their names, and others."""
    monkeypatch.chdir(tmp_path)
    for name in (
        "good/b.png",
        "good/a.JPG",
        "good/deep/er/c.webp",
        "good/deep/d.tiff",
        "good/notes.txt",
        "good/.hidden/e.png",
        "good/.f.png",
        "new/x[1].png",
        "new/y.png",
        "plain",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"not opened")
    return tmp_path


def test_a_folder_is_searched_to_any_depth_and_what_is_skipped_is_counted(tree):
    found = gather(["good"])
    assert found.paths == ["good/a.JPG", "good/b.png", "good/deep/d.tiff", "good/deep/er/c.webp"]
    assert found.notes == [
        "skipped, hidden files and folders: 2",
        "skipped, files without the suffix of an image: 1 (.txt 1)",
    ]
    assert found.missing == []


def test_endings_are_counted_and_images_that_are_not_read_are_named(tree):
    for name in ("good/c.HEIC", "good/d.dng", "good/Makefile", "good/e.jfif", "good/f.tga"):
        (tree / name).write_bytes(b"not opened")
    found = gather(["good"])
    assert {"good/e.jfif", "good/f.tga"} <= set(found.paths)
    assert found.notes[1].endswith("image: 4 (.dng 1, .heic 1, .txt 1, no ending 1)")
    assert found.notes[2] == (
        "not read, though probably images: .dng 1, .heic 1 "
        "(convert them to PNG, or install pillow-heif)"
    )


def test_a_tiff_of_several_pages_is_left_out_and_an_animation_is_counted(tree):
    pages = [Image.new("L", (8, 8), grey) for grey in (1, 90, 200)]
    pages[0].save(tree / "good" / "stack.tif", save_all=True, append_images=pages[1:])
    pages[0].save(tree / "good" / "one.tif")
    pages[0].save(tree / "good" / "film.gif", save_all=True, append_images=pages[1:])
    found = gather(["good"])
    (left_out,) = found.missing
    assert left_out.path == "good/stack.tif"
    assert left_out.reason.startswith("it holds 3 pages")
    assert {"good/one.tif", "good/film.gif"} <= set(found.paths)
    assert "of which the first frame is taken, animations: 1" in found.notes


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["new/y.png"], ["new/y.png"]),
        (["plain"], ["plain"]),
        (["new/x[1].png"], ["new/x[1].png"]),  # a name that exists is no pattern
        (["good/*.png"], ["good/b.png"]),
        (["good/**/*.tiff"], ["good/deep/d.tiff"]),
        (["good/*"], ["good/a.JPG", "good/b.png", "good/deep/d.tiff", "good/deep/er/c.webp"]),
        (["new", "new/y.png", "./new/y.png"], ["new/x[1].png", "new/y.png"]),
        (["@list"], ["new/y.png", "good/b.png"]),
        (["@zeros"], ["new/y.png", "odd\nname.png"]),
        (["-"], ["plain", "new/y.png"]),
    ],
)
def test_files_patterns_and_lists(tree, arguments, expected):
    (tree / "list").write_text("new/y.png\n\ngood/b.png\r\n")
    (tree / "odd\nname.png").touch()
    (tree / "zeros").write_bytes(b"new/y.png\0odd\nname.png\0")
    assert gather(arguments, io.BytesIO(b"plain\nnew/y.png")).paths == expected


@pytest.mark.parametrize("pattern", ["good/**", "./**", "good/*", "good/**/*", "go*/**/"])
def test_what_a_pattern_finds_twice_is_taken_once_and_no_note_tells(tree, pattern):
    found = gather([pattern])
    assert {os.path.normpath(path) for path in found.paths} >= {
        "good/a.JPG",
        "good/b.png",
        "good/deep/d.tiff",
        "good/deep/er/c.webp",
    }
    assert not [note for note in found.notes if "more than once" in note]


def test_names_need_not_be_utf_8(tree):
    name = os.fsdecode(b"new/\xff\xfe.png")
    (tree / name).touch()
    assert name in gather(["new"]).paths
    assert gather(["-"], io.BytesIO(b"new/\xff\xfe.png\n")).paths == [name]
    assert printable(name) == r"new/\xff\xfe.png"
    assert printable("a\x1b[2J\n.png") == r"a\x1b[2J\n.png"


def test_what_is_no_file_is_not_opened(tree):
    os.mkfifo(tree / "good/pipe.png")
    (tree / "good/zero.png").symlink_to("/dev/zero")
    (tree / "good/lost.png").symlink_to("nowhere")
    found = gather(["good", "good/pipe.png", "/dev/zero", "no.png", "bad\0.png"])
    assert found.notes[-2:] == [
        "not opened: good/pipe.png (FIFO)",
        "not opened: good/zero.png (device)",
    ]
    assert [(one.path, one.reason) for one in found.missing] == [
        ("good/lost.png", "it is a link that leads nowhere"),
        ("good/pipe.png", "it is a FIFO, not a file"),
        ("/dev/zero", "it is a device, not a file"),
        ("no.png", "No such file or directory"),
        ("bad\0.png", "embedded null byte"),
    ]


def test_links_in_a_circle_end(tree):
    (tree / "good/deep/again").symlink_to(tree / "good")
    assert len(gather(["good"]).paths) == 4


def test_mistakes_are_errors(tree):
    (tree / "empty").touch()
    with pytest.raises(ValueError, match=r"no file fits good/\*\.gif: correct the pattern"):
        gather(["good/*.gif"])
    with pytest.raises(ValueError, match="empty names no image"):
        gather(["@empty"])
    with pytest.raises(FileNotFoundError):
        gather(["@no"])
