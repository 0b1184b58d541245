"""`dn2 serve`: the scores are those of `dn2 score`; what is bad is refused, and it lives on."""

import asyncio
import base64
import io
import json
import signal
import socket
import struct
import time
import tracemalloc
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from dn2_servers import FORM, JSON, Dn2Server, encode_form, status_of
from PIL import Image
from toy_encoder import write_pictures

import dn2
from dn2.commands import run_main
from dn2.crops import LeftOut
from dn2.image_detector import Scores
from dn2.images import CorruptImageError
from dn2.serving import uploads
from dn2.serving.app import make_app
from dn2.serving.uploads import Limits, check_header

LIMITS = ("--max-mb", "1", "--max-pixels", "1000000", "--max-images", "5", "--timeout", "1")


@pytest.fixture(scope="module")
def saved(home):
    dn2.ImageDetector("toy+toy2", k=3).fit(write_pictures(home / "good", 25)).save(home / "saved")
    return home / "saved"


@pytest.fixture(scope="module")
def files(home):
    """(path, content) of new images; the last one is odd."""
    paths = write_pictures(home / "new", 4, first=100)
    paths += write_pictures(home / "new", 1, first=200, odd=True)
    return [(path, Path(path).read_bytes()) for path in paths]


@pytest.fixture(scope="module")
def server(saved, tmp_path_factory):
    running = Dn2Server(saved, tmp_path_factory.mktemp("server"), "--log", *LIMITS)
    yield running
    running.kill()


def png(width, height):
    """A PNG file that declares a size; it holds no more than a few bytes of pixels."""

    def chunk(kind, content):
        return (
            struct.pack(">I", len(content))
            + kind
            + content
            + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(10_000))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


def check_schema(server, name, content):
    _, description = server.ask("GET", "/openapi.json")
    jsonschema.validate(
        content,
        {"$ref": f"#/components/schemas/{name}", "components": description["components"]},
    )


def test_scores_are_those_of_the_saved_detector(server, saved, files):
    status, answer = server.score(files)
    assert status == 200
    check_schema(server, "Scores", answer)
    expected = dn2.load(saved).score([path for path, _ in files])
    flags = expected.flag(fpr=0.05)
    assert answer["rate"] == {"fpr": 0.05}
    assert answer["n_calibration"] == expected.n_calibration == 25
    assert answer["left_out"] == []
    assert len(answer["images"]) == len(files)
    for row, (got, one, flag) in enumerate(
        zip(answer["images"], expected.images, flags, strict=True)
    ):
        assert got["index"] == row
        assert got["path"] == one.path
        assert got["score"] == pytest.approx(one.score, rel=1e-6)
        assert got["p_value"] == one.p_value
        assert got["flag"] == flag
        assert [near["path"] for near in got["nearest"]] == [near.path for near in one.nearest]
        assert [near["distance"] for near in got["nearest"]] == pytest.approx(
            [near.distance for near in one.nearest], rel=1e-6
        )
    assert flags.tolist() == [False] * 4 + [True]


def test_the_answer_has_the_fields_of_the_command(server, saved, files, capfd):
    assert run_main(["score", str(saved), files[0][0], "--json"]) == 0
    said = json.loads(capfd.readouterr().out)
    _, answer = server.score(files[:1])
    (image,) = answer["images"]
    del image["index"]
    assert answer == said


def test_base64_gives_the_same_as_a_form(server, files):
    _, form = server.score(files)
    coded = [base64.b64encode(content).decode() for _, content in files]
    images = [{"name": name, "content": text} for (name, _), text in zip(files, coded, strict=True)]
    images[1]["content"] = "data:image/png;base64," + coded[1]
    images[2] = coded[2]  # without a name
    status, answer = server.ask("POST", "/score", json.dumps({"images": images}), JSON)
    assert status == 200
    assert answer["images"][2].pop("path") == "image 3"
    form["images"][2].pop("path")
    assert answer == form


