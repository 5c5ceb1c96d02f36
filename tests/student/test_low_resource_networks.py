import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import nn
from torch.testing import assert_close
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from kd_lightning.student.bilstm import BiLSTMConfig
from kd_lightning.student.bow import BowConfig
from kd_lightning.student.cnn import CNNConfig
from kd_lightning.student.embeddings import from_vectors, principal_components, random
from kd_lightning.student.low_resource import LowResource, student
from kd_lightning.student.vocabulary import pieces, words
from kd_lightning.views import Needs

CONF = Path(__file__).parents[2] / "conf"
SMALL = {"vocab_size": 97, "embedding_size": 6, "num_labels": 3, "dropout": 0.0}
CONFIGS = {
    "bilstm": BiLSTMConfig(hidden_size=5, num_hidden_layers=2, **SMALL),
    "cnn": CNNConfig(filters=4, kernel_sizes=[2, 3, 5], **SMALL),
    "bow": BowConfig(head_size=7, **SMALL),
    "bilstm, two texts": BiLSTMConfig(hidden_size=5, siamese=True, **SMALL),
    "cnn, two channels": CNNConfig(filters=4, channels=2, **SMALL),
}


def made(config, seed: int = 0):
    torch.manual_seed(seed)
    return AutoModelForSequenceClassification.from_config(config).eval()


@pytest.fixture(params=CONFIGS)
def model(request):
    return made(CONFIGS[request.param])


