"""A served model answers a request with a bad image with one short message."""

from __future__ import annotations

import base64
import json
import re
import shutil
import sys
from importlib import metadata
from pathlib import Path

import cv2
import mlflow.pyfunc
import numpy as np
import pandas as pd
import pytest
import yaml
from mlflow.exceptions import MlflowException
from mlflow.pyfunc.scoring_server import invocations

from mem.cli.main import main
from mem.export.exported_model import load_export
from mem.export.formats import SERVED_PACKAGES, write_mlflow
from tests.conftest import REPOSITORY

EXPORT = REPOSITORY / "tests" / "fixtures" / "earlier_version" / "export"
PNG = cv2.imencode(".png", np.zeros((9, 9, 3), np.uint8))[1].tobytes()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The folder of an MLflow model."""
    out = tmp_path_factory.mktemp("served") / "mlflow"
    write_mlflow(load_export(EXPORT), EXPORT, out)
    return out


@pytest.fixture(scope="module")
def served(folder) -> mlflow.pyfunc.PyFuncModel:
    return mlflow.pyfunc.load_model(str(folder))


def request(*images: object) -> str:
    return json.dumps({"dataframe_records": [{"image": image} for image in images]})


GOOD = base64.b64encode(PNG).decode()


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        ([GOOD, GOOD, GOOD[:40]], "Image of row 2 is "),
        ([GOOD, ""], "Image of row 1 is empty (0 bytes)"),
        (["data:image/png;base64," + GOOD], "Image of row 0 is not valid base64: "),
        ([[[[0, 0, 300]]]], "Image of row 0 has values from 0 to 300; expected integers from 0 to 255"),
        ([None], "Image of row 0 has the type NoneType; expected (height, width, 3)"),
        ([{"path": "photo.png"}], "Image of row 0 has the type dict; expected (height, width, 3)"),
    ],
)
def test_the_server_answers_a_bad_image_with_its_row_and_the_reason(served, images, expected):
    with pytest.raises(MlflowException) as refused:
        invocations(request(*images), "application/json", served, served.metadata.get_input_schema())
    assert refused.value.get_http_status_code() == 400
    answer = json.loads(refused.value.serialize_as_json())
    assert answer["message"].startswith(expected)
    assert len(answer["message"]) < 300 and "\n" not in answer["message"] and "stack_trace" not in answer


def test_a_loaded_model_raises_one_error_without_a_chain(served):
    with pytest.raises(ValueError, match=r"^Image of row 1 is not in a supported image format") as refused:
        served.predict(pd.DataFrame({"image": [PNG, b"hello"]}))
    assert refused.value.__suppress_context__ and refused.value.__cause__ is None


def test_an_exported_model_requires_only_published_packages(folder):
    lines = (folder / "requirements.txt").read_text().splitlines()
    names = {line.partition("==")[0] for line in lines}
    assert names == {"mlflow", *SERVED_PACKAGES}
    assert f"numpy=={metadata.version('numpy')}" in lines
    assert not any("+" in line for line in lines)
    conda = (folder / "conda.yaml").read_text()
    assert "mem" not in re.sub(r"(?m)^name: .*$", "", conda)
    assert yaml.safe_load((folder / "MLmodel").read_text())["metadata"]["mem"]


@pytest.mark.parametrize("kind", ["loader", "module", "hub"])
def test_prediction_executes_no_code_of_a_foreign_model(folder, tmp_path, monkeypatch, capsys, kind):
    page = (REPOSITORY / "docs" / "how-to" / "export.md").read_text()
    assert "| `mem predict`, `mem.export.exported_model.load_export` | no: " in page
    assert "`mlflow.pyfunc.load_model` | yes: " in page
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])  # MLflow adds the folder of the model's code
    foreign = tmp_path / "foreign"
    shutil.copytree(folder, foreign)
    (foreign / "code").mkdir()
    code = "import pathlib; pathlib.Path('ran').touch()\ndef net():\n    raise SystemExit\n"
    (foreign / "code" / "evil.py").write_text(code + "def _load_pyfunc(path):\n    return None\n")
    model = (foreign / "MLmodel").read_text()
    (foreign / "MLmodel").write_text(model.replace("mem.export.served", "evil").replace("code: null", "code: code"))
    (about_file,) = foreign.glob("data/*/export.json")
    about = json.loads(about_file.read_text())
    backbone = {"name": "b", "kind": "module", "module": f"{foreign}/code/evil.py:net", "image_size": 8}
    if kind == "hub":
        backbone = {"name": "b", "kind": "timm", "model": "hf-hub:evil/net", "image_size": 8, "norm_batch": None}
    if kind != "loader":
        about["backbone"] = backbone | {"center_crop": 1.0}
    about_file.write_text(json.dumps(about))
    Path("image.png").write_bytes(PNG)
    assert main(["predict", "image.png", "--model", str(foreign)]) == (0 if kind == "loader" else 2)
    assert not Path("ran").exists()
    assert "Traceback" not in capsys.readouterr().err
    if kind == "loader":
        with pytest.raises(MlflowException, match="missing required predict method"):
            mlflow.pyfunc.load_model(str(foreign))
        assert Path("ran").exists()  # MLflow executes the code


def test_the_signature_names_the_columns_of_the_output_and_the_example_is_classified(served):
    assert served.metadata.get_input_schema().to_dict() == [{"type": "string", "name": "image", "required": True}]
    table = served.predict(served.input_example)
    columns = served.metadata.get_output_schema().to_dict()
    assert [column["name"] for column in columns] == list(table.columns)
    kinds = {column["name"]: column["type"] for column in columns}
    assert kinds["class"] == "string"
    assert set(kinds.values()) == {"string", "float"}
    assert all(table[name].dtype == np.float32 for name, kind in kinds.items() if kind == "float")


@pytest.mark.parametrize("form", ["base64", "bytes", "array", "lists"])
def test_the_typed_column_accepts_each_form_of_an_image(served, form):
    image = np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    png = cv2.imencode(".png", image[..., ::-1])[1].tobytes()
    forms = {"base64": base64.b64encode(png).decode(), "bytes": png, "array": image, "lists": image.tolist()}
    expected = served.predict(pd.DataFrame({"image": [forms["base64"]]}))
    pd.testing.assert_frame_equal(served.predict(pd.DataFrame({"image": [forms[form]]})), expected, rtol=1e-5)
