"""What a masked LM is asked and what is made of its answer, against sequences written by hand and transformers itself."""

import pyarrow as pa
import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, RobertaTokenizer

from kd_lightning.data.augment import candidates
from kd_lightning.data.augment.candidates import Candidates
from kd_lightning.data.augment.stop_words import of_letters
from kd_lightning.encoder import Encoder, masked_lm


def asked_of(network, *sentences: str, count: int = 3, vectors: str | None = None, language="en") -> list[list[list[str]]]:
    found = Candidates(network, count=count, vectors=vectors, precision="32-true", language=language)(sentences)
    assert found["sentence"].to_pylist() == list(sentences)
    return found["candidates"].to_pylist()


def test_a_word_is_masked_in_a_first_segment_and_shown_in_a_second(scripted, words):
    network = scripted()
    asked_of(network, "The film was GOOD.")
    (batch,) = network.asked
    sequences = [" ".join(words[i] for i in ids) for ids in batch["input_ids"].tolist()]
    assert sequences == [
        "[CLS] the [MASK] was good . [SEP] the film was good . [SEP]",
        "[CLS] the film was [MASK] . [SEP] the film was good . [SEP]",
    ]
    assert batch["token_type_ids"].tolist() == [[0] * 7 + [1] * 6] * 2
    assert batch["attention_mask"].tolist() == [[1] * 13] * 2


def test_of_the_count_best_those_that_continue_a_word_or_are_no_word_are_dropped(scripted):
    network = scripted({"film": ["movie", "##ful", "film", "[SEP]", "play"], "good": ["##ly", "##ful", "[PAD]", "[CLS]"]})
    assert asked_of(network, "film good", count=4) == [[["movie", "film"], ["good"]]]


def test_stop_words_numbers_punctuation_and_other_letters_are_not_asked_about(scripted):
    network = scripted()
    assert asked_of(network, "the was not 3 , . ' don't I'll", "b3 3b", "") == [[[]] * 13, [[]] * 2, []]
    assert not network.asked


@pytest.mark.parametrize(
    ("word", "expected"),
    [(word, True) for word in ("film", "Été", "영화가", "映画", "हिन्दी", "e\u0301te\u0301")]
    + [(word, False) for word in ("", "b3", "३", "well-known", "don't", "👍", "\u0301", "ㅋㅋ!")],
)
def test_a_word_of_letters_is_so_in_any_script_with_its_marks(word, expected):
    assert of_letters(word) == expected


def test_words_of_any_script_are_asked_about(scripted, words):
    rest = ["##ly", "##ful"]
    script = {"영화": ["드라마", "##ly", "좋다"], "좋다": ["영화", *rest], "हिन्दी": ["film", *rest]}
    network = scripted(script, lower=False)
    found = asked_of(network, "영화 , 좋다 3 हिन्दी", language="ko")
    assert found == [[["드라마", "좋다"], [], ["영화"], [], ["film"]]]
    asked = [[words[i] for i in ids[1:6]] for batch in network.asked for ids in batch["input_ids"].tolist()]
    assert [row.index("[MASK]") for row in asked] == [0, 2, 4]


def test_stop_words_are_those_of_the_language_of_the_texts(scripted):
    assert asked_of(scripted({"the": ["film"]}), "the cat", count=1) == [[[], ["cat"]]]
    assert asked_of(scripted({"the": ["film"]}), "the cat", count=1, language="ko") == [[["film"], ["cat"]]]


def test_a_word_that_the_vocabulary_does_not_know_stays_but_where_a_file_has_it(scripted, tmp_path):
    network = scripted({"cat": ["dog"]})
    assert asked_of(network, "zebra cat", count=1) == [[[], ["dog"]]]
    path = tmp_path / "glove.txt"
    path.write_text("zebra 1 0\nhorse 1 0.1\n", encoding="utf-8")
    assert asked_of(network, "zebra cat", count=1, vectors=str(path)) == [[["horse"], ["dog"]]]


def test_a_word_that_occurs_twice_is_asked_about_in_both_places(scripted):
    network = scripted({"film": ["movie"]})
    assert asked_of(network, "film , film", count=1) == [[["movie"], [], ["movie"]]]
    assert sum(len(batch["input_ids"]) for batch in network.asked) == 2


