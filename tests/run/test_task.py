"""Tasks by name, of our own configuration."""

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

from kd_lightning.run.task import CONF, metric, reader, task

NAMES = sorted(path.stem for path in (Path(__file__).parents[2] / "conf" / "task").glob("*.yaml"))
COUNTS = {"stsb": 1, "table_regression": 1, "mnli": 3, "docs_topic": 10, "klue_sts": 1, "korsts": 1, "klue_ynat": 7}
COUNTS |= {"kornli": 3, "korean_hate_speech": 3}
OTHERS = ("../train", "sst2\n", "", "SST2", "sst2.yaml", "{}", "[a,b]", "sst2,cola", "${oc.env:HOME}", "a=b", "\x1b[2J")


@pytest.mark.filterwarnings("ignore:Metric `Spearman")
@pytest.mark.parametrize("name", NAMES)
def test_every_task_is_found_by_its_name_with_its_metrics(name):
    """Of answers that are all right each metric is 1, and of answers that are all wrong at most 0."""
    assert task(name).name == name
    assert task(name).metrics
    answers, classes = torch.tensor([0, 1, 1, 0, 1]), COUNTS.get(name, 2)
    for monitor in task(name).metrics:
        truth = answers.float() if monitor in ("pearson", "spearman") else answers
        assert metric(name, monitor, classes)(truth, truth) == pytest.approx(1)
        assert metric(name, monitor, classes)(1 - truth, truth) < 0.01


@pytest.mark.parametrize("name", OTHERS)
def test_another_name_is_one_sentence_with_those_that_there_are(name):
    with pytest.raises(ValueError, match="conf/task has none of this name; it has cola, docs_pair") as said:
        task(name)
    assert str(said.value).isprintable()


def test_another_metric_is_one_sentence_with_those_that_there_are():
    with pytest.raises(ValueError, match=r"task mrpc has no metric '__class__'; it has f1, accuracy"):
        metric("mrpc", "__class__", 2)


def test_predictions_of_other_classes_are_one_sentence():
    with pytest.raises(ValueError, match="task stsb has 1 labels, and a row of these predictions 3 logits"):
        metric("stsb", "pearson", 3)
    assert metric("table", "accuracy", 7).num_classes == 7  # which are learned


def test_the_data_are_where_a_person_says(tmp_path):
    (tmp_path / "mine.csv").write_text("review,stars\n" + "good film,5\nbad film,1\n" * 20)
    said = [f"task.files.train={tmp_path}/mine.csv", "task.text=[review]", "task.label=stars"]
    assert reader("table", said).labels == ["1", "5"]
    with pytest.raises(ValueError, match=r"none\.csv cannot be found"):
        reader("table", ["task.files.train=none.csv", *said[1:]])
    with pytest.raises(ValueError, match=r"task\.files\.trian"):
        reader("table", ["task.files.trian=a.csv"])


def test_a_run_in_progress_keeps_its_configuration():
    """Within a command of Hydra's too, such as train.py."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        before = compose("train", ["task=sst2"])
        assert type(metric("mrpc", "f1", 2)).__name__ == "BinaryF1Score"
        assert compose("train", ["task=sst2"]) == before
