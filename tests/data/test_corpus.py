"""DistilBERT's check G, and the way from a text file to a batch."""

import gzip
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertTokenizerFast

from kd_lightning import manifest
from kd_lightning.data import sequences as made
from kd_lightning.data.corpus import Corpus
from kd_lightning.data.sequences import SHORTEST, sequences, split_long

CLS, SEP = 2, 3


def words(count: int, start: int = 5) -> str:
    return " ".join(f"w{5 + (start + i) % 92}" for i in range(count))


@pytest.fixture
def corpus(tmp_path, tokenizer):
    """A data module over text written to a file."""

    def make(lines: list[str] | str | None = None, *, name: str = "text.txt", **other) -> Corpus:
        path = tmp_path / name
        if lines is not None:
            path.write_text(lines if isinstance(lines, str) else "\n".join(lines) + "\n", encoding="utf-8")
        given = {
            "tokenizer": tokenizer,
            "source": str(path),
            "cache": str(tmp_path / "cache"),
            "max_length": 32,
            "join_lines": False,
            "batch_size": 4,
            "mask_share": 0.15,
            "mask_smoothing": 0.0,
            "held_out": 0.1,
            "max_sequences": None,
            "workers": 0,
            "seed": 1,
        }
        return Corpus(**given | other)

    return make


def ready(data: Corpus) -> Corpus:
    data.prepare_data()
    data.setup("fit")
    return data


def stored(data: Corpus) -> list[list[int]]:
    return [row.as_py() for chunk in data.data[:].column("input_ids").chunks for row in chunk]


@pytest.mark.parametrize(
    ("length", "pieces"), [(1200, [511, 512, 181]), (1021, [511, 512, 2]), (1020, [511, 511]), (513, [511, 4]), (512, [512])]
)
def test_long_sequences_are_cut_as_in_the_release(length, pieces):
    """Lengths are counted with [CLS] and [SEP]."""
    ids = [CLS, *(5 + i % 90 for i in range(length - 2)), SEP]
    found = split_long(ids, 512, CLS, SEP)
    assert [len(piece) for piece in found] == pieces
    assert all(piece[0] == CLS and piece[-1] == SEP for piece in found)
    inside = [token for piece in found for token in piece if token not in (CLS, SEP)]
    assert inside == ids[1:-1]


def test_a_line_is_a_sequence_unless_lines_are_joined():
    lines = [[10, 11], [12], [], [13, 14, 15], [16]]
    apart = list(sequences(lines, 8, CLS, SEP, join=False))
    assert apart == [[CLS, 10, 11, SEP], [CLS, 12, SEP], [CLS, 13, 14, 15, SEP], [CLS, 16, SEP]]
    joined = list(sequences(lines, 8, CLS, SEP, join=True))
    assert joined == [[CLS, 10, 11, 12, SEP], [CLS, 13, 14, 15, 16, SEP]]
    assert list(sequences(lines, 5, CLS, SEP, join=True)) == [
        [CLS, 10, 11, 12, SEP],
        [CLS, 13, 14, 15, SEP],
        [CLS, 16, SEP],
    ]


def test_joined_lines_fill_a_sequence_to_the_last_place_and_a_longer_line_is_cut():
    assert list(sequences([[10, 11], [12, 13]], 6, CLS, SEP, join=True)) == [[CLS, 10, 11, 12, 13, SEP]]
    long = [10 + i for i in range(9)]
    assert list(sequences([long], 6, CLS, SEP, join=True)) == split_long([CLS, *long, SEP], 6, CLS, SEP)


def test_short_sequences_and_those_half_unknown_are_dropped(corpus):
    kept = words(10)  # 12 with [CLS] and [SEP]
    half = "? " * 6 + words(4)  # 6 of 12 are unknown
    fewer = "? " * 5 + words(5)
    data = ready(corpus([kept, words(9), half, fewer] + [words(20)] * 40))
    found = stored(data)
    assert SHORTEST == 12
    assert len(found) == 42
    assert [len(ids) for ids in found[:3]] == [12, 12, 22]
    assert [ids.count(1) for ids in found[:2]] == [0, 5]
    assert all(ids[0] == CLS and ids[-1] == SEP for ids in found)


def documents() -> list[str]:
    return [words(10 + i % 20, start=i) for i in range(320)]


