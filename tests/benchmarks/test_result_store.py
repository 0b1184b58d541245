"""Results on disk: what is written is read back whole, and damaged files are not read."""

import errno
import hashlib
import json
import os
import pickle
import resource
import signal
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pytest
from handmade import (
    EXPERIMENT,
    LABELS,
    assert_equal_results,
    make_cell,
    make_curve,
    make_result,
    start,
)
from pyarrow import parquet

from benchmarks.result_store import (
    RECORD,
    ResultStore,
    ResultStoreError,
    read_finished,
    split_record,
)

OTHER = replace(EXPERIMENT, seed=7)


@pytest.fixture
def cells(tmp_path):
    return ResultStore(tmp_path / "home")


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
    cells.save(result, LABELS)
    (loaded,) = cells.load(result.experiment).values()
    assert_equal_results(loaded, result)


def test_results_come_back_by_split_and_only_those_of_the_cell(cells):
    for result in make_cell():
        cells.save(result, LABELS)
    cells.save(make_result(OTHER, "dog"), LABELS)
    assert set(cells.load(EXPERIMENT)) == {"cat", "dog", "truck"}
    assert set(cells.load(OTHER)) == {"dog"}
    assert cells.load(replace(EXPERIMENT, seed=8)) == {}


def test_saving_again_replaces(cells):
    cells.save(make_result(rocauc=0.5), LABELS)
    cells.save(make_result(rocauc=0.6), LABELS)
    assert cells.load(EXPERIMENT)["cat"].metrics["rocauc"] == 0.6


def test_discard_removes_this_cell_only(cells):
    cells.save(make_result(), LABELS)
    cells.save(make_result(OTHER), LABELS)
    cells.checkpoint(EXPERIMENT, "dog").touch()
    cells.write_finished([make_result()], {"splits": [{"name": "cat"}]}, LABELS)
    of_another_writer = cells.folder(EXPERIMENT) / "dog.result.1-1.tmp"
    of_another_writer.touch()
    with cells.lock([EXPERIMENT.key]):
        cells.discard(EXPERIMENT)
    of_another_writer.unlink()
    assert [path.name for path in cells.folder(EXPERIMENT).iterdir()] == ["lock"]
    assert cells.load(EXPERIMENT) == {}
    assert set(cells.load(OTHER)) == {"cat"}


def cut(path):
    path.write_bytes(path.read_bytes()[:-50])


