"""Which architectures serve which terms, measured on tiny networks of random weights; the README's table is compared."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import transformers
from torch.testing import assert_close
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoTokenizer

from kd_lightning.encoder import classifier, masked_lm
from kd_lightning.student.transplant import distilbert, smaller
from kd_lightning.terms import AttentionMatch
from kd_lightning.views import Needs

README = Path(__file__).resolve().parents[1] / "README.md"
SHAPE = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 64}
SPECIAL = {"pad_token_id": 0, "bos_token_id": None, "eos_token_id": None, "cls_token_id": 2, "sep_token_id": 3}
RELATIVE = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]}
FAMILIES = {  # name -> class and what its configuration has of its own
    "BERT": ("Bert", {}),
    "DistilBERT": ("DistilBert", {"dim": 32, "n_layers": 4, "n_heads": 4, "hidden_dim": 64}),
    "RoBERTa": ("Roberta", {}),
    "XLM-R": ("XLMRoberta", {}),
    "CamemBERT": ("Camembert", {}),
    "ELECTRA": ("Electra", {"embedding_size": 16}),
    "ALBERT": ("Albert", {"embedding_size": 16}),
    "MobileBERT": ("MobileBert", {"embedding_size": 16, "intra_bottleneck_size": 16}),
    "ModernBERT": ("ModernBert", {**SPECIAL, "local_attention": 8, "classifier_pooling": "mean"}),
    "DeBERTa": ("Deberta", RELATIVE),
    "DeBERTa-v2/v3": ("DebertaV2", RELATIVE),
    "MPNet": ("MPNet", {}),
    "FNet": ("FNet", {}),
    "BART": ("Bart", {}),
}
COLUMNS = ("hidden states", "attention", "masked LM", "classifier", "`smaller` copies", "`distilbert` copies")
LABELS = ("yes", "no", "maybe")
TEXTS = ("w7 w8 w9 w10 w11 w12", "w9 w20")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, make_tokenizer):
    def save(name: str) -> Path:
        kind, more = FAMILIES[name]
        torch.manual_seed(0)
        shape = {} if name == "DistilBERT" else SHAPE
        fields = {"vocab_size": 97, "max_position_embeddings": 64, "pad_token_id": 0, **shape, **more}
        config = getattr(transformers, f"{kind}Config")(**fields)
        place = tmp_path_factory.mktemp(kind)
        AutoModelForMaskedLM.from_config(config).save_pretrained(place)
        make_tokenizer().save_pretrained(place)
        return place

    return save


def alone(model, tokenizer, text: str):
    with torch.no_grad():
        tokens = tokenizer(text, return_tensors="pt")
        names = ("input_ids", "attention_mask")
        return model(**{name: tokens[name] for name in names}, output_hidden_states=True)


def served(do) -> bool:
    """A refusal is a ValueError; whatever else is raised is a fault."""
    try:
        do()
    except ValueError:
        return False
    return True


def measure(place: Path, name: str, texts: Sequence[str] = TEXTS) -> list[bool]:
    """A cell of each column. What is served equals plain transformers, one text at a time."""
    if not served(lambda: masked_lm(place)):
        assert not served(lambda: classifier(place, LABELS))
        return [False] * len(COLUMNS)
    encoder, tokenizer = masked_lm(place), AutoTokenizer.from_pretrained(place)
    plain = AutoModelForMaskedLM.from_pretrained(place, dtype=torch.float32).eval()
    batch = dict(tokenizer(list(texts), padding=True, return_tensors="pt"))
    with torch.no_grad():
        view = encoder(batch, Needs(hidden=frozenset(range(5)), logits=True))
        low = encoder(batch, Needs(hidden=frozenset({2}))).hidden[2]
        for row, text in enumerate(texts):
            expected, length = alone(plain, tokenizer, text), len(tokenizer(text)["input_ids"])
            kept = length - (name == "MobileBERT")  # whose last word reads the padding beside it
            for k in range(5):
                assert_close(view.hidden[k][row, :kept], expected.hidden_states[k][0, :kept], rtol=1e-4, atol=1e-4)
            assert_close(low[row, :length], view.hidden[2][row, :length], rtol=1e-4, atol=1e-4)
            places = torch.arange(kept) + row * batch["input_ids"].shape[1]
            assert_close(view.logits(places), expected.logits[0, :kept], rtol=1e-4, atol=1e-4)
        head = classifier(place, LABELS)
        head.model.save_pretrained(place / "head")
        theirs = AutoModelForSequenceClassification.from_pretrained(place / "head", dtype=torch.float32).eval()
        for row, text in enumerate(texts):
            shown = head(batch, Needs(logits=True)).logits(torch.tensor([row]))
            assert_close(shown, alone(theirs, tokenizer, text).logits, rtol=1e-3, atol=1e-4)
    attention = served(lambda: AttentionMatch(1.0, layers="uniform", valid_only=True).bind(encoder.spec, encoder.spec))
    if attention:
        assert len(encoder(batch, Needs(attention=frozenset({1, 4}))).attention) == 2
    settings = {"copy_head": True, "fold_token_type": True, "freeze_position_embeddings": False}
    copies = [lambda: smaller(encoder, path=None, copy_layers=[1, 4], num_hidden_layers=2)]
    copies.append(lambda: distilbert(encoder, path=None, copy_layers=[1, 4], num_hidden_layers=2, **settings))
    distilbert(encoder, path=None, copy_layers=None, num_hidden_layers=2, **settings)  # at random it starts from each
    smaller(
        encoder, path=None, copy_layers=None, num_hidden_layers=2, hidden_size=24, num_attention_heads=4, intermediate_size=20
    )
    return [True, attention, True, True, *map(served, copies)]


def line(name: str, cells: tuple[bool, ...]) -> str:
    return f"| {name} | {' | '.join('yes' if cell else '–' for cell in cells)} |"


KNOWN = {  # what is promised: hidden states, attention, masked LM, classifier, smaller, distilbert
    **dict.fromkeys(("BERT", "DistilBERT", "RoBERTa", "XLM-R", "CamemBERT"), (True,) * 6),
    **dict.fromkeys(("ELECTRA", "ALBERT", "MobileBERT", "ModernBERT"), (True, True, True, True, True, False)),
    **dict.fromkeys(("DeBERTa", "DeBERTa-v2/v3", "MPNet"), (True, False, True, True, True, False)),
    **dict.fromkeys(("FNet", "BART"), (False,) * 6),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_an_architecture_serves_what_it_is_said_to_serve(name, folder):
    assert measure(folder(name), name) == list(KNOWN[name])


def test_the_table_of_the_readme_is_the_one_that_is_measured():
    text = README.read_text(encoding="utf-8")
    if "<!-- families -->" not in text:
        pytest.skip("README.md has no table between <!-- families --> and <!-- /families --> yet")
    shown = text.split("<!-- families -->")[1].split("<!-- /families -->")[0].strip().splitlines()
    head = [f"| as a teacher | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 1) + "|"]
    assert shown == head + [line(name, KNOWN[name]) for name in FAMILIES]
