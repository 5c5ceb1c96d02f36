"""What is wrong with a later stage is said before the first one trains."""

import shutil

import pytest

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
