"""Results on disk: what is written comes back whole, and what is not whole does not come back."""

import errno
import json
import os
import resource
import signal
import zipfile
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from handmade import EXPERIMENT, assert_equal_results, make_cell, make_curve, make_result, start

from benchmarks.result_store import Cells, CellsError

OTHER = replace(EXPERIMENT, seed=7)


@pytest.fixture
def cells(tmp_path):
    return Cells(tmp_path / "home")


@pytest.mark.parametrize(
    "result",
    [
        make_result(),
        replace(make_result(), nearest=None),
        make_result(size=3, x=3.0, split="cat-m3"),
        make_curve()[3],
        make_result(
            replace(EXPERIMENT, classes=("cat", "dog"), protocol_params={"ratios": (0.0, 0.1)}),
            split="cat-n0.5",
        ),
    ],
    ids=["plain", "no neighbours", "groups", "curve", "tuples and a dot in the name"],
)
def test_a_result_comes_back_as_it_was(cells, result):
    cells.save(result)
    (loaded,) = cells.load(result.experiment).values()
    assert_equal_results(loaded, result)


def test_results_come_back_by_split_and_only_those_of_the_cell(cells):
    for result in make_cell():
        cells.save(result)
    cells.save(make_result(OTHER, "dog"))
    assert set(cells.load(EXPERIMENT)) == {"cat", "dog", "truck"}
    assert set(cells.load(OTHER)) == {"dog"}
    assert cells.load(replace(EXPERIMENT, seed=8)) == {}


def test_saving_again_replaces(cells):
    cells.save(make_result(rocauc=0.5))
    cells.save(make_result(rocauc=0.6))
    assert cells.load(EXPERIMENT)["cat"].metrics["rocauc"] == 0.6


def test_discard_removes_this_cell_only(cells):
    cells.save(make_result())
    cells.save(make_result(OTHER))
    cells.discard(EXPERIMENT)
    assert cells.load(EXPERIMENT) == {}
    assert set(cells.load(OTHER)) == {"cat"}


def cut(path):
    path.write_bytes(path.read_bytes()[:-50])


