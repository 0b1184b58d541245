"""Files of studies and stores that are damaged: the same content, or a refusal of one line.

`DN2_FAULT_TRIES` sets how many damaged files of each format the slow tests read. A journal that is
cut after a whole line is the study as it was then, which no reader can tell from one that was
killed; that counts as the same content.
"""

import json
import os
import shutil
import warnings
from itertools import count

import optuna
import pytest
from handmade import EXPERIMENT, LABELS, make_cell, make_result
from mlflow_laws import finished
from mutations import Refused, try_damaged
from small_studies import small

from benchmarks.contracts import OutsideError
from benchmarks.result_store import ResultStore
from benchmarks.sweep import studies
from benchmarks.sweep.journal import Journal
from benchmarks.tracking import Tracker, TrackingError

TRIES = int(os.environ.get("DN2_FAULT_TRIES", "2000"))
VALUES = (0.75, 0.5, 0.875)


def fill(study, question=None):
    """Run three trials as a sweep does, and leave a fourth waiting."""
    question = question or small()
    for value in VALUES:
        trial = study.ask()
        trial.set_user_attr("owner", {"host": "here", "pid": "1", "pid_started": "2"})
        params = studies.suggest_point(trial, question.space)
        trial.set_user_attr(studies.DIGEST, studies.value_digest(params, value))
        trial.set_user_attr("run_id", "0" * 32)
        study.tell(trial, value)


def content(study):
    """Return what a sweep reports of a study."""
    return [
        (trial.number, studies.point_of(trial), trial.value)
        for trial in study.get_trials(deepcopy=False)
        if trial.state == optuna.trial.TrialState.COMPLETE
    ]


def make_study(folder, url=""):
    def sampler(opened):
        return optuna.samplers.RandomSampler(seed=opened)

    asked = {"dataset": "synthetic", "seed": "0"}
    study = studies.open_study("s", url, folder, asked, sampler)
    fill(study)
    return content(study)


def damage_journal(folder, tries):
    whole = make_study(folder)
    path = folder / "s.journal"
    moments = [whole[:number] for number in range(len(whole) + 1)]
    seen = try_damaged(
        "journals of studies",
        path,
        lambda: content(studies.stored_study("s", "", folder)),
        moments.__contains__,
        (OutsideError,),
        tries=tries,
        lines=True,
        names=path.name,
    )
    assert seen.refused > tries / 2


def damage_database(folder, tries):
    url = f"sqlite:///{folder}/s.db"
    whole = make_study(folder, url)
    path = folder / "s.db"
    names = count()

    def read():
        copy = folder / f"copy-{next(names)}.db"  # drivers remember files
        shutil.copy(path, copy)
        try:
            study = studies.stored_study("s", f"sqlite:///{copy}", folder)
            found = content(study)
            study._storage._backend.engine.dispose()
            return found
        finally:
            copy.unlink()

    def is_same(found):
        return found in (whole, [])  # a lost name is a new study, which is made of finished runs

    try_damaged("databases of studies", path, read, is_same, (OutsideError,), tries=tries)


def damage_store(tracker, folder, tries):
    """Look up a finished run in a damaged tracking store; not to find it is to compute it."""
    key = make_cell()[0].experiment.key
    run_id = finished(tracker, make_cell())
    path, names = folder / "mlflow.db", count()

    def read():
        copy = folder / f"copy-{next(names)}.db"
        shutil.copy(path, copy)
        try:
            other = Tracker(f"sqlite:///{copy}").connect()
            found = other.find_finished(key)
            if found is None:
                raise Refused("computed again")
            return other.read_cell(make_cell()[0].experiment, found).mean, found
        finally:
            copy.unlink()

    expected = read()
    assert expected[1] == run_id
    try_damaged(
        "tracking stores", path, read, expected.__eq__, (TrackingError,), tries=tries, names=None
    )


def damage_result(home, tries):
    store, result = ResultStore(home), make_result()
    path = store.save(result, LABELS)

    def read():
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            found = store.load(EXPERIMENT)
        if not found:
            raise Refused(str(said[0].message))
        return {name: one.scores.tolist() for name, one in found.items()}

    whole = {result.split: result.scores.tolist()}
    try_damaged("results", path, read, whole.__eq__, (), tries=tries, names=path.name)


def test_some_damaged_journals(tmp_path):
    damage_journal(tmp_path, 25)


@pytest.mark.slow
def test_damaged_journals(tmp_path):
    damage_journal(tmp_path, TRIES)


@pytest.mark.slow
def test_damaged_databases(tmp_path):
    damage_database(tmp_path, TRIES)