def halve(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_byte_of_the_scores(path):
    group = parquet.read_metadata(pa.BufferReader(path.read_bytes()[:-32])).row_group(0)
    (column,) = [
        column for column in map(group.column, range(8)) if column.path_in_schema == "score"
    ]
    flip(path, column.data_page_offset + column.total_compressed_size - 5)


def flip_a_byte_of_the_digest(path):
    flip(path, -1)


def flip(path, place):
    data = bytearray(path.read_bytes())
    data[place] ^= 0xFF
    path.write_bytes(data)


def empty(path):
    path.write_bytes(b"")


def foreign(path):
    path.write_text("split,rocauc\ncat,0.9\n")


def write(path, table):
    """Write a table and its correct digest."""
    content = pa.BufferOutputStream()
    parquet.write_table(table, content)
    body = content.getvalue().to_pybytes()
    path.write_bytes(body + hashlib.sha256(body).digest())


def rewritten(path, change):
    """Write the table and the record after ``change``; the record keeps its key."""
    table = parquet.read_table(pa.BufferReader(path.read_bytes()[:-32]))
    record = json.loads(table.schema.metadata[RECORD])
    table, record = change(table, record)
    write(path, table.replace_schema_metadata({RECORD: json.dumps(record)}))


def no_parquet(path):
    body = b"split,rocauc\ncat,0.9\n"
    path.write_bytes(body + hashlib.sha256(body).digest())


def no_arrays(path):
    rewritten(path, lambda table, record: (table.select([]), record))


def no_scores(path):
    rewritten(path, lambda table, record: (table.drop_columns(["score"]), record))


def no_record(path):
    table = parquet.read_table(pa.BufferReader(path.read_bytes()[:-32]))
    write(path, table.replace_schema_metadata(None))


def of_another_cell(path):
    elsewhere = ResultStore(path.parent.parent.parent / "elsewhere")
    path.write_bytes(elsewhere.save(make_result(OTHER), LABELS).read_bytes())


def of_another_split(path):
    elsewhere = ResultStore(path.parent.parent.parent / "elsewhere")
    path.write_bytes(elsewhere.save(make_result(class_name="dog"), LABELS).read_bytes())


def shorter_rows(path):
    rewritten(path, lambda table, record: (table.slice(0, 19), record))


def shorter_nearest(path):
    def change(table, record):
        nearest = pa.array([*range(19), None])
        return table.set_column(table.column_names.index("nearest_2"), "nearest_2", nearest), record

    rewritten(path, change)


def of_another_layout(path):
    rewritten(path, lambda table, record: (table, {**record, "layout": 1}))


class Planted:
    """Pickled into a file, it would leave a file behind when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def pickled(path):
    """Hide it in an Arrow type of Python objects, which old versions unpickle, and as object."""

    def change(table, record):
        planted = pickle.dumps(Planted(path.parent / "executed"))
        field = pa.field("score", pa.binary()).with_metadata(
            {
                "ARROW:extension:name": "arrow.py_extension_type",
                "ARROW:extension:metadata": planted,
            }
        )
        at = table.column_names.index("score")
        return table.set_column(at, field, pa.array([planted] * 20)), record

    rewritten(path, change)


@pytest.mark.parametrize(
    "damage",
    [
        cut,
        halve,
        flip_a_byte_of_the_scores,
        flip_a_byte_of_the_digest,
        empty,
        foreign,
        no_parquet,
        no_arrays,
        no_scores,
        no_record,
        of_another_cell,
        of_another_split,
        shorter_rows,
        shorter_nearest,
        of_another_layout,
        pickled,
    ],
)
def test_a_damaged_file_is_told_left_out_and_replaced(cells, damage):
    path = cells.save(make_result(), LABELS)
    cells.save(make_result(class_name="dog"), LABELS)
    damage(path)
    with pytest.warns(
        UserWarning, match=r"cat\.result is not a whole result \(.+\): its split is computed again"
    ) as told:
        assert set(cells.load(EXPERIMENT)) == {"dog"}
    assert len(told) == 1
    assert "\n" not in str(told[0].message)
    assert not (path.parent / "executed").exists()
    cells.save(make_result(), LABELS)
    assert set(cells.load(EXPERIMENT)) == {"cat", "dog"}


def test_any_altered_byte_is_noticed(cells):
    path = cells.save(make_result(), LABELS)
    good = path.read_bytes()
    for place in range(len(good)):
        path.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        with pytest.warns(UserWarning, match="not a whole result"):
            assert cells.load(EXPERIMENT) == {}


def test_the_files_of_a_finished_cell_are_read_back_and_written_again(cells):
    results = make_cell()
    record = {
        "key": EXPERIMENT.key,
        "splits": [split_record(result) for result in results],
        "provenance": [results[0].provenance],
    }
    folder = cells.write_finished(results, record, LABELS)
    (folder / "of-an-earlier-attempt.png").touch()
    assert cells.write_finished(results, record, LABELS) == folder
    assert sorted(path.name for path in folder.iterdir()) == [
        "results.json",
        "scores.parquet",
        "table.csv",
    ]
    again, read = read_finished(folder, EXPERIMENT)
    assert again == record
    for one, other in zip(read, results, strict=True):
        assert_equal_results(one, other)
    assert cells.load(EXPERIMENT) == {}, "a split that was not saved is none"
    with pytest.raises(ValueError, match="delete the run"):
        read_finished(folder, OTHER)


def test_scores_of_a_cell_are_the_tables_of_its_splits(cells):
    results = make_cell()
    tables = [
        parquet.read_table(pa.BufferReader(cells.save(result, LABELS).read_bytes()[:-32]))
        for result in results
    ]
    folder = cells.write_finished(results, {"splits": [{"name": "cat"}]}, LABELS)
    whole = parquet.read_table(folder / "scores.parquet")
    assert whole.equals(pa.concat_tables(tables).replace_schema_metadata(None).unify_dictionaries())


@pytest.mark.parametrize("results", [make_cell(), [make_result(size=3, x=3.0, split="cat-m3")]])
def test_scores_of_files_name_them(cells, results):
    files = [Path(f"/data/{row}.png") for row in range(len(LABELS))]
    files[0] = Path(os.fsdecode(b"/data/\xff.png"))
    record = {
        "key": EXPERIMENT.key,
        "splits": [split_record(result) for result in results],
        "provenance": [results[0].provenance],
    }
    folder = cells.write_finished(results, record, LABELS, files=files)
    table = parquet.read_table(folder / "scores.parquet")
    names = np.array(["/data/\ufffd.png", *map(str, files[1:])])
    rows = np.concatenate([result.rows for result in results])
    assert table["path"].to_pylist() == names[rows].tolist()
    _, read = read_finished(folder, EXPERIMENT)
    for one, other in zip(read, results, strict=True):
        assert_equal_results(one, other)


def test_what_a_killed_writer_left_is_no_result(cells):
    """After kill -9 in the middle of writing, there is no file under the final name."""
    writer = start(
        """
        import os, signal, sys
        from pathlib import Path
        import numpy as np
        from handmade import LABELS, make_result
        from benchmarks.result_store import ResultStore
        cells = ResultStore(Path(sys.argv[1]))
        cells.save(make_result(class_name="dog"), LABELS)
        os.fsync = lambda number: os.kill(os.getpid(), signal.SIGKILL)
        cells.save(make_result(), LABELS)
        """,
        cells.home,
    )
    assert writer.wait(60) == -signal.SIGKILL
    assert set(cells.load(EXPERIMENT)) == {"dog"}
    cells.save(make_result(), LABELS)
    assert {path.name for path in cells.folder(EXPERIMENT).iterdir()} == {
        "cat.result",
        "dog.result",
    }


@contextmanager
def full_disk():
    with patch.object(os, "fsync", side_effect=OSError(errno.ENOSPC, "No space left on device")):
        yield


@contextmanager
def largest_file():
    """Make write(2) really fail, for root too."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("broken_disk", [full_disk, largest_file])
def test_a_full_disk_is_one_clear_error_and_loses_nothing(cells, broken_disk):
    before = cells.save(make_result(rocauc=0.5), LABELS)
    with (
        broken_disk(),
        pytest.raises(
            ResultStoreError, match=r"cannot write the result .*cat\.result \(.+\): free some space"
        ) as caught,
    ):
        cells.save(make_result(rocauc=0.6), LABELS)
    assert "\n" not in str(caught.value)
    assert [path.name for path in before.parent.iterdir()] == ["cat.result"]
    assert cells.load(EXPERIMENT)["cat"].metrics["rocauc"] == 0.5


def test_a_full_disk_is_one_clear_error_when_a_cell_is_finished(cells):
    before = cells.save(make_result(), LABELS)
    with (
        largest_file(),
        pytest.raises(ResultStoreError, match=r"cannot write the files of .*free some space"),
    ):
        cells.write_finished([make_result()], {"splits": [{"name": "cat"}]}, LABELS)
    assert before.exists()


def test_a_home_that_is_a_file_is_one_clear_error(tmp_path):
    (tmp_path / "home").write_text("")
    cells = ResultStore(tmp_path / "home")
    with pytest.raises(ResultStoreError, match="DN2_HOME"):
        cells.save(make_result(), LABELS)
    with pytest.raises(ResultStoreError, match="DN2_HOME"), cells.lock([EXPERIMENT.key]):
        pass
    assert cells.load(EXPERIMENT) == {}


HOLDER = """
    import sys, time
    from pathlib import Path
    from handmade import EXPERIMENT, LABELS, make_result
    from benchmarks.result_store import ResultStore
    cells = ResultStore(Path(sys.argv[1]))
    with cells.lock([EXPERIMENT.key]):
        print("held", flush=True)
        time.sleep(float(sys.argv[2]))
        cells.save(make_result(), LABELS)
    """


def test_a_second_process_waits_is_told_and_finds_the_result(cells):
    holder = start(HOLDER, cells.home, 1)
    assert holder.stdout.readline() == "held\n"
    waited = []
    with cells.lock([OTHER.key, EXPERIMENT.key], waiting=waited.append):
        assert waited == [cells.folder(EXPERIMENT)]
        assert set(cells.load(EXPERIMENT)) == {"cat"}
    assert holder.wait(60) == 0


def test_a_killed_holder_holds_no_longer(cells):
    holder = start(HOLDER, cells.home, 600)
    assert holder.stdout.readline() == "held\n"
    holder.kill()
    holder.wait()
    waited = []
    with cells.lock([EXPERIMENT.key], waiting=waited.append):
        assert waited == []


def test_cells_of_another_key_are_not_waited_for(cells):
    holder = start(HOLDER, cells.home, 600)
    assert holder.stdout.readline() == "held\n"
    waited = []
    with cells.lock([OTHER.key, OTHER.key], waiting=waited.append):
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
        from benchmarks.result_store import ResultStore
        two = [EXPERIMENT.key, replace(EXPERIMENT, seed=7).key]
        for _ in range(300):
            order = two if sys.argv[2] == "forward" else two[::-1]
            with ResultStore(Path(sys.argv[1])).lock(order):
                pass
        """
    both = [start(code, cells.home, order) for order in ("forward", "backward")]
    try:
        assert [process.wait(60) for process in both] == [0, 0]
    finally:
        for process in both:
            process.kill()


def test_two_writers_of_one_result_do_not_disturb_each_other(cells):
    """One holds the cell's lock; for the other the result came along with those of its own cell."""
    result, failed = make_result(), []

    def save():
        for _ in range(60):
            try:
                cells.save(result, LABELS, lasting=False)
                cells.discard(OTHER)
            except ResultStoreError as error:
                failed.append(error)

    threads = [threading.Thread(target=save) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert_equal_results(cells.load(result.experiment)[result.split], result)


def test_what_a_killed_process_left_is_removed_after_an_hour(cells):
    folder = cells.folder(EXPERIMENT)
    (folder / "finished-elsewhere-1").mkdir(parents=True)
    for name in ("a.result.1-2.tmp", "b.result.1-2.tmp"):
        (folder / name).write_bytes(b"cut short")
    two_hours_ago = time.time() - 7200
    os.utime(folder / "a.result.1-2.tmp", (two_hours_ago, two_hours_ago))
    cells.discard(EXPERIMENT)
    assert {path.name for path in folder.iterdir()} == {"finished-elsewhere-1", "b.result.1-2.tmp"}
    os.utime(folder / "finished-elsewhere-1", (two_hours_ago, two_hours_ago))
    cells.discard(EXPERIMENT)
    assert {path.name for path in folder.iterdir()} == {"b.result.1-2.tmp"}