def test_each_sequence_is_read_once_an_epoch_and_none_of_the_held_out(corpus, tokenizer):
    data = ready(corpus(documents(), mask_share=0.0))

    def tokens(loader) -> list[tuple]:
        pairs = (pair for b in loader for pair in zip(b["input_ids"], b["attention_mask"], strict=True))
        return [tuple(ids[mask.bool()].tolist()) for ids, mask in pairs]

    train, held = tokens(data.train_dataloader()), tokens(data.val_dataloader())
    everything = [tuple(ids) for ids in stored(data)]
    assert sorted(train + held) == sorted(everything)
    assert len(everything) == 320
    assert set(data.train_rows) | set(data.val_rows) == set(range(320))
    assert not set(data.train_rows) & set(data.val_rows)
    assert len(data.val_rows) == 32
    assert list(np.diff(data.val_rows)) == [1] * 31


def test_a_batch_is_padded_to_its_longest_and_masked(corpus, tokenizer):
    data = ready(corpus(documents(), mask_share=0.3))
    batches = list(data.train_dataloader())
    assert len(batches) > 1
    for batch in batches:
        lengths = batch["attention_mask"].sum(1)
        assert batch["input_ids"].shape == batch["attention_mask"].shape == (len(lengths), int(lengths.max()))
        assert (batch["input_ids"][batch["attention_mask"] == 0] == tokenizer.pad_token_id).all()
        assert (batch["attention_mask"].diff(dim=1) <= 0).all()
        assert len(batch["rows"]) == len(batch["labels"]) == -(-3 * int(lengths.sum()) // 10)
        restored = batch["input_ids"].flatten().scatter(0, batch["rows"], batch["labels"])
        assert not (restored == tokenizer.mask_token_id).any()


def test_masks_are_new_in_each_epoch_and_validation_is_the_same_always(corpus, process):
    data = ready(corpus(documents(), held_out=0.3))
    first, again = ([b["rows"].tolist() for b in data.val_dataloader()] for _ in range(2))
    assert first == again

    data.trainer = process()
    zero = [b["input_ids"].tolist() for b in data.train_dataloader()]
    assert [b["input_ids"].tolist() for b in data.train_dataloader()] == zero
    data.trainer = process(epoch=1)
    assert [b["input_ids"].tolist() for b in data.train_dataloader()] != zero


def test_rare_tokens_are_masked_by_their_counts_in_the_corpus(corpus):
    data = ready(corpus(["w5 " * 12 + "w6"] * 40, mask_smoothing=0.7))
    ratio = data.masking.weights[6] / data.masking.weights[5]
    assert ratio.item() == pytest.approx(12**0.7, rel=1e-6)
    assert data.masking.weights[7] == 1.0


def test_the_number_of_sequences_can_be_limited(corpus):
    data = ready(corpus(documents(), max_sequences=10))
    assert sum(len(batch["input_ids"]) for batch in data.train_dataloader()) == 10
    assert len(data.val_rows) == 32


def test_at_least_one_block_is_held_out_however_small_the_share(corpus):
    data = ready(corpus(documents(), held_out=0.001))
    assert len(data.val_rows) == 32


def test_nothing_is_held_out_where_nothing_is_wanted(corpus):
    data = ready(corpus(documents(), held_out=0.0))
    assert len(data.val_rows) == 0
    assert len(data.train_rows) == 320


@pytest.mark.parametrize("kind", ["txt.gz", "jsonl", "csv", "parquet"])
def test_other_files_are_read_as_text_files_are(kind, corpus, tmp_path):
    texts = [words(20, start=i) for i in range(70)]
    expected = stored(ready(corpus(texts)))
    path = tmp_path / f"other.{kind}"
    if kind == "txt.gz":
        path.write_bytes(gzip.compress("\n".join(texts).encode()))
    elif kind == "jsonl":
        path.write_text("\n".join(json.dumps({"id": i, "text": text}) for i, text in enumerate(texts)))
    elif kind == "csv":
        path.write_text("id,text\n" + "\n".join(f"{i},{text}" for i, text in enumerate(texts)) + "\n")
    else:
        from datasets import Dataset

        Dataset.from_dict({"text": texts}).to_parquet(path)
    assert stored(ready(corpus(name=path.name))) == expected


def test_the_tokenised_is_kept_and_made_anew_for_another_file_vocabulary_or_length(corpus, make_tokenizer, tmp_path):
    first = ready(corpus(documents())).folder
    made = first.stat().st_mtime_ns
    again = corpus(batch_size=8, mask_share=0.3, seed=5)
    again.prepare_data()
    assert again.folder == first
    assert first.stat().st_mtime_ns == made
    others = [
        corpus(max_length=16).folder,
        corpus(join_lines=True).folder,
        corpus(tokenizer=make_tokenizer(96)).folder,
        corpus(documents()[:300]).folder,
    ]
    assert len({first, *others}) == 5
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [first.name]


def test_a_failure_leaves_nothing_behind(corpus, tmp_path):
    data = corpus([words(5)] * 50)
    with pytest.raises(ValueError, match=r"text\.txt: no text to train on is in there \(sequences of 12 tokens or more\)"):
        data.prepare_data()
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize("earlier", [False, True])
def test_tokens_are_counted_once_for_all_and_an_earlier_versions_cache_without_counts_is_still_read(
    earlier, corpus, monkeypatch, tokenizer
):
    monkeypatch.setattr(made, "ROWS", 50)
    data = ready(corpus(documents(), join_lines=True))
    expected = np.bincount([i for ids in stored(data) for i in ids], minlength=len(tokenizer))
    assert expected[CLS] == len(stored(data))
    again = corpus(join_lines=True)
    if earlier:
        (again.folder / "counts.npy").unlink()
        manifest.write(again.folder)
    else:
        monkeypatch.setattr(np, "bincount", None)  # nothing is counted any more
    for found in (data, ready(again)):
        assert found.counts.dtype == torch.int64
        assert found.counts.tolist() == expected.tolist()


@pytest.mark.parametrize("join", [False, True])
def test_several_processes_leave_what_one_leaves_and_a_small_corpus_has_one(join, corpus, tmp_path, monkeypatch):
    """Parts of 50 texts, of which one holds no sequence."""
    texts = documents()[:110] + [words(3)] * 100 + documents()[:110]
    part = made.Tokenised.__getitem__

    def told(self, number):
        with (tmp_path / "pids").open("a") as file:
            file.write(f"{os.getpid()}\n")
        return part(self, number)

    monkeypatch.setattr(made.Tokenised, "__getitem__", told)
    monkeypatch.setattr(made, "ROWS", 50)
    monkeypatch.setattr(made, "cores", lambda: 2)
    left = []
    for large in (made.LARGE, 0):
        monkeypatch.setattr(made, "LARGE", large)
        data = ready(corpus(texts, join_lines=join, cache=str(tmp_path / str(large))))
        pids = (tmp_path / "pids").read_text().split()
        assert len(pids) == 7
        assert len(set(pids)) == (2 if large == 0 else 1)
        assert (str(os.getpid()) in pids) == (large > 0)
        (tmp_path / "pids").unlink()
        left.append({file.name: file.read_bytes() for file in data.folder.iterdir() if file.name != "state.json"})
    assert {"counts.npy", "data-00000-of-00001.arrow", "manifest.json"} <= set(left[0])
    assert left[0].keys() == left[1].keys()
    assert all(left[0][name] == left[1][name] for name in left[0] if name != "manifest.json")


TWO = """
import sys, time
from pathlib import Path
from transformers import BertTokenizerFast
from kd_lightning.data.corpus import Corpus

class Slow(Corpus):
    def _make(self, scratch):
        with Path("read").open("a") as file:
            file.write("once\\n")
        time.sleep(1)
        super()._make(scratch)

tokenizer = BertTokenizerFast.from_pretrained("tokenizer")
other = dict(join_lines=False, batch_size=4, mask_share=0.15, mask_smoothing=0.0, held_out=0.1, max_sequences=None)
data = Slow(tokenizer=tokenizer, source="text.txt", cache="cache", max_length=32, workers=0, seed=1, **other)
Path(f"ready{sys.argv[1]}").touch()
while not (Path("ready0").exists() and Path("ready1").exists()):
    time.sleep(0.01)
data.prepare_data()
data.setup("fit")
print(len(data.data))
"""


def test_two_processes_that_want_the_same_corpus_both_have_it_and_one_reads_it(tokenizer, corpus, tmp_path):
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    alone = len(ready(corpus(documents(), cache=str(tmp_path / "alone"))).data)
    command = [sys.executable, "-c", TWO]
    where = {"cwd": tmp_path, "env": os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}}
    pipes = {"text": True, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    processes = [subprocess.Popen([*command, str(i)], **where, **pipes) for i in range(2)]
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert [int(output.splitlines()[-1]) for output, _ in outputs] == [alone, alone]
    assert (tmp_path / "read").read_text() == "once\n"
    assert len(list((tmp_path / "cache").iterdir())) == 1


@pytest.mark.parametrize("name", ["*.arrow", "counts.npy"])
def test_a_flipped_bit_in_a_kept_corpus_is_told_and_the_text_is_tokenised_again(name, corpus, capsys):
    whole = stored(ready(corpus(documents())))
    data = corpus()
    (file,) = data.folder.glob(name)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    capsys.readouterr()
    assert stored(ready(data)) == whole
    assert f"{file} is not what manifest.json says of it" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"max_length": 65}, r"data\.max_length=65: this tokenizer's model reads 64 at most"),
        ({"source": ["absent.txt", "missing.txt"]}, r"data\.source: absent\.txt, missing\.txt cannot be found"),
        ({"source": "absent.txt"}, r"data\.source: absent\.txt cannot be found\. Give text files or a hub name"),
    ],
)
def test_what_cannot_be_read_is_refused_in_a_sentence(other, words, corpus):
    with pytest.raises(ValueError, match=words):
        corpus(**other).prepare_data()