def test_a_rate_may_be_asked_for(server, files):
    for name in ("fdr", "fpr"):
        status, answer = server.score(files, f"?{name}=0.3")
        assert (status, answer["rate"]) == (200, {name: 0.3})
    for query, reason in (
        ("?fpr=0.001", "fpr 0.001 needs at least 999 calibration images, got 25"),
        ("?fpr=nan", "fpr must be a fraction between 0 and 1"),
        ("?fpr=a", "fpr must be a number, got 'a'"),
        ("?fpr=0.1&fdr=0.1", "the parameters are fpr or fdr, one of them, got fpr, fdr"),
        ("?rate=0.1", "one of them, got rate"),
    ):
        status, answer = server.score(files, query)
        assert status == 422
        assert reason in answer["error"]


def test_many_clients_get_their_own_scores(server, files):
    _, together = server.score(files)
    expected = {image["path"]: image["score"] for image in together["images"]}

    def ask(number):
        one = files[number % len(files)]
        status, answer = server.score([one])
        return status, answer["images"][0]["path"] == one[0], answer["images"][0]["score"]

    with ThreadPoolExecutor(8) as pool:
        for number, (status, is_its_own, score) in enumerate(pool.map(ask, range(40))):
            assert (status, is_its_own) == (200, True)
            assert score == expected[files[number % len(files)][0]]


def test_a_bad_image_costs_no_other(server, files):
    good = files[0][1]
    status, answer = server.score(
        [
            ("a.png", good),
            ("b.png", good[:-40]),
            ("c.png", b""),
            files[-1],
            ("d.png", png(2000, 900)),
        ]
    )
    assert status == 200
    check_schema(server, "Scores", answer)
    assert [image["index"] for image in answer["images"]] == [0, 3]
    _, alone = server.score([files[-1]])
    assert answer["images"][1]["score"] == alone["images"][0]["score"]
    reasons = {one["index"]: (one["path"], one["reason"]) for one in answer["left_out"]}
    assert reasons.keys() == {1, 2, 4}
    assert reasons[2] == ("c.png", "it is empty")
    assert reasons[4][1] == ("it has 2,000 x 900 pixels, more than the 1,000,000 that are allowed")


def black(width, height):
    content = io.BytesIO()
    Image.fromarray(np.zeros((height, width), np.uint8)).save(content, "PNG")
    return content.getvalue()


BAD_IMAGES = {
    "cut short": (lambda good: good[:-40], ""),
    "ten bytes": (lambda _: b"0123456789", "it is in no known image format: send PNG"),
    "empty": (lambda _: b"", "it is empty"),
    "bomb": (
        lambda _: png(50_000, 50_000),
        "it has more than the 1,000,000 pixels that are allowed",
    ),
    "bomb below Pillow's limit": (lambda _: png(12_000, 12_000), "it has 12,000 x 12,000 pixels"),
    "too large": (
        lambda _: black(1001, 1000),
        "it has 1,001 x 1,000 pixels, more than the 1,000,000",
    ),
    "PostScript": (
        lambda _: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        "it is in no known image format",
    ),
}


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_a_request_with_no_readable_image_is_refused(server, files, name):
    make, reason = BAD_IMAGES[name]
    status, answer = server.score([("a.png", make(files[0][1]))])
    assert status == 422
    check_schema(server, "Error", answer)
    assert answer["error"] == "no image can be read"
    assert reason in answer["left_out"][0]["reason"]
    assert server.score(files)[0] == 200


def in_json(content):
    return json.dumps(content).encode(), JSON