def count(preset: str, *, embeddings: bool, classes: int = 2, siamese: bool = False, **shape) -> int:
    """Parameters of a preset of conf/student."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", ["method=bilstm", "stage=task", f"student={preset}"]).student
    architecture = instantiate(cfg.architecture, _convert_="all")
    given = {"embedding_size": cfg.embeddings.size, "vocab_size": cfg.vocabulary.size, "siamese": siamese} | shape
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(architecture(num_labels=classes, **given))
    return sum(p.numel() for name, p in model.named_parameters() if embeddings or not name.startswith("embeddings."))


@pytest.mark.parametrize(
    ("preset", "expected", "given"),
    [  # specs/low-resource.md, section 1.1
        ("tang_bilstm", 963_002, {"embeddings": False}),
        ("tang_bilstm", 603_002, {"embeddings": False, "channels": 1}),
        ("tang_bilstm_300", 2_285_402, {"embeddings": False}),
        ("tang_bilstm", 1_143_002, {"embeddings": False, "siamese": True}),
        ("tang_bilstm", 1_143_203, {"embeddings": False, "siamese": True, "classes": 3}),
        ("tang_bilstm_300", 2_645_402, {"embeddings": False, "siamese": True}),
        ("tang_bilstm_300", 2_645_603, {"embeddings": False, "siamese": True, "classes": 3}),
        ("kim_cnn", 360_902, {"embeddings": False}),
        ("kim_cnn", 720_902, {"embeddings": False, "channels": 2}),
        ("bilstm_small", 658_978, {"embeddings": True}),
        ("bilstm_small", 659_494, {"embeddings": True, "classes": 6}),
        ("bow_mlp", 80_374, {"embeddings": True, "classes": 6}),
        ("bow_mlp", 80_102, {"embeddings": True, "classes": 6, "head_size": 0}),
        ("bow_mlp", 80_034, {"embeddings": True, "head_size": 0}),
    ],
)
def test_the_presets_have_the_published_numbers_of_parameters(preset, expected, given):
    assert count(preset, **given) == expected


def test_padding_changes_nothing_in_any_student(model, task_batch):
    """But for rounding in the convolutions, whose sums may run in another order."""
    batch = {name: tensor for name, tensor in task_batch(size=9).items() if name != "labels"}
    expected = model(**batch).logits
    wider = {name: nn.functional.pad(tensor, (0, 5)) for name, tensor in batch.items()}
    wider["input_ids"] = torch.where(wider["attention_mask"].bool(), wider["input_ids"], 42)
    assert_close(model(**wider).logits, expected, rtol=1e-6, atol=1e-6)
    for row in range(9):
        length = int(batch["attention_mask"][row].sum())
        assert_close(model(**{n: t[row : row + 1, :length] for n, t in batch.items()}).logits[0], expected[row])


def test_the_bilstm_is_torchs_on_packed_sequences():
    config = CONFIGS["bilstm"]
    ours = made(config).body
    theirs = nn.LSTM(6, 5, num_layers=2, bidirectional=True, batch_first=True)
    for layer in range(2):
        for suffix, own in (("", ours.forward_layers[layer]), ("_reverse", ours.backward_layers[layer])):
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                getattr(theirs, f"{name}_l{layer}{suffix}").data.copy_(getattr(own, f"{name}_l0"))
    lengths = torch.tensor([7, 1, 4, 7, 2])
    x = torch.randn(5, 7, 6) * (torch.arange(7) < lengths[:, None])[..., None]
    packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    _, (states, _) = theirs(packed)
    assert_close(ours(x, lengths), torch.cat([states[-2], states[-1]], dim=-1), rtol=1e-6, atol=1e-6)


def test_the_cnn_is_the_maximum_of_wide_convolutions_over_the_text():
    """In NumPy, one text at a time, without padding other than the zeros at its edges."""
    body = made(CONFIGS["cnn"]).body
    lengths = [1, 4, 6]
    x = np.zeros((3, 6, 6), np.float32)
    for row, length in enumerate(lengths):
        x[row, :length] = np.random.default_rng(row).normal(size=(length, 6))
    expected = np.zeros((3, 12))
    for row, length in enumerate(lengths):
        for block, convolution in enumerate(body.convolutions):
            kernel, bias = (p.detach().double().numpy() for p in (convolution.weight, convolution.bias))  # [F, E, k]
            size = kernel.shape[-1]
            edged = np.concatenate([np.zeros((size - 1, 6)), x[row, :length], np.zeros((size - 1, 6))])
            windows = [edged[start : start + size] for start in range(length + size - 1)]
            maps = np.array([np.einsum("ke,fek->f", window, kernel) + bias for window in windows])
            expected[row, 4 * block : 4 * block + 4] = np.maximum(maps, 0).max(0)
    assert_close(body(torch.from_numpy(x), torch.tensor(lengths)).detach().double().numpy(), expected, rtol=1e-5, atol=1e-6)


def test_a_bag_of_words_does_not_know_their_order():
    model = made(CONFIGS["bow"])
    ids = torch.tensor([[5, 9, 11, 0, 0], [11, 5, 9, 0, 0]])
    mask = (ids > 0).long()
    assert_close(*model(input_ids=ids, attention_mask=mask).logits)
    table = model.embeddings[0].weight.detach()
    mean = (table[5] + table[9] + table[11]) / 3
    assert_close(model.classifier(mean), model(input_ids=ids, attention_mask=mask).logits[0])


def test_two_texts_are_read_by_one_body_and_compared_as_in_the_paper():
    model = made(CONFIGS["bilstm, two texts"])
    ids = torch.tensor([[5, 9, 11, 20, 21, 0], [7, 30, 31, 32, 33, 34]])
    mask = (ids > 0).long()
    segments = torch.tensor([[0, 0, 0, 1, 1, 0], [0, 1, 1, 1, 1, 1]])
    for row, (first, second) in enumerate((([5, 9, 11], [20, 21]), ([7], [30, 31, 32, 33, 34]))):
        u, v = (model.body(model.embeddings[0](torch.tensor([text])), torch.tensor([len(text)]))[0] for text in (first, second))
        expected = model.classifier(torch.cat([u, v, (u - v).abs(), u * v]))
        found = model(input_ids=ids, attention_mask=mask, token_type_ids=segments).logits[row]
        assert_close(found, expected)


@pytest.mark.parametrize("preset", ["bilstm", "cnn", "bow"])
def test_word_dropout_hides_its_share_of_the_words_in_training_alone(preset):
    """specs/low-resource.md, section 8.L."""
    config = type(CONFIGS[preset])(**{**CONFIGS[preset].to_dict(), "word_dropout": 0.1, "unk_token_id": 3})
    model, read = made(config), []
    model.embeddings[0].register_forward_pre_hook(lambda _, inputs: read.append(inputs[0].clone()))
    ids = torch.randint(5, 97, (200, 60))
    mask = (torch.arange(60) < torch.randint(20, 61, (200, 1))).long()
    ids = ids * mask
    model(input_ids=ids, attention_mask=mask)
    assert torch.equal(read.pop(), ids)
    model.train()(input_ids=ids, attention_mask=mask)
    (seen,) = read
    hidden = seen != ids
    assert (seen[hidden] == 3).all()
    assert not hidden[mask == 0].any()
    assert hidden.sum().item() / mask.sum().item() == pytest.approx(0.1, abs=0.01)


def test_a_text_without_tokens_has_logits(model):
    ids, mask = torch.zeros(2, 3, dtype=torch.long), torch.zeros(2, 3, dtype=torch.long)
    logits = model(input_ids=ids, attention_mask=mask, token_type_ids=mask).logits
    assert logits.isfinite().all()
    assert torch.equal(logits[0], logits[1])


def test_one_channel_learns_and_the_other_stays_what_it_was(task_batch):
    model = made(CONFIGS["cnn, two channels"])
    model(**task_batch()).loss.backward()
    learning, frozen = model.embeddings
    assert learning.weight.grad.any()
    assert not frozen.weight.requires_grad


def test_they_are_exported_and_loaded_in_a_fresh_process_with_the_same_logits(tmp_path, make_tokenizer):
    texts = ["w5 w9 w30", "w41", "w7 w7 w12 w80 w33"]
    script = (
        "import kd_lightning, json, sys\n"
        "from transformers import AutoModelForSequenceClassification as M, AutoTokenizer as T\n"
        f"batches = [T.from_pretrained(f)({texts}, padding=True, return_tensors='pt') for f in sys.argv[1:]]\n"
        "models = [M.from_pretrained(f).eval() for f in sys.argv[1:]]\n"
        "print(json.dumps([m(**b).logits.tolist() for m, b in zip(models, batches)]))\n"
    )
    expected = []
    for number, config in enumerate(CONFIGS.values()):
        model, folder = made(config), tmp_path / str(number)
        model.save_pretrained(folder)
        make_tokenizer().save_pretrained(folder)
        expected.append(model(**make_tokenizer()(texts, padding=True, return_tensors="pt")).logits)
        assert (folder / "model.safetensors").is_file()
    command = [sys.executable, "-c", script, *map(str, sorted(tmp_path.iterdir()))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    for found, logits in zip(json.loads(done.stdout), expected, strict=True):
        assert_close(torch.tensor(found), logits, rtol=1e-6, atol=1e-6)


class Rows:
    """A reader of rows that are given."""

    def __init__(self, **splits: list[str]) -> None:
        self.given = splits

    def splits(self, unlabelled: bool) -> dict[str, dict]:
        class Table(dict):
            column_names = ("sentence1", "label")

        return {name: Table(sentence1=texts) for name, texts in self.given.items() if unlabelled or name != "unlabelled"}


READER = Rows(
    train=["The film, the FILM was good.", "Good film!"], unlabelled=["A bad one"], validation=["secret"], test=["hidden"]
)


def test_words_are_those_of_training_and_unlabelled_texts_the_most_frequent_first():
    tokenizer = words(None, reader=READER, size=100)
    table = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    assert table == ["[PAD]", "[UNK]", "[MASK]", "film", "good", "the", "!", ",", ".", "a", "bad", "one", "was"]
    assert len(words(None, reader=READER, size=5)) == 5
    assert words(None, reader=READER, size=5).tokenize("the good film") == ["[UNK]", "good", "film"]


def test_words_of_a_pair_tell_their_text_and_a_mask_is_one_token():
    tokenizer = words(None, reader=READER, size=100)
    found = tokenizer("The [MASK] was", "secret film")
    assert tokenizer.convert_ids_to_tokens(found["input_ids"]) == ["the", "[MASK]", "was", "[UNK]", "film"]
    assert found["token_type_ids"] == [0, 0, 0, 1, 1]


def test_a_vocabulary_is_exported_with_the_student(tmp_path):
    tokenizer = words(None, reader=READER, size=100)
    tokenizer.save_pretrained(tmp_path)
    text = "The bad, [MASK] film", "nothing"
    assert dict(AutoTokenizer.from_pretrained(tmp_path)(*text)) == dict(tokenizer(*text))


def test_a_vocabulary_of_special_tokens_alone_is_refused():
    with pytest.raises(ValueError, match="vocabulary size 3: 3 are special tokens"):
        words(None, reader=READER, size=3)


def test_the_teachers_embeddings_are_reduced_to_their_principal_components(make_encoder):
    """Against NumPy's singular values: the reduced table spans the best approximation, so its Gram matrix is theirs."""
    teacher = make_encoder(labels=("a", "b"))
    table = principal_components(teacher.tokenizer, teacher, size=4).double().numpy()
    weights = teacher.model.get_input_embeddings().weight.detach().double().numpy()
    left, singular, _ = np.linalg.svd(weights - weights.mean(0), full_matrices=False)
    best = left[:, :4] * singular[:4]
    assert table.std() == pytest.approx(0.25 / 3**0.5, rel=1e-2)  # uniform in -1/4..1/4
    assert_close(table @ table.T / np.square(table).sum(), best @ best.T / np.square(best).sum(), rtol=1e-4, atol=1e-6)


