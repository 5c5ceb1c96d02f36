"""`teacher.answers` on the command line: what then runs, what it leaves, and what is refused."""

import csv
from itertools import count
from pathlib import Path

import pytest
import torch
from forked import Started
from hydra import compose, initialize_config_dir
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from kd_lightning.run.chain import plan

CONF = Path(__file__).parents[2] / "conf"
ANSWERS = "kd_lightning.teacher.answers.Answers"


def runs(*overrides):
    given = [*overrides, "artifacts=nowhere"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return plan(compose("train", given), given).runs


@pytest.mark.parametrize(
    ("words", "stages"),
    [
        (["method=bow"], ["task"]),
        (["method=bow", "baseline=true"], ["task", "baseline"]),
        (["method=distilbert", "method.task_soft=1"], ["general", "task"]),
        (["method=distilbert", "start=auto", "student.path=student"], ["task"]),
        (["method=tinybert", "stages.intermediate.path=student"], ["prediction"]),
        (["method=mobilebert", "student.path=student"], ["task"]),
    ],
)
def test_answers_take_the_place_of_the_teachers_stage(words, stages):
    made = runs(*words, "stage=task", "teacher.answers=a.csv", "teacher.stored=true")
    assert [run.stage for run in made] == stages
    of_task = [run for run in made if run.task is not None]
    assert of_task
    for run in of_task:
        assert (run.networks.teacher._target_, list(run.networks.teacher.files)) == (ANSWERS, ["a.csv"])
        assert "teacher" not in run.starts_from
        assert not run.stored
        assert run.networks.get("answers") is None


def test_an_artifact_is_known_by_the_content_of_the_answers_and_their_weights(tmp_path):
    files = [tmp_path / f"{name}.csv" for name in "abc"]
    for file, content in zip(files, ("x", "x", "y"), strict=True):
        file.write_text(content)

    def identity(*words: str) -> str:
        return runs("method=bow", *words)[-1].identity

    first, same, other = (identity(f"teacher.answers={file}") for file in files)
    assert first == same == identity(f"teacher.answers=[{files[0]}]")
    several = [f"teacher.answers=[{files[0]},{files[2]}]"]
    plain, weighted = identity(*several), identity(*several, "teacher.weights=[2,1]")
    assert len({first, other, plain, weighted, identity()}) == 5


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["method=bow", "teacher.weights=[1,2]"], r"teacher.weights=\[1, 2\]: it is said of teacher.answers, and none"),
        (["method=bow", "teacher.answers=a.csv", "teacher.path=here"], "teacher.path=here: what runs is task, and none of"),
        (["stage=general", "teacher.answers=a.csv"], "teacher.answers: what runs is general, and none of them learns"),
        (["stage=teacher", "teacher.answers=a.csv"], "teacher.answers: what runs is teacher, and none of them learns"),
        (["method=distilbert", "start=teacher", "teacher.answers=a.csv"], "start=teacher: teacher.answers have no layers"),
        (["method=bow", "augment=tang", "teacher.answers=a.csv"], "nobody has answered the rows that augmentation makes"),
    ],
)
def test_what_does_not_go_with_answers_is_refused(words, said):
    with pytest.raises(ValueError, match=said):
        runs(*words)


@pytest.fixture
def train(material, tmp_path):
    """A run on the material's task, 16 steps a stage in float32, in a process of its own."""
    numbers = count()

    def make(*words: str, artifacts: str = "a") -> Started:
        given = [
            "task=sst2",
            "task.max_length=16",
            "stage=task",
            f"glue={material}",
            "teacher.pretrained=" + f"{material}/teacher",
        ]
        given += [
            "trainer.accelerator=cpu",
            "trainer.precision=32-true",
            "trainer.max_steps=16",
        ]
        folders = [f"artifacts={tmp_path}/{artifacts}", f"cache={tmp_path}/c", f"hydra.run.dir={tmp_path}/r"]
        return Started(["train.py", *given, *words, *folders], tmp_path / f"log{next(numbers)}").wait(120)

    return make


BOW = ["method=bow", "student/vocabulary=words", "stages.task.trainer.val_check_interval=8"]


def rows(material: Path) -> list[tuple[str, int]]:
    lines = [line for split in ("dev", "train") for line in (material / "SST-2" / f"{split}.tsv").read_text().splitlines()[1:]]
    return [(line.split("\t")[0], int(line.split("\t")[1])) for line in lines]


def test_the_logits_of_a_teacher_in_a_file_teach_what_the_teacher_does(train, material, tmp_path):
    """The file is made by plain transformers; its rows are named by their texts, in an order of their own."""
    taught = train(*BOW, artifacts="network")
    assert taught.status == 0, taught
    (folder,) = (file.parent for file in tmp_path.glob("network/demo/sst2/teacher*/config.json"))
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    texts = sorted({text for text, _ in rows(material)})
    with torch.inference_mode():
        logits = model.eval()(**tokenizer(texts, padding=True, return_tensors="pt")).logits.tolist()
    with (tmp_path / "answers.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [["sentence", *model.config.id2label.values()], *([t, *r] for t, r in zip(texts, logits, strict=True))]
        )
    alone = train(*BOW, f"teacher.answers={tmp_path}/answers.csv", "teacher.kind=logits")
    assert alone.status == 0, alone
    students = [next(tmp_path.glob(f"{place}/demo/sst2/bow,*/model.safetensors")) for place in ("network", "a")]
    ours, theirs = (load_file(file) for file in students)
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-3, atol=1e-5)
    table = list(csv.DictReader((students[1].parent / "table.csv").read_text().splitlines()))
    of_network = list(csv.DictReader((students[0].parent / "table.csv").read_text().splitlines()))
    assert [row["model"].split(",")[0] for row in table] == ["teacher", "bow"]
    assert (table[0]["accuracy"], table[1]["retention"]) == (of_network[0]["accuracy"], of_network[1]["retention"])
    assert (table[0]["parameters"], table[0]["ms"]) == ("", "")
    assert "-. teacher: answers in " in alone.stdout
    assert "\nteacher: answers in answers.csv\n" in (students[1].parent / "run.yaml").read_text()
    learnt = train(*BOW[:2], "stage=baseline", f"teacher.answers={tmp_path}/answers.csv", "teacher.kind=logits")
    assert learnt.status == 0, learnt
    file = next(tmp_path.glob("a/demo/sst2/*baseline*/table.csv"))  # of a student that learnt from labels alone
    (row,) = csv.DictReader(file.read_text().splitlines())
    assert row["accuracy"]
    assert not row.get("retention")


def test_layers_that_are_to_be_compared_are_refused_before_anything_trains(train, material, tmp_path):
    lines = [",".join([text, *("10" if label == 0 else "01")]) for text, label in rows(material)]
    (tmp_path / "answers.csv").write_text("\n".join(["sentence,negative,positive", *lines]) + "\n")
    small = ["student.hidden_size=16", "student.intermediate_size=32", f"corpus=[{material}/corpus.txt]"]
    done = train(*small, f"teacher.answers={tmp_path}/answers.csv")
    assert done.status == 1
    assert done.sentence.startswith(
        "train.py: embedding, hidden, attention: these terms compare layers, and of this teacher only"
    )
    assert not (tmp_path / "a").exists()