def halve(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_byte_of_the_scores(path):
    with zipfile.ZipFile(path) as file:
        place = file.getinfo("scores.npy").header_offset + 90
    data = bytearray(path.read_bytes())
    data[place] ^= 0xFF
    path.write_bytes(data)


def empty(path):
    path.write_bytes(b"")


def foreign(path):
    path.write_text("split,rocauc\ncat,0.9\n")


def no_arrays(path):
    np.savez(path, about=np.array("{}"))


def of_another_cell(path):
    elsewhere = Cells(path.parent.parent.parent / "elsewhere")
    path.write_bytes(elsewhere.save(make_result(OTHER)).read_bytes())


def of_another_split(path):
    elsewhere = Cells(path.parent.parent.parent / "elsewhere")
    path.write_bytes(elsewhere.save(make_result(class_name="dog")).read_bytes())


def rewritten(path, **changes):
    with np.load(path) as file:
        arrays = dict(file)
    np.savez(path, **{**arrays, **changes})


def shorter_rows(path):
    rewritten(path, rows=np.arange(19))


def shorter_nearest(path):
    rewritten(path, nearest=np.zeros((19, 3), dtype=np.int64))


def of_another_layout(path):
    with np.load(path) as file:
        about = json.loads(str(file["about"]))
    rewritten(path, about=np.array(json.dumps({**about, "format": 0})))


class Planted:
    """Pickled into a file, it would leave a file behind when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def pickled(path):
    rewritten(path, scores=np.array([Planted(path.parent / "executed")] * 20, dtype=object))


@pytest.mark.parametrize(
    "damage",
    [
        cut,
        halve,
        flip_a_byte_of_the_scores,
        empty,
        foreign,
        no_arrays,
        of_another_cell,
        of_another_split,
        shorter_rows,
        shorter_nearest,
        of_another_layout,
        pickled,
    ],
)
def test_a_damaged_file_is_told_left_out_and_replaced(cells, damage):
    path = cells.save(make_result())
    cells.save(make_result(class_name="dog"))
    damage(path)
    with pytest.warns(
        UserWarning, match=r"cat\.npz is not a whole result \(.+\): its split is computed again"
    ) as told:
        assert set(cells.load(EXPERIMENT)) == {"dog"}
    assert len(told) == 1
    assert "\n" not in str(told[0].message)
    assert not (path.parent / "executed").exists()
    cells.save(make_result())
    assert set(cells.load(EXPERIMENT)) == {"cat", "dog"}


def test_what_a_killed_writer_left_is_no_result(cells):
    """kill -9 in the middle of writing: the file under its own name is not there."""
    writer = start(
        """
        import os, signal, sys
        from pathlib import Path
        import numpy as np
        from handmade import make_result
        from benchmarks.result_store import Cells
        cells = Cells(Path(sys.argv[1]))
        cells.save(make_result(class_name="dog"))
        os.fsync = lambda number: os.kill(os.getpid(), signal.SIGKILL)
        cells.save(make_result())
        """,
        cells.home,
    )
    assert writer.wait(60) == -signal.SIGKILL
    assert set(cells.load(EXPERIMENT)) == {"dog"}
    cells.save(make_result())
    assert [path.name for path in cells.folder(EXPERIMENT).glob(".*")] == []


@contextmanager
def full_disk():
    with patch.object(os, "fsync", side_effect=OSError(errno.ENOSPC, "No space left on device")):
        yield


@contextmanager
def largest_file():
    """A real failure of write(2), which counts for root too."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("broken_disk", [full_disk, largest_file])
def test_a_full_disk_is_one_clear_error_and_loses_nothing(cells, broken_disk):
    before = cells.save(make_result(rocauc=0.5))
    with (
        broken_disk(),
        pytest.raises(
            CellsError, match=r"cannot write the result .*cat\.npz \(.+\): free some space"
        ) as caught,
    ):
        cells.save(make_result(rocauc=0.6))
    assert "\n" not in str(caught.value)
    assert [path.name for path in before.parent.iterdir()] == ["cat.npz"]
    assert cells.load(EXPERIMENT)["cat"].metrics["rocauc"] == 0.5


def test_a_home_that_is_a_file_is_one_clear_error(tmp_path):
    (tmp_path / "home").write_text("")
    cells = Cells(tmp_path / "home")
    with pytest.raises(CellsError, match="DN2_HOME"):
        cells.save(make_result())
    with pytest.raises(CellsError, match="DN2_HOME"), cells.lock([EXPERIMENT]):
        pass
    assert cells.load(EXPERIMENT) == {}


HOLDER = """
    import sys, time
    from pathlib import Path
    from handmade import EXPERIMENT, make_result
    from benchmarks.result_store import Cells
    cells = Cells(Path(sys.argv[1]))
    with cells.lock([EXPERIMENT]):
        print("held", flush=True)
        time.sleep(float(sys.argv[2]))
        cells.save(make_result())
    """


def test_a_second_process_waits_is_told_and_finds_the_result(cells):
    holder = start(HOLDER, cells.home, 1)
    assert holder.stdout.readline() == "held\n"
    waited = []
    with cells.lock([OTHER, EXPERIMENT], waiting=waited.append):
        assert waited == [cells.folder(EXPERIMENT)]
        assert set(cells.load(EXPERIMENT)) == {"cat"}
    assert holder.wait(60) == 0


def test_a_killed_holder_holds_no_longer(cells):
    holder = start(HOLDER, cells.home, 600)
    assert holder.stdout.readline() == "held\n"
    holder.kill()
    holder.wait()
    waited = []
    with cells.lock([EXPERIMENT], waiting=waited.append):
        assert waited == []


def test_cells_of_another_key_are_not_waited_for(cells):
    holder = start(HOLDER, cells.home, 600)
    assert holder.stdout.readline() == "held\n"
    waited = []
    with cells.lock([OTHER, OTHER], waiting=waited.append):
        assert waited == []
    holder.kill()
    holder.wait()


def test_locks_in_opposite_order_do_not_wait_for_each_other(cells):
    """Two processes ask for the same two cells in opposite order, again and again."""
    code = """
        import sys
        from pathlib import Path
        from handmade import EXPERIMENT
        from dataclasses import replace
        from benchmarks.result_store import Cells
        two = [EXPERIMENT, replace(EXPERIMENT, seed=7)]
        for _ in range(300):
            with Cells(Path(sys.argv[1])).lock(two if sys.argv[2] == "forward" else two[::-1]):
                pass
        """
    both = [start(code, cells.home, order) for order in ("forward", "backward")]
    try:
        assert [process.wait(60) for process in both] == [0, 0]
    finally:
        for process in both:
            process.kill()
