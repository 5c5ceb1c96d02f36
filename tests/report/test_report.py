"""The page of artifacts whose answers are known, read with html.parser; figures against NumPy and sums by hand."""

import json
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet

pytest.importorskip("matplotlib", reason="the extra `report` is not installed")
pytest.importorskip("jinja2", reason="the extra `report` is not installed")

from kd_lightning.report import measure
from kd_lightning.report.__main__ import main
from kd_lightning.run.bootstrap import holm

SECTIONS = ["models", "differences", "classes", "rows", "sweep", "chain", "curves"]
HOSTILE = "<script>alert(1)<script> $x_$"


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.sections, self.links, self.text = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href", "xlink:href", "action") and value]
        if tag == "section":
            self.sections.append(dict(attrs)["id"])

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def logits():
    random = np.random.default_rng(0)
    return random.normal(size=(40, 2)), random.normal(size=(40, 2)), random.integers(2, size=40)


@pytest.fixture(scope="module")
def page(tmp_path_factory, make_encoder, write_record, logits):
    """Two models of 40 rows, one with a hostile name, and a sweep of three jobs."""
    folder = tmp_path_factory.mktemp("material")
    student, teacher, label = logits
    for number, name in enumerate((HOSTILE, "plain")):
        artifact = folder / "a" / f"model{number}"
        make_encoder(labels=("no", "yes")).model.save_pretrained(artifact)
        task = {"labels": ["no", "<b>yes"]}
        write_record(artifact, name=name.replace("/", ""), setting=f"{number:016x}", task=task)
        (artifact / "metrics.json").write_text(json.dumps({"val/student/accuracy": 0.5 + number / 10}))
        columns = {"row": range(40), "label": label, "student": list(student * (1 - 2 * number)), "teacher": list(teacher)}
        parquet.write_table(pa.table(columns), artifact / "predictions.parquet")
        artifact.with_name(f"model{number}.run").mkdir()
        artifact.with_name(f"model{number}.run").joinpath("metrics.csv").write_text(
            "epoch,step,train/loss/soft,val/loss/soft\n0,1,3.5,\n0,2,2.5,2.75\n"
        )
    for number, value in enumerate((0.5, 0.75, 0.625)):
        (folder / "s" / str(number)).mkdir(parents=True)
        found = {"overrides": {"method.temperature": str(number)}, "scores": [value], "metric": "val/student/accuracy"}
        (folder / "s" / str(number) / "result.json").write_text(json.dumps(found))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["report", str(folder), "--out", str(folder / "report.html")])
        main()
    return folder / "report.html"


def test_the_page_has_every_section_and_fetches_nothing(page):
    found = Page(page.read_text())
    assert found.sections == SECTIONS
    assert found.tags.count("svg") > 8
    assert found.links
    assert all(link.startswith(("#", "data:")) for link in found.links)


def test_what_an_artifact_says_is_shown_and_does_not_act(page):
    found = Page(page.read_text())
    assert not {"script", "b"} & set(found.tags)
    assert HOSTILE in "".join(found.text)


def test_the_best_job_of_a_sweep_is_named(page):
    said = " ".join("".join(Page(page.read_text()).text).split())
    assert "3 of 3 jobs have a value Best: val/student/accuracy 0.7500. " in said
    assert "method.temperature=1" in said


def test_the_rows_that_differ_most_come_first(page, logits):
    student, teacher, _ = (np.exp(x) / np.exp(x).sum(1, keepdims=True) if x.ndim == 2 else x for x in logits)
    apart = np.abs(student - teacher).max(1)  # of two classes, half the sum is the difference of either
    text = page.read_text()
    first = text.index('<section id="rows">')
    expected = [f"{apart[row]:.4f}" for row in np.argsort(-apart)[:10]]
    places = [text.index(f"<td>{value}</td>", first) for value in expected]
    assert len(places) == 10
    assert places == sorted(places)


def test_confusion_calibration_and_agreement_are_those_of_numpy(logits):
    student, teacher, label = logits
    mine, other = student.argmax(1), teacher.argmax(1)
    tensors = [torch.tensor(x) for x in logits]
    counts = np.zeros((2, 2), int)
    np.add.at(counts, (label, mine), 1)
    assert measure.confusion(tensors[0], tensors[2]).tolist() == counts.tolist()
    agreed = [float((mine == other)[label == c].mean()) for c in range(2)]
    assert measure.agreement(*tensors) == pytest.approx(agreed)
    sure = (np.exp(student) / np.exp(student).sum(1, keepdims=True)).max(1)
    edges = np.digitize(sure, np.linspace(0, 1, 11), right=True)
    error = sum(abs(sure[edges == b].sum() - (mine == label)[edges == b].sum()) for b in range(1, 11)) / 40
    assert measure.calibration_error(measure.calibration(tensors[0], tensors[2])) == pytest.approx(error)


def test_holm_multiplies_the_smallest_p_by_the_number_of_pairs():
    """0.01 · 4; 0.02 · 3; 0.025 · 2 = 0.05, raised to 0.06; 0.9."""
    assert holm([0.025, 0.01, 0.9, 0.02]) == pytest.approx([0.06, 0.04, 0.9, 0.06])


def test_a_folder_without_anything_is_said_in_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["report", str(tmp_path)])
    with pytest.raises(SystemExit, match="neither an artifact"):
        main()


def test_chromium_opens_the_page_without_an_error_and_without_a_request(page, tmp_path):
    """The page's own policy forbids every request, so that an attempt is an error on the console."""
    assert "default-src 'none'" in page.read_text()
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("chromium is not installed")
    words = ["--headless", "--no-sandbox", "--enable-logging=stderr", "--dump-dom"]
    command = [browser, *words, f"--user-data-dir={tmp_path}/profile", page.as_uri()]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert "CONSOLE" not in found.stderr
    assert Page(found.stdout).sections == SECTIONS