def test_a_file_without_a_text_column_is_refused(corpus):
    with pytest.raises(ValueError, match=r"data\.source: a column 'text' is wanted, and the columns are body"):
        corpus('{"body": "w5"}\n', name="rows.jsonl")


def test_too_few_sequences_to_hold_any_out_are_refused(corpus):
    data = corpus([words(20)] * 20)
    data.prepare_data()
    with pytest.raises(ValueError, match=r"text\.txt: 20 sequences are too few to hold 0\.1 out"):
        data.setup("fit")


def test_a_share_that_is_none_and_a_tokenizer_without_mask_are_refused(corpus):
    data = corpus(documents(), mask_share=1.5)
    data.prepare_data()
    with pytest.raises(ValueError, match=r"data\.mask_share: 1\.5 is not a share"):
        data.setup("fit")
    table = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3} | {f"w{i}": i - 1 for i in range(5, 98)}
    bare = BertTokenizerFast(vocab=table, model_max_length=64)
    bare.mask_token = None
    data = corpus(documents(), tokenizer=bare)
    data.prepare_data()
    with pytest.raises(ValueError, match=r"no mask token"):
        data.setup("fit")


def test_reading_leaves_the_global_generator_alone(corpus):
    data = ready(corpus(documents()))
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    list(data.train_dataloader())
    assert torch.equal(torch.rand(3), expected)


