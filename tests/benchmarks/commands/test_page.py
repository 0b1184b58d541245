"""The link that a run prints leads to the server that `ui` started, if it is still there."""

import json
import os
import socket
import subprocess
import sys
import warnings
from contextlib import contextmanager

import click
import pytest

from benchmarks.__main__ import run_main
from benchmarks.commands import page
from benchmarks.commands.ui import ui
from benchmarks.tracking import server

STORE = "sqlite:////somewhere/mlflow.db"


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("DN2_HOME", str(tmp_path))
    return tmp_path.resolve()


@pytest.fixture
def listening():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def say(store, called="python -m benchmarks", tracking_uri=""):
    with click.Context(click.Command("run"), info_name=called):
        return page.how_to_look(store, "3", tracking_uri)


def note(port, store=STORE):
    page.note_page(store, f"http://127.0.0.1:{port}/#/experiments/3", "127.0.0.1", port)


def test_without_a_server_the_link_has_the_default_port(home):
    assert say(STORE).startswith("Look at them: python -m benchmarks ui, then\n")
    assert "http://127.0.0.1:5000/#/experiments/3/" in say(STORE)
    assert "dn2-bench ui --tracking-uri sqlite:///x.db," in say(
        STORE, "dn2-bench", "sqlite:///x.db"
    )


def test_a_server_that_runs_is_linked_for_its_store_alone(home, listening):
    note(listening)
    assert say(STORE).startswith(f"Look at them:\n  http://127.0.0.1:{listening}/#/experiments/3/")
    assert "127.0.0.1:5000" in say("sqlite:////elsewhere/mlflow.db")


def test_a_page_that_is_served_already_is_named(home, listening, tmp_path, capfd):
    store = f"sqlite:///{tmp_path.resolve()}/mlflow.db"
    note(listening, store)
    assert run_main(["ui", "--tracking-uri", store]) == 2
    error = capfd.readouterr().err.splitlines()[-1]
    assert error == (
        "error: the page of this store is served already, at "
        f"http://127.0.0.1:{listening}: open it."
    )


def test_a_tracking_server_is_its_own_page(home):
    assert "http://10.0.0.1:80/#/experiments/3/" in say("http://10.0.0.1:80")


def change(home, **fields):
    (file,) = (home / "pages").glob("*.json")
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def test_a_dead_server_is_ignored(home, listening):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    note(listening)
    change(home, pid=ended.pid)
    assert page.find_page(STORE) is None


def test_a_server_that_does_not_answer_is_ignored(home, listening):
    note(listening)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    change(home, port=port)
    assert page.find_page(STORE) is None


def test_a_server_of_another_machine_is_ignored(home, listening):
    note(listening)
    change(home, machine="elsewhere")
    assert page.find_page(STORE) is None


def test_a_broken_note_is_ignored(home, listening):
    note(listening)
    (file,) = (home / "pages").glob("*.json")
    for text in ("", "[]", "{}", "\x00"):
        file.write_text(text)
        assert page.find_page(STORE) is None
        with page.forgetting_page(STORE):
            pass


def test_ui_notes_its_page_while_it_serves(home, listening, monkeypatch, capsys):
    found = []

    def serve(uri, host, port, ready):
        ready(f"http://{host}:{port}/#/experiments/3")
        found.append(page.find_page(STORE))
        raise KeyboardInterrupt

    monkeypatch.setattr(server, "serve", serve)
    arguments = ["--tracking-uri", STORE, "--port", str(listening)]
    with pytest.raises((KeyboardInterrupt, click.Abort)):
        ui.main(arguments, standalone_mode=False)
    assert found == [f"http://127.0.0.1:{listening}"]
    assert list((home / "pages").iterdir()) == []
    assert "Ctrl-C stops the page" in capsys.readouterr().out


@pytest.mark.parametrize("is_up", [False, True])
def test_ctrl_c_interrupts_a_page_that_starts_and_ends_one_that_serves(
    home, monkeypatch, capfd, is_up, tmp_path
):
    """The server's process is another one here, which is waited for just as long."""

    class Process:
        pid = 0

        def wait(self, timeout=None):
            raise KeyboardInterrupt

    @contextmanager
    def start(*_):
        yield Process()

    def wait_until_answering(*_):
        if not is_up:
            raise KeyboardInterrupt

    monkeypatch.setattr(server, "_server", start)
    monkeypatch.setattr(server, "_wait_until_answering", wait_until_answering)
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    code = run_main(["ui", "--tracking-uri", uri, "--port", str(port)])
    out, err = capfd.readouterr()
    assert code == (0 if is_up else 130)
    assert ("The runs are at" in out) == is_up
    assert ("error: interrupted" in err) != is_up


def test_ui_leaves_the_note_of_another_server(home, listening):
    with page.forgetting_page(STORE):
        note(listening)
        change(home, pid=os.getppid())
    assert page.find_page(STORE) == f"http://127.0.0.1:{listening}"