@pytest.mark.slow
def test_damaged_stores(tracker, store, tmp_path):
    damage_store(tracker, tmp_path / "working directory", max(TRIES // 10, 1))


@pytest.mark.slow
def test_damaged_results(tmp_path):
    damage_result(tmp_path, TRIES)


FOREIGN = {
    "an operation that there is not": b'{"op_code":77,"worker_id":"w"}',
    "no operation": b'{"worker_id":"w"}',
    "a number as text": b'{"op_code":"0","worker_id":"w","study_name":"s","directions":[2]}',
    "a table of the wrong type": b'{"op_code":2,"worker_id":"w","study_id":0,"user_attr":[1]}',
    "a state that is none": b'{"op_code":6,"worker_id":"w","trial_id":3,"state":9,"values":null}',
    "a huge number": b'{"op_code":1,"worker_id":"w","study_id":' + b"9" * 30 + b"}",
    "more digits than Python reads": b'{"op_code":1,"worker_id":"w","study_id":'
    + b"9" * 6000
    + b"}",
    "deep nesting": b'{"op_code":2,"x":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
    "NUL bytes": bytes(300),
    "no UTF-8": b'{"op_code":0,"worker_id":"\xff\xfe"}',
    "a list": b"[1, 2]",
    "an empty line": b"",
    "a date that is none": b'{"op_code":4,"worker_id":"w","study_id":0,"datetime_start":5}',
    "a distribution that is none": b'{"op_code":5,"worker_id":"w","trial_id":3,"param_name":"k",'
    b'"param_value_internal":1,"distribution":"{}"}',
    "a text for an owner": b'{"op_code":8,"worker_id":"w","trial_id":3,"user_attr":{"owner":"x"}}',
    "another study's direction": b'{"op_code":2,"worker_id":"w","study_id":0,'
    b'"user_attr":{"opened":"x"}}',
}


@pytest.fixture(scope="module")
def journal(tmp_path_factory):
    """Make a journal as Optuna itself writes one: without sums, and with a running trial."""
    from optuna.storages.journal import JournalFileBackend

    path = tmp_path_factory.mktemp("journal") / "s.journal"
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(path)))
    study = optuna.create_study(study_name="s", storage=storage, direction="maximize")
    study.set_user_attr("asks", {"dataset": "synthetic"})
    fill(study)
    study.ask()
    return path


def test_a_journal_of_optuna_s_own_is_read_and_continued(journal, tmp_path):
    path = tmp_path / "s.journal"
    shutil.copy(journal, path)
    study = studies.stored_study("s", "", tmp_path)
    assert [value for _, _, value in content(study)] == list(VALUES)
    study.set_user_attr("opened", 1)
    assert json.loads(path.read_bytes().splitlines()[-1])["sum"]
    again = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(path)))
    assert optuna.load_study(study_name="s", storage=again).user_attrs["opened"] == 1
    altered = path.read_bytes().replace(b"0.875", b"0.975")
    path.write_bytes(altered)  # before the first line that has a sum
    with pytest.raises(OutsideError, match="its checksum is another"):
        studies.stored_study("s", "", tmp_path)


@pytest.mark.parametrize("what", FOREIGN)
def test_foreign_lines_are_one_line(journal, tmp_path, what):
    path = tmp_path / "s.journal"
    path.write_bytes(journal.read_bytes() + FOREIGN[what] + b"\n")
    with pytest.raises(OutsideError, match=r"s\.journal.*move") as caught:
        studies.stored_study("s", "", tmp_path)
    assert "\n" not in str(caught.value)


def test_a_line_that_was_cut_short_is_removed_before_the_next(tmp_path):
    make_study(tmp_path)
    path = tmp_path / "s.journal"
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    study = studies.stored_study("s", "", tmp_path)
    assert [value for _, _, value in content(study)] == list(VALUES[:2])  # the third was not told
    for number in range(3):
        study.set_user_attr("opened", number)
    again = studies.stored_study("s", "", tmp_path)
    assert again.user_attrs["opened"] == 2


def test_a_full_disk_leaves_no_part_of_a_line(tmp_path, monkeypatch):
    make_study(tmp_path)
    path = tmp_path / "s.journal"
    room, write = [10], os.pwrite

    def pwrite(file, content, start):
        if not room[0]:
            raise OSError(28, "No space left on device")
        part, room[0] = content[: room[0]], 0
        return write(file, part, start)

    study = studies.stored_study("s", "", tmp_path)
    before = path.read_bytes()
    monkeypatch.setattr("benchmarks.sweep.journal.os.pwrite", pwrite)
    with (
        pytest.raises(OutsideError, match=r"No space left on device.*free some space") as caught,
        studies.storage_errors(str(path)),
    ):
        study.optimize(lambda trial: 0.5, n_trials=1)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before
    monkeypatch.undo()
    study.set_user_attr("opened", 7)
    assert studies.stored_study("s", "", tmp_path).user_attrs["opened"] == 7


def test_two_share_a_journal(tmp_path):
    make_study(tmp_path)
    one, two = (studies.stored_study("s", "", tmp_path) for _ in range(2))
    for number in range(5):
        one.set_user_attr("one", number)
        two.set_user_attr("two", number)
    assert (one.user_attrs["two"], two.user_attrs["one"]) == (4, 4)
    assert len(list(Journal(tmp_path / "s.journal").read_logs(0))) > 20


@pytest.mark.slow
def test_an_older_and_a_newer_database_name_the_remedy(tmp_path):
    import sqlite3
    from contextlib import closing

    url = f"sqlite:///{tmp_path}/s.db"
    make_study(tmp_path, url)
    for version, words in (("v2.4.0.a", f"storage upgrade --storage {url}"), ("v99", "newer")):
        with closing(sqlite3.connect(tmp_path / "s.db")) as database, database:
            database.execute("UPDATE alembic_version SET version_num = ?", (version,))
        with pytest.raises(OutsideError, match=words) as caught:
            studies.stored_study("s", url, tmp_path)
        assert "\n" not in str(caught.value)
