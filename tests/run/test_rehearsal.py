"""What is known of a chain before it runs: counts by hand and from the data, and a time that is one."""

import shutil

import numpy as np
import pytest
from omegaconf import OmegaConf

from kd_lightning.data.batches import spread
from kd_lightning.run.rehearsal import Clock, length

BUDGET = {"_target_": "kd_lightning.callback.budget.Budget", "epochs": 2, "least": 10, "most": 1000, "validations": 5}


def settings(budget=None, **trainer):
    usual = {"max_epochs": -1, "max_steps": -1, "val_check_interval": 1.0}
    return OmegaConf.create({"trainer": usual | trainer, "callback": {"budget": budget}})


@pytest.mark.parametrize(
    ("given", "updates", "validations"),
    [
        ({"max_epochs": 3}, 300, 3),
        ({"max_epochs": 3, "val_check_interval": 0.5}, 300, 6),
        ({"max_epochs": 3, "max_steps": 250}, 250, 2.5),
        ({"max_steps": 6000, "val_check_interval": 200}, 6000, 30),
        ({"budget": BUDGET}, 200, 5),
        ({"max_epochs": 1, "budget": BUDGET}, 100, 1),
    ],
)
def test_updates_and_validations_are_those_that_the_trainer_will_do(given, updates, validations):
    """An epoch is a hundred updates."""
    assert length(settings(**given), 100) == (updates, validations)


def test_a_sample_has_the_longest_rows_and_others_from_all_over():
    lengths = np.random.default_rng(0).permutation(1000)
    rows = spread(lengths, 100)
    assert len(rows) == len(set(rows)) == 100
    assert set(np.argsort(lengths)[-25:]) <= set(rows)
    assert (np.histogram(rows, bins=10, range=(0, 1000))[0] >= 6).all()
    assert list(spread(lengths[:50], 100)) == list(range(50))


def test_the_first_batch_only_warms_up():
    clock = Clock()
    clock.times["train"] = [(100.0, 1), (2.0, 30), (4.0, 30)]
    assert clock.rate("train") == pytest.approx(0.1)


def test_the_plan_says_rows_tokens_updates_and_minutes_and_a_dry_run_stops_there(start, material, tmp_path):
    """By hand: 40 rows of 3 words with [CLS] and [SEP] are 200 tokens; ten epochs of ten batches are 100 updates."""
    done = start("stage=teacher", "trainer.max_epochs=10", "dry_run=true").wait()
    assert done.status == 0, done.said
    (line,) = (line for line in done.stdout.splitlines() if "finetune teacher" in line and "│" in line)
    stage, rows, tokens, updates, minutes, memory = (cell.strip() for cell in line.strip("│").split("│"))
    assert (stage, rows, tokens, updates) == ("finetune teacher", "40", "200", "100")
    assert 0 <= float(minutes) < 5
    assert 0.05 < float(memory) < 24
    assert not list(tmp_path.glob("a/**/metrics.json"))


def test_a_stage_of_few_updates_is_counted_and_not_measured(start):
    done = start("stage=teacher", "trainer.max_epochs=1", "dry_run=true").wait()
    (line,) = (line for line in done.stdout.splitlines() if "finetune teacher" in line and "│" in line)
    assert [cell.strip() for cell in line.strip("│").split("│")] == ["finetune teacher", "40", "200", "10"]


WRONG = {
    "missing": (None, r"SST-2/dev.tsv cannot be found"),
    "another label": ("sentence\tlabel\nw7 w8\t1\nw9\t2\n", r"SST-2/dev.tsv has 1 bad row (line 3: label is '2'"),
    "another column": ("text\tlabel\nw7 w8\t1\n", r"SST-2/dev.tsv has no column sentence"),
}


@pytest.mark.parametrize("fault", WRONG)
def test_a_glue_file_that_is_not_as_it_should_be_is_said_before_a_stage_on_a_corpus(fault, start, material, tmp_path):
    content, words = WRONG[fault]
    shutil.copytree(material / "SST-2", tmp_path / "glue" / "SST-2")
    file = tmp_path / "glue" / "SST-2" / "dev.tsv"
    file.unlink()
    if content is not None:
        file.write_text(content)
    ended = start("stage=task", "trainer.max_epochs=1", f"glue={tmp_path}/glue").wait()
    assert ended.status == 1
    assert words in ended.sentence
    assert not list((tmp_path / "a").rglob("*.*"))
    assert not list((tmp_path / "c").glob("corpus-*"))


def test_the_plan_says_how_much_a_stored_teacher_will_take(start, material):
    """By hand: 60 rows of 5 tokens; for each the embeddings and 4 layers with a query and a key, 32 numbers each of 4 bytes,
    and for each row 2 logits of 4 bytes: 300 * 13 * 128 + 60 * 8 bytes."""
    words = ("teacher.stored=true", "method.valid_only=true", f"student.path={material}/teacher", "trainer.precision=32-true")
    done = start("stage=task", *words, "trainer.max_epochs=1", "dry_run=true").wait(120)
    assert done.status == 0, done.said
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("tinybert intermediate: teacher.stored=true"))
    assert " keeps about 0.5 MB under " in line
    assert line.endswith(f", {(300 * 13 * 128 + 60 * 8) / 300:,.0f} bytes a token.")