def test_a_word_of_several_pieces_gets_its_nearest_words_or_itself(scripted, tmp_path):
    path = tmp_path / "glove.txt"
    path.write_text("playful 1 0\nmerry 1 0.1\nsad -1 0\n", encoding="utf-8")
    network = scripted({"cat": ["dog"]})
    found = asked_of(network, "playful catly cat", vectors=str(path), count=1)
    assert found == [[["merry"], ["catly"], ["dog"]]]


def test_a_cased_vocabulary_keeps_case(scripted):
    network = scripted({"good": ["fine"]}, lower=False)
    found = Candidates(network, count=1, vectors=None, precision="32-true", language="en")(["The good Cat"])
    assert found["words"].to_pylist() == [["The", "good", "Cat"]]
    assert found["candidates"].to_pylist()[0][:2] == [[], ["fine"]]


def test_a_long_sentence_is_cut_to_a_window_around_the_masked_piece(scripted, words):
    network = scripted(max_length=13)  # 5 pieces, 5 pieces, [CLS], [SEP], [SEP]
    sentence = "film the the the movie the the the good"
    found = asked_of(network, sentence, count=1)
    assert [row for row in found[0] if row] == [["film"], ["movie"], ["good"]]
    sequences = [" ".join(words[i] for i in ids) for batch in network.asked for ids in batch["input_ids"].tolist()]
    assert sequences == [
        "[CLS] [MASK] the the the movie [SEP] film the the the movie [SEP]",
        "[CLS] the the [MASK] the the [SEP] the the movie the the [SEP]",
        "[CLS] movie the the the [MASK] [SEP] movie the the the good [SEP]",
    ]


@pytest.mark.parametrize("tokens", [1, 60, 4096])
def test_batches_of_any_size_say_what_transformers_says_of_one_sequence_without_padding(
    tokens, make_words_tokenizer, words, monkeypatch
):
    monkeypatch.setattr(candidates, "TOKENS", tokens)
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = BertConfig(vocab_size=len(words), max_position_embeddings=64, initializer_range=0.5, **shape)
    model = BertForMaskedLM(config).eval()
    sentences = ["film", "the cat was good .", "dog", "cat , dog , film , movie , play"]
    expected = []
    for sentence in sentences:
        ids = [words.index(word) for word in sentence.split()]
        row = []
        for place, i in enumerate(ids):
            given = torch.tensor([[2, *ids[:place], 4, *ids[place + 1 :], 3, *ids, 3]])
            segments = (torch.arange(given.shape[1])[None] > len(ids) + 1).long()
            with torch.no_grad():
                best = model(given, token_type_ids=segments).logits[0, place + 1].topk(5).indices.tolist()
            names = [words[b] for b in best if b >= 5 and not words[b].startswith("##")]
            row.append([] if words[i] in ("the", "was", ".", ",") else names or [words[i]])
        expected.append(row)
    network = Encoder(BertForMaskedLM(config), make_words_tokenizer())
    network.model.load_state_dict(model.state_dict())
    assert asked_of(network, *sentences, count=5) == expected


def test_an_empty_answer_is_a_table_too(scripted):
    found = Candidates(scripted(), count=1, vectors=None, precision="32-true", language="en")([""])
    assert found.schema.field("candidates").type == pa.list_(pa.list_(pa.string()))


def test_a_tokenizer_without_word_pieces_is_refused(scripted):
    network = scripted()
    network.tokenizer = RobertaTokenizer(vocab={"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "<mask>": 4, "a": 5}, merges=[])
    with pytest.raises(ValueError, match=r"its tokenizer \(RobertaTokenizer\) has no WordPiece vocabulary"):
        asked_of(network, "a")


def test_a_model_without_a_trained_head_is_refused(make_encoder, make_words_tokenizer, tmp_path):
    encoder = make_encoder(labels=("no", "yes"))
    encoder.model.save_pretrained(tmp_path)
    encoder.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"has no masked LM head, so its candidates would be random words"):
        asked_of(masked_lm(tmp_path), "a")