BAD_BODIES = {
    "no body": (b"", {}, 415, "must be multipart/form-data or application/json, got none"),
    "text": (b"hello", {"content-type": "text/plain"}, 415, "got text/plain"),
    "an image": (png(9, 9), {"content-type": "image/png"}, 415, "got image/png"),
    "no files": (encode_form([]), FORM, 422, "the request holds no image"),
    "empty form": (b"", FORM, 400, "it has no closing boundary"),
    "no boundary": (b"", {"content-type": "multipart/form-data"}, 400, "Missing boundary"),
    "no form": (b"hello", FORM, 400, "the form cannot be read"),
    "cut-off form": (encode_form([("a", b"b")])[:-9], FORM, 400, "it has no closing boundary"),
    "a field": (
        encode_form([("a", b"b")]).replace(b'; filename="a"', b""),
        FORM,
        422,
        "the field 'images' is no file",
    ),
    "6 files": (encode_form([("a", b"b")] * 6), FORM, 413, "Maximum number of files is 5"),
    "no JSON": (b"{", JSON, 400, "the body is no JSON"),
    "no UTF-8": (b'"\xff"', JSON, 400, "the body is no JSON"),
    "deep JSON": (b"[" * 500_000, JSON, 400, "the body is no JSON"),
    "a list": (*in_json([1]), 422, "the JSON has no list of images"),
    "no list": (*in_json({"images": "a"}), 422, "the JSON has no list of images"),
    "an empty list": (*in_json({"images": []}), 422, "the request holds no image"),
    "numbers": (*in_json({"images": [1]}), 422, "image 1 must be base64 text"),
    "no content": (*in_json({"images": [{"name": "a"}]}), 422, "image 1 must be base64"),
    "no base64": (*in_json({"images": ["AAAA", "%"]}), 422, "image 2 is no base64"),
    "6 in JSON": (*in_json({"images": ["AAAA"] * 6}), 413, "may hold 5 images, got 6"),
    "too long": (b"a" * 1_000_001, FORM, 413, "a request may have 1,000,000 bytes"),
}


@pytest.mark.parametrize("name", BAD_BODIES)
def test_a_bad_body_is_refused(server, files, name):
    body, headers, expected, reason = BAD_BODIES[name]
    status, answer = server.ask("POST", "/score", body, headers)
    assert (status, reason in answer["error"]) == (expected, True), answer
    check_schema(server, "Error", answer)
    assert server.score(files[:1])[0] == 200


def test_a_gigabyte_is_refused_before_it_is_sent(server):
    with server.connect(f"content-type: {FORM['content-type']}", length=2**30) as opened:
        started = time.monotonic()
        status, answer = status_of(opened)
    assert status == 413
    assert "1,000,000 bytes" in answer["error"]
    assert time.monotonic() - started < 1


@pytest.mark.parametrize("kind", [FORM, JSON])
def test_chunks_without_a_length_are_counted(server, kind):
    begin = encode_form([("a", b"")]).partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
    with server.connect(
        f"content-type: {kind['content-type']}", "transfer-encoding: chunked"
    ) as opened:
        for _ in range(20):
            chunk = begin + bytes(2**16 - len(begin))
            opened.sendall(b"10000\r\n" + chunk + b"\r\n")
            begin = b""
        status, answer = status_of(opened)
    assert status == 413
    assert "1,000,000 bytes" in answer["error"]


def test_a_body_that_does_not_arrive_is_given_up(server):
    with server.connect(f"content-type: {FORM['content-type']}", length=1000) as opened:
        opened.sendall(b"--")
        status, answer = status_of(opened)
    assert status == 408
    assert answer["error"].startswith("the body did not arrive within 1 s")


@pytest.mark.parametrize("before", [b"", b"GET /health HTTP/1.1\r\nhost: a\r\n\r\n"])
def test_a_head_that_does_not_arrive_is_given_up(server, before):
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as opened:
        if before:
            opened.sendall(before)
            assert opened.recv(2**16).startswith(b"HTTP/1.1 200")
            time.sleep(0.7)
        started = time.monotonic()
        opened.sendall(b"POST /score HTTP/1.1\r\nhost: a\r\n")
        if before:
            time.sleep(0.5)  # more than a second after the connection was made
            opened.sendall(b"x: a\r\n")
        while opened.recv(2**16):
            pass
        assert 0.9 < time.monotonic() - started < 8


def test_a_client_that_goes_away_is_no_fault(server, files):
    for _ in range(3):
        server.connect(f"content-type: {FORM['content-type']}", length=1000).close()
    with server.connect(length=0) as opened:
        opened.sendall(b"\0\0\r\n\r\n nonsense")
    assert server.score(files)[0] == 200
    assert "error" not in server.errors.read_text()


def test_a_name_is_never_a_path(server, files, tmp_path):
    aim = tmp_path / "aim"
    names = [str(aim), "../../etc/passwd", "/etc/passwd", "a" * 1000, "ä\u202e.png"]
    status, answer = server.score([(name, files[0][1]) for name in names])
    assert status == 200
    assert [image["path"] for image in answer["images"]] == [
        *names[:3],
        "a" * 200 + "...",
        names[4],
    ]
    assert len({image["score"] for image in answer["images"]}) == 1
    assert not aim.exists()


