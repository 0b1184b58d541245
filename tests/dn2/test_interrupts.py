"""Ctrl-C is one line and exit code 130: wherever Python raises it, and whatever is made of it."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dn2 import commands
from dn2.commands import run_main
from dn2.interrupts import Interrupts

ROOT = Path(__file__).parent.parent.parent

START = """
import os, signal, sys
from dn2 import commands
def interrupt(): os.kill(os.getpid(), signal.SIGINT)
"""
"""A program whose verbs are replaced by a function ``run``."""

VERBS = """
class Verbs:
    run = staticmethod(run)
sys.modules["dn2.commands.verbs"] = Verbs
code = commands.run_main()
"""

HAPPENINGS = {
    "while a module is imported": """
class Finder:
    def find_spec(self, name, *_):
        if name == "dn2.commands.verbs": interrupt()
sys.meta_path.insert(0, Finder())
code = commands.run_main()
""",
    "in a callback, which swallows it": """
def run(arguments):
    class Dying:
        def __del__(self): interrupt(); sum(range(10))
    Dying()
    import time
    time.sleep(20)
    return 0, ""
""",
    "in a library, which swallows it and goes on": """
def run(arguments):
    try:
        interrupt(); sum(range(10))
    except KeyboardInterrupt:
        pass
    import time
    time.sleep(20)
    return 0, ""
""",
    "in C code, which makes another error of it": """
def run(arguments):
    try:
        interrupt(); sum(range(10))
    except KeyboardInterrupt as error:
        sys.excepthook(type(error), error, error.__traceback__)  # what PyErr_Print does
    raise ImportError("numpy._core.multiarray failed to import")
""",
    "in a library, which makes a failure of it": """
def run(arguments):
    try:
        interrupt(); sum(range(10))
    except KeyboardInterrupt:
        return 1, "cannot open the file"
""",
}


def run_program(code):
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=15,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


@pytest.mark.parametrize("when", HAPPENINGS)
def test_an_interrupt_is_one_line_and_code_130(when):
    code = START + HAPPENINGS[when] + (VERBS if "def run" in HAPPENINGS[when] else "")
    done = run_program(code + "sys.exit(code)")
    assert (done.returncode, done.stderr.splitlines()) == (130, ["error: interrupted"])


def test_after_the_end_it_changes_nothing():
    ending = """
import atexit
def run(arguments):
    atexit.register(interrupt)
    print("the result")
    return 0, ""
"""
    done = run_program(START + ending + VERBS + "interrupt(); sys.exit(code)")
    assert (done.returncode, done.stdout, done.stderr) == (0, "the result\n", "")


def test_who_ignores_ctrl_c_goes_on_to_ignore_it():
    code = """
def run(arguments):
    interrupt(); sum(range(10))
    return 0, ""
"""
    ignored = START + "signal.signal(signal.SIGINT, signal.SIG_IGN)\n" + code + VERBS
    done = run_program(ignored + "sys.exit(code)")
    assert (done.returncode, done.stderr) == (0, "")


def test_in_a_call_nothing_is_changed_but_the_interrupt_is_a_line(monkeypatch, capsys):
    def interrupted(arguments):
        raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT), sys.excepthook, sys.unraisablehook
    monkeypatch.setattr("dn2.commands.verbs.run", interrupted)
    assert run_main(["info"]) == commands.INTERRUPTED == 130
    assert capsys.readouterr().err == "error: interrupted\n"
    assert (signal.getsignal(signal.SIGINT), sys.excepthook, sys.unraisablehook) == before


def test_another_error_is_no_interrupt():
    with pytest.raises(ZeroDivisionError), Interrupts(ending=False):
        raise ZeroDivisionError
