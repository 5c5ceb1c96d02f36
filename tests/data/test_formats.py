"""Rows of files, a block at a time."""

import pytest
from datasets import ClassLabel, Dataset
from pyarrow import parquet

from kd_lightning.data.formats import parquet_rows


@pytest.fixture
def grouped(tmp_path):
    """Seven rows in groups of three."""
    labels = Dataset.from_dict({"text": [f"w{i}" for i in range(7)], "label": [1, 0, -1, None, 1, 1, 0]})
    parquet.write_table(
        labels.cast_column("label", ClassLabel(names=["no", "yes"])).with_format("arrow")[:],
        tmp_path / "rows.parquet",
        row_group_size=3,
    )
    return tmp_path / "rows.parquet"


def test_rows_of_a_parquet_file_are_counted_over_its_blocks_and_classes_have_their_names(grouped, monkeypatch):
    monkeypatch.setattr("kd_lightning.data.formats.BLOCK", 3)
    rows = list(parquet_rows(grouped))
    assert [place for place, _ in rows] == [f"row {number}" for number in range(1, 8)]
    assert [row["text"] for _, row in rows] == [f"w{i}" for i in range(7)]
    assert [row["label"] for _, row in rows] == ["yes", "no", None, None, "yes", "yes", "no"]


def test_a_parquet_file_is_read_no_further_than_it_is_asked(grouped, monkeypatch):
    """Its second group of rows is destroyed, which shows only there."""
    monkeypatch.setattr("kd_lightning.data.formats.BLOCK", 3)
    text = parquet.ParquetFile(grouped).metadata.row_group(1).column(0)
    with grouped.open("r+b") as file:
        file.seek(text.dictionary_page_offset)
        file.write(bytes(text.total_compressed_size))
    rows = parquet_rows(grouped)
    assert [next(rows)[1]["text"] for _ in range(3)] == ["w0", "w1", "w2"]
    with pytest.raises((OSError, ValueError)):
        next(rows)