def test_the_other_pages(server):
    assert server.ask("GET", "/health") == (200, {"status": "ok"})
    status, about = server.ask("GET", "/version")
    assert status == 200
    check_schema(server, "Version", about)
    assert about["dn2"] == dn2.__version__
    assert about["detector"]["encoder"] == "toy+toy2"
    assert about["limits"]["images"] == 5
    _, description = server.ask("GET", "/openapi.json")
    assert set(description["paths"]) == {"/score", "/health", "/version"}
    for path in ("/", "/docs"):
        status, page = server.ask("GET", path)
        assert status == 200
        assert "POST /score" in page
        assert "http://" not in page  # it needs no other address
        assert "https://" not in page
    there_are = "is not served: send POST /score, or GET /health, /version, /openapi.json or /"
    assert server.ask("GET", "/nowhere") == (404, {"error": f"GET /nowhere {there_are}"})
    assert server.ask("GET", "/score") == (405, {"error": f"GET /score {there_are}"})
    long = server.ask("POST", "/" + "x" * 5000)
    assert (long[0], len(long[1]["error"]) < 400) == (404, True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_running_request_is_finished_before_the_end(saved, files, tmp_path, number):
    running = Dn2Server(saved, tmp_path)
    content = io.BytesIO()
    picture = np.random.default_rng(0).integers(0, 256, (700, 700, 3), dtype=np.uint8)
    Image.fromarray(picture).save(content, "PNG")
    assert len(content.getvalue()) > 2**20  # it waits on disk
    try:
        body = encode_form([*files[:4], ("large.png", content.getvalue())])
        with running.connect(f"content-type: {FORM['content-type']}", length=len(body)) as opened:
            opened.sendall(body[:-9])
            time.sleep(0.3)
            running.process.send_signal(number)
            time.sleep(0.3)
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", running.port))
            opened.sendall(body[-9:])
            status, answer = status_of(opened)
        assert (status, len(answer["images"])) == (200, 5)
        (expected,) = dn2.load(saved).score([picture]).images
        assert answer["images"][4]["score"] == pytest.approx(expected.score, rel=1e-6)
        assert running.process.wait(10) == 0
    finally:
        running.kill()
    lines = running.errors.read_text().splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("loading ")
    assert lines[1].endswith("(Ctrl-C stops it)")
    assert lines[2] == "stopped"
    assert running.output.read_text() == "heavy:\n"  # it imported neither torch nor MLflow


def ask_app(app, *bodies):
    """Send several requests to an ASGI application at a time; a body of None never comes."""

    async def send_one(body):
        sent = []

        async def receive():
            if body is None:
                await asyncio.sleep(3600)
            return {"type": "http.request", "body": body}

        async def send(message):
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": "/score", "query_string": b""}
        scope["headers"] = [(b"content-type", b"application/json")]
        await app(scope, receive, send)
        return sent[0]["status"], json.loads(sent[1]["body"]), dict(sent[0]["headers"])

    async def send_all():
        return await asyncio.gather(*(send_one(body) for body in bodies))

    return asyncio.run(send_all())


class Broken:
    async def score(self, uploads):
        raise RuntimeError("the network is gone")


@pytest.fixture
def broken():
    """An application whose scorer fails, and the lines for the operator."""
    lines = []
    limits = Limits(bytes=1000, pixels=1000, images=5, requests=1, seconds=0.2)
    return make_app(Broken(), {}, limits, None, None, lines.append), lines


def test_a_fault_of_the_server_is_told_to_its_operator(broken):
    app, lines = broken
    ((status, answer, _),) = ask_app(app, b'{"images": ["AAAA"]}')
    assert (status, answer) == (500, {"error": "the server failed: its log says why"})
    assert lines == ["RuntimeError: the network is gone"]


class Answering:
    """A scorer that reads no image."""

    async def score(self, uploads):
        left_out = tuple(LeftOut(upload.name, "it is not read") for upload in uploads)
        return [], Scores((), left_out, 25)


def test_half_a_character_in_a_name_is_an_escape_and_an_answer_in_json():
    lines = []
    limits = Limits(bytes=1000, pixels=1000, images=5, requests=1, seconds=5)
    app = make_app(Answering(), {}, limits, None, None, lines.append)
    body = rb'{"images": [{"name": "\udcff\ud800\u00e4.png", "content": "AAAA"}]}'
    ((status, answer, _),) = ask_app(app, body)
    assert (status, answer["error"], lines) == (422, "no image can be read", [])
    assert answer["left_out"][0]["path"] == "\\xff\\ud800\u00e4.png"


def test_a_refusal_that_cannot_be_written_is_told_as_well(monkeypatch):
    lines = []
    limits = Limits(bytes=1000, pixels=1000, images=5, requests=1, seconds=5)
    app = make_app(Answering(), {}, limits, None, None, lines.append)
    monkeypatch.setattr(uploads, "shown", lambda name: name)
    ((status, answer, _),) = ask_app(app, rb'{"images": [{"name": "\ud800", "content": "AAAA"}]}')
    assert (status, answer) == (500, {"error": "the server failed: its log says why"})
    assert len(lines) == 1
    assert lines[0].startswith("UnicodeEncodeError: ")


@pytest.mark.parametrize(
    ("unit", "end", "status"),
    [
        (b'"",', b'""]}', 413),  # images
        (b"[],", b"0]}", 413),
        (b"1,", b"1]}", 413),
        (b"", b'"' + b"ab " * 700_000 + b'"]}', 200),  # base64 in many pieces
    ],
)
def test_json_takes_little_memory_whatever_it_holds(unit, end, status, monkeypatch):
    body = b'{"images": [' + unit * (2_000_000 // (len(unit) or 10**9)) + end
    read = []
    monkeypatch.setattr(uploads, "Upload", lambda *args: read.append(args))
    tracemalloc.start()
    try:
        if status == 200:
            uploads._read_json(body, 5)
        else:
            with pytest.raises(uploads.Refused, match="a request may hold 5 images, got"):
                uploads._read_json(body, 5)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(read) == (status == 200)
    assert peak < 5 * len(body)


def test_few_images_more_than_allowed_are_not_read(monkeypatch):
    monkeypatch.setattr(uploads, "_read_item", None)
    with pytest.raises(uploads.Refused, match="a request may hold 5 images, got 900: send fewer"):
        uploads._read_json(b'{"images": [' + b'"",' * 899 + b'""]}', 5)


def test_who_waits_too_long_is_told_to_come_again(broken):
    app, _ = broken
    answers = ask_app(app, None, None)
    assert sorted(status for status, _, _ in answers) == [408, 503]
    (busy,) = [(answer, headers) for status, answer, headers in answers if status == 503]
    assert busy[0] == {"error": "too many requests are waiting: send it again later"}
    assert busy[1][b"retry-after"] == b"1"


def test_mistakes_are_one_line(saved, capfd):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for arguments, code, message in (
            (["--port", port], 1, f"cannot listen at 127.0.0.1:{port} (Address already in use): "),
            (["--host", "no.such.host.invalid"], 1, "no.such.host.invalid is no address"),
            (["--port", "70000"], 2, "70000 is not in the range"),
            (["--port", "0", "--fpr", "0.001"], 2, "--fpr 0.001 needs at least 999"),
            (["--fpr", "0.1", "--fdr", "0.1"], 2, "give --fpr or --fdr, not both"),
        ):
            assert run_main(["serve", str(saved), *arguments]) == code
            error = capfd.readouterr().err.splitlines()[-1]
            assert error.startswith("error: ")
            assert message in error
    assert run_main(["serve", str(saved.parent / "good"), "--port", "0"]) == 2
    assert "is no detector" in capfd.readouterr().err


def test_a_header_tells_the_pixels():
    check_header(png(100, 100), "a", 10_000)
    with pytest.raises(CorruptImageError, match="100 x 101 pixels, more than the 10,000 that are"):
        check_header(png(100, 101), "a", 10_000)
    with pytest.raises(CorruptImageError, match="it has more than the 10,000 pixels that are"):
        check_header(png(60_000, 60_000), "a", 10_000)