def test_a_masked_lm_is_held_against_the_entropy_of_the_frequencies(corpus):
    """Two words, three quarters and one quarter: H = 2 ln 2 - 3/4 ln 3 nats; [CLS] and [SEP] are not to be predicted."""
    data = ready(corpus([" ".join(["w5", "w5", "w6", "w5"] * 5)] * 64))
    assert data.references["val/unigram_entropy"] == pytest.approx(2 * math.log(2) - 0.75 * math.log(3))
    assert ready(corpus(mask_share=0.0)).references == {}


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("rows.jsonl", '{"text": "w5"}\n{"text"\n', r"rows\.jsonl, line 2: not JSON"),
        ("text.md", "w5 w6\n", r"text\.md ends in none of \.txt"),
        ("text.txt", "", r"text\.txt has no content"),
    ],
)
def test_a_corpus_is_checked_when_it_is_made_so_that_nothing_trains_before(name, text, words, corpus, tmp_path):
    with pytest.raises(ValueError, match=words):
        corpus(text, name=name)
    assert not (tmp_path / "cache").exists()


def test_files_of_several_formats_are_one_corpus(corpus, tmp_path):
    texts = [words(20, start=i) for i in range(70)]
    expected = stored(ready(corpus(texts)))
    (tmp_path / "a.TXT").write_text("\n".join(texts[:30]))
    (tmp_path / "b.ndjson.gz").write_bytes(
        gzip.compress("\n".join(json.dumps({"text": text}) for text in texts[30:50]).encode())
    )
    (tmp_path / "c.tsv").write_text("id\ttext\n" + "".join(f"{i}\t{text}\n" for i, text in enumerate(texts[50:])))
    assert stored(ready(corpus(source=[str(tmp_path / name) for name in ("a.TXT", "b.ndjson.gz", "c.tsv")]))) == expected


def test_a_long_line_is_cut_as_if_it_had_been_tokenised_whole(corpus, tokenizer, monkeypatch):
    line = words(500)
    whole = split_long(tokenizer(line, verbose=False)["input_ids"], 32, CLS, SEP)
    monkeypatch.setattr("kd_lightning.data.long_text.PIECE", 40)
    data = corpus([line], held_out=0.0)
    assert stored(ready(data)) == [ids for ids in whole if len(ids) >= SHORTEST]
