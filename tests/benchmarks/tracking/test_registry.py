"""`register`: a detector in MLflow's registry gives the detector's scores, from Python and HTTP."""

import base64
import io
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import redirect_stderr
from pathlib import Path

import pytest
from servers import answers, free_port, wait_for
from toy_encoder import toy_encoders, write_pictures

import dn2
from benchmarks.__main__ import run_main


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    with toy_encoders(folder):
        yield folder


@pytest.fixture(scope="module")
def saved(home):
    dn2.ImageDetector("toy", k=3).fit(write_pictures(home / "good", 25)).save(home / "saved")
    return home / "saved"


@pytest.fixture(scope="module")
def new(home):
    return write_pictures(home / "new", 2, first=100) + write_pictures(
        home / "new", 1, first=200, odd=True
    )


@pytest.fixture(scope="module")
def registered(saved, make_store, tmp_path_factory):
    """A store with two versions of one model; the command says what it does, and MLflow nothing."""
    folder = tmp_path_factory.mktemp("store")
    store = make_store(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", store)
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        for alias in ("old", "champion"):
            with redirect_stderr(io.StringIO()) as said:
                assert run_main(["register", str(saved), "--name", "screws", "--alias", alias]) == 0
            assert said.getvalue() == f"registering {saved} as screws\n"
        yield store


@pytest.fixture(scope="module")
def model(registered):
    import mlflow

    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(registered)
    yield mlflow.pyfunc.load_model("models:/screws@champion")
    mlflow.set_tracking_uri(before)


def encoded(path):
    return base64.b64encode(Path(path).read_bytes()).decode()


def check_answers(found, saved, new):
    """The first answer is for no image; the others are those of the detector."""
    expected = dn2.load(saved).score(new)
    assert found[0] == {"error": "it is no base64 (Only base64 data is allowed)"}
    assert found[1] == {
        "error": "it is in no known image format: send PNG, JPEG, BMP, TIFF, WebP or GIF"
    }
    for got, one, flag in zip(found[2:], expected.images, expected.flag(fpr=0.05), strict=True):
        assert got["score"] == pytest.approx(one.score, rel=1e-6)
        assert (got["p_value"], got["flag"]) == (one.p_value, flag)
        assert [near["path"] for near in got["nearest"]] == [near.path for near in one.nearest]


def test_a_model_gives_the_scores_of_its_detector(model, saved, new):
    import pandas as pd

    images = ["%", "aGVsbG8=", *map(encoded, new)]
    check_answers(model.predict(pd.DataFrame({"image": images})), saved, new)


def test_a_rate_is_a_parameter(model, new):
    import pandas as pd
    from mlflow.exceptions import MlflowException

    table = pd.DataFrame({"image": [encoded(path) for path in new]})
    assert [one["flag"] for one in model.predict(table, params={"fdr": 0.2})] == [
        False,
        False,
        True,
    ]
    for params, message in (
        ({"fpr": 0.001}, "fpr 0.001 needs at least 999"),
        ({"fpr": 0.1, "fdr": 0.1}, "give either fpr or fdr, got both"),
    ):
        with pytest.raises(MlflowException, match=message):
            model.predict(table, params=params)
    with pytest.raises(MlflowException, match="no image can be read: the first: it is empty"):
        model.predict(pd.DataFrame({"image": [""]}))


def test_the_registry_has_versions_and_aliases(registered, saved):
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=registered)
    versions = {
        alias: int(client.get_model_version_by_alias("screws", alias).version)
        for alias in ("old", "champion")
    }
    assert versions == {"old": 1, "champion": 2}
    benchmark = client.get_experiment_by_name("dn2-bench")
    assert client.search_runs([benchmark.experiment_id]) == []


def test_a_model_holds_no_pickle(registered):
    folder = Path(registered.removeprefix("sqlite:///")).parent
    names = {path.name for path in folder.rglob("*") if path.is_file()}
    assert {"MLmodel", "served_detector.py", "manifest.json", "image_detector.py"} <= names
    assert not [name for name in names if name.endswith((".pkl", ".pickle", ".joblib"))]


def test_mistakes_are_one_line(registered, saved, tmp_path, capfd):
    store = ["--tracking-uri", registered]
    for arguments, code, message in (
        ([str(tmp_path), "--name", "a", *store], 2, "is no detector"),
        ([str(saved), *store], 2, "Missing option '--name'"),
        ([str(saved), "--name", "a/b", *store], 2, "must not be empty nor contain '/' or ':'"),
        ([str(saved), "--name", "a", "--alias", "v1", *store], 2, "--alias must not be 'latest'"),
        ([str(saved), "--name", "a", "--alias", "Latest", *store], 2, "--alias must not be"),
        ([str(saved), "--name", "a", "--alias", "b:c/d", *store], 2, "got 'b:c/d'"),
        ([str(saved), "--name", "a", "--tracking-uri", "file:x"], 2, "is a folder of files"),
    ):
        assert run_main(["register", *arguments]) == code
        error = capfd.readouterr().err.splitlines()[-1]
        assert error.startswith("error: ")
        assert message in error
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=registered)
    assert [model.name for model in client.search_registered_models()] == ["screws"]


def test_a_refusal_is_the_reason_alone(model, new):
    """MLflow's server puts the request before the message of an error, images and all."""
    import pandas as pd
    from mlflow.exceptions import MlflowException

    table = pd.DataFrame({"image": [encoded(new[0])]})
    with pytest.raises(MlflowException) as refused:
        model.predict(table, params={"fpr": 0})
    refused.value.message = f"Failed to predict data '{table}'. Error: {refused.value.message}"
    said = json.loads(refused.value.serialize_as_json())
    assert said["error_code"] == "INVALID_PARAMETER_VALUE"
    assert said["message"] == "fpr must be a fraction between 0 and 1, got 0: 0.05 is usual"


@pytest.mark.slow
def test_mlflow_serves_a_registered_detector(registered, saved, new, tmp_path):
    """Start it away from this project: the model carries the package that it needs."""
    port = free_port()
    environment = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
    environment |= {
        "MLFLOW_TRACKING_URI": registered,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    command = ["-m", "models:/screws@champion", "--env-manager", "local", "--port", str(port)]
    with (tmp_path / "server.log").open("wb") as log:
        process = subprocess.Popen(
            ["mlflow", "models", "serve", *command],
            cwd=tmp_path,
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}"

    def ask(images):
        request = urllib.request.Request(
            f"{url}/invocations",
            json.dumps({"inputs": {"image": images}}).encode(),
            {"content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read())["predictions"]

    try:
        wait_for(lambda: answers(f"{url}/health"), f"see {tmp_path}/server.log")
        images = ["%", "aGVsbG8=", *map(encoded, new)]
        check_answers(ask(images), saved, new)
        with pytest.raises(urllib.error.HTTPError) as refused:
            ask(["%"])
        assert refused.value.code == 400
        said = json.loads(refused.value.read())["message"]
        assert said.startswith("no image can be read: the first: it is no base64")
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