def test_the_teachers_embeddings_want_its_tokens_and_enough_of_its_width(make_encoder):
    teacher = make_encoder(labels=("a", "b"))
    with pytest.raises(ValueError, match=r"\(student/vocabulary=pieces or used\), or choose student/embeddings=random"):
        principal_components(words(None, reader=READER, size=100), teacher, size=4)
    with pytest.raises(ValueError, match="size=33: the teacher's input embeddings are 32 wide"):
        principal_components(pieces(teacher), teacher, size=33)


class Known:
    @staticmethod
    def vector_of(word):
        return torch.tensor([1.0, 2.0]) if word == "film" else None


def test_vectors_of_a_file_are_found_by_word_and_the_others_are_random():
    tokenizer = words(None, reader=READER, size=100)
    table = from_vectors(tokenizer, None, vectors=Known)
    assert table[tokenizer.convert_tokens_to_ids("film")].tolist() == [1.0, 2.0]
    assert 0 < table[tokenizer.convert_tokens_to_ids("good")].abs().max() <= 0.25


def built(teacher, text=("sentence",), **other) -> LowResource:
    def bilstm(**shape):
        return BiLSTMConfig(hidden_size=4, **shape)

    def embeddings(tokenizer, teacher):
        return random(tokenizer, teacher, size=3)

    given = {"architecture": bilstm, "vocabulary": pieces, "embeddings": embeddings, "labels": ["no", "yes"], "text": text}
    return student(teacher, **(given | other))


def test_a_student_shows_logits_and_refuses_layers_by_name(make_encoder, task_batch):
    network = built(make_encoder(labels=("no", "yes")))
    batch = task_batch()
    assert network(batch, Needs(logits=True)).logits(torch.tensor([2, 0])).shape == (2, 2)
    with pytest.raises(ValueError, match="BiLSTMForSequenceClassification has no layers like the teacher's"):
        network(batch, Needs(hidden=frozenset({0})))


def test_padding_has_no_vector_and_two_columns_of_text_make_a_siamese_student(make_encoder):
    network = built(make_encoder(labels=("no", "yes")), text=("question", "answer"))
    assert not network.model.embeddings[0].weight[0].any()
    assert network.model.embeddings[0].weight[1:].any(1).all()
    assert network.model.config.siamese
    assert network.model.config.id2label == {0: "no", 1: "yes"}
