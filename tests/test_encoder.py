import copy
import json

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.testing import assert_close
from transformers import (
    AlbertConfig,
    AlbertForMaskedLM,
    AutoModelForMaskedLM,
    BertForSequenceClassification,
    MPNetConfig,
    MPNetForMaskedLM,
)

from kd_lightning.encoder import Encoder, _plain_attention, classifier, masked_lm, vocabulary_id
from kd_lightning.views import Needs

ALL = Needs(hidden=frozenset(range(5)), attention=frozenset(range(1, 5)), logits=True)
KINDS = ("bert", "roberta", "electra", "distilbert")
LABELS = ("yes", "no", "maybe")


def inputs(batch) -> dict[str, torch.Tensor]:
    return {name: batch[name] for name in ("input_ids", "attention_mask")}


@torch.no_grad()
def reference(encoder: Encoder, batch):
    """What transformers itself says, with its own eager attention, in a model of its own."""
    model = type(encoder.model)(copy.deepcopy(encoder.model.config))
    model.load_state_dict(encoder.model.state_dict())
    model.set_attn_implementation("eager")
    return model.eval()(**inputs(batch), output_hidden_states=True, output_attentions=True)


@pytest.mark.parametrize("kind", KINDS)
def test_a_view_shows_what_transformers_computes(kind, make_encoder, corpus_batch):
    encoder, batch = make_encoder(kind), corpus_batch()
    expected = reference(encoder, batch)
    with torch.no_grad():
        view = encoder(batch, ALL)
    real = batch["attention_mask"].bool()
    assert set(view.hidden) == set(range(5))
    for k in range(5):
        assert_close(view.hidden[k][real], expected.hidden_states[k][real], rtol=1e-5, atol=1e-5)
    logits = expected.logits.flatten(0, 1)[batch["rows"]]
    assert_close(view.logits(batch["rows"]), logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_query_and_key_reproduce_the_attention_of_every_layer(kind, make_encoder, corpus_batch):
    """TinyBERT, check H: softmax over keys of (scores + mask) is what eager attention returns."""
    encoder, batch = make_encoder(kind), corpus_batch()
    expected = reference(encoder, batch).attentions
    with torch.no_grad():
        view = encoder(batch, ALL)
    assert len(expected) == len(view.attention) == 4
    hidden = (1 - batch["attention_mask"])[:, None, None, :] * -10000.0
    real = batch["attention_mask"].bool()
    for k, (query, key) in view.attention.items():
        weights = (query @ key.mT + hidden).softmax(-1)
        ours, theirs = (tensor.transpose(1, 2)[real] for tensor in (weights, expected[k - 1]))
        assert_close(ours, theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_in_bfloat16_a_view_is_that_of_float32_up_to_rounding(kind, make_encoder, corpus_batch):
    """On a CPU bfloat16 has its own attention; padding is not seen there either."""
    encoder, batch = make_encoder(kind), corpus_batch()
    real = batch["attention_mask"].bool()
    expected = reference(encoder, batch).hidden_states[4][real]
    other = {**batch, "input_ids": batch["input_ids"].where(real, 7)}
    with torch.no_grad():
        ours, same = (encoder.bfloat16()(b, Needs(hidden=frozenset({4}))).hidden[4][real] for b in (batch, other))
    assert ours.dtype == torch.bfloat16
    assert (ours - expected).norm() / expected.norm() < 0.02
    assert torch.equal(ours, same)


def test_attention_from_its_formula_is_torchs(corpus_batch):
    generator = torch.Generator().manual_seed(0)
    real = corpus_batch()["attention_mask"].bool()
    mask = real[:, None, None, :].expand(-1, 1, real.shape[1], -1)
    size = (len(real), 3, real.shape[1], 5)
    inputs = [torch.randn(size, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    for given in (mask, None):
        query, key, value = inputs
        ours = _plain_attention(query * 0.5, key, value, given, 0.0)
        expected = scaled_dot_product_attention(query, key, value, attn_mask=given, scale=0.5).transpose(1, 2)
        assert_close(ours, expected)
        upstream = torch.randn(ours.shape, generator=generator, dtype=torch.float64)
        assert_close(torch.autograd.grad(ours, inputs, upstream), torch.autograd.grad(expected, inputs, upstream))


def test_attention_from_its_formula_drops_weights_and_keeps_their_mean():
    query, key = (torch.zeros(1, 1, 200, 4) for _ in range(2))
    value = torch.eye(200)[None, None]  # what comes out are the weights
    weights = _plain_attention(query, key, value, None, 0.25)[0, :, 0]
    kept = weights > 0
    assert_close(weights[kept], torch.full((int(kept.sum()),), 1 / 200 / 0.75))
    assert abs(kept.double().mean().item() - 0.75) < 0.02  # 40,000 draws: 9 standard deviations


def test_dropout_does_not_reach_query_times_key_of_the_first_layer(make_encoder, corpus_batch):
    """In train mode returned attention weights no longer sum to one; query and key come from before that."""
    encoder = make_encoder("bert", dropout=0.0)
    batch = corpus_batch()
    awake = encoder(batch, ALL).attention[1]
    for block in encoder.model.bert.encoder.layer:
        block.attention.self.dropout.p = 0.5
    encoder.train()
    for ours, expected in zip(encoder(batch, ALL).attention[1], awake, strict=True):
        assert_close(ours, expected, rtol=0, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_classifier_shows_its_logits(kind, make_encoder, task_batch):
    encoder, batch = make_encoder(kind, labels=LABELS), task_batch()
    assert encoder.spec.labels == LABELS
    expected = reference(encoder, batch).logits
    plain = {name: batch[name] for name in ("input_ids", "attention_mask")}
    rows = torch.tensor([3, 1])
    with torch.no_grad():
        assert_close(encoder(plain, ALL).logits(rows), expected[rows], rtol=1e-5, atol=1e-5)


def test_segments_are_read_where_the_model_has_them(make_encoder, task_batch):
    batch = task_batch()
    without = {name: batch[name] for name in ("input_ids", "attention_mask")}
    rows = torch.arange(4)
    with torch.no_grad():
        for kind, reads in (("bert", True), ("distilbert", False)):
            encoder = make_encoder(kind, labels=LABELS)
            with_segments, plain = (encoder(b, Needs(logits=True)).logits(rows) for b in (batch, without))
            assert torch.equal(with_segments, plain) != reads


@pytest.mark.parametrize("kind", KINDS)
def test_a_spec_is_the_networks_shape(kind, make_encoder, tokenizer):
    spec = make_encoder(kind, layers=3, hidden=16, heads=2).spec
    assert (spec.layers, spec.hidden, spec.heads, spec.vocabulary, spec.labels) == (3, 16, 2, 97, ())
    assert spec.vocabulary_id == vocabulary_id(tokenizer)


def test_another_vocabulary_has_another_digest(make_tokenizer):
    assert vocabulary_id(make_tokenizer(97)) != vocabulary_id(make_tokenizer(98))


def blocks_of(encoder: Encoder) -> torch.nn.ModuleList:
    """Found by the architecture's own name, not as the encoder finds it."""
    base = encoder.model.base_model
    return base.transformer.layer if encoder.model.config.model_type == "distilbert" else base.encoder.layer


def count_calls(encoder: Encoder) -> tuple[list[int], list[str]]:
    """Numbers of the blocks that run (from 1), and of the modules outside the encoder proper, the head."""
    blocks, head = [], []
    for number, block in enumerate(blocks_of(encoder), start=1):
        block.register_forward_hook(lambda *_, number=number: blocks.append(number))
    inside = {id(module) for module in encoder.model.base_model.modules()} | {id(encoder.model)}
    for name, module in encoder.model.named_modules():
        if id(module) not in inside:
            module.register_forward_hook(lambda *_, name=name: head.append(name))
    return blocks, head


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("needs", "last"),
    [
        (Needs(hidden=frozenset({1})), 1),
        (Needs(hidden=frozenset({0, 2})), 2),
        (Needs(attention=frozenset({3})), 3),
        (Needs(hidden=frozenset({1}), attention=frozenset({2})), 2),
        (Needs(hidden=frozenset({4})), 4),
    ],
)
def test_nothing_is_computed_above_the_highest_layer_needed(kind, needs, last, make_encoder, corpus_batch):
    encoder, batch = make_encoder(kind), corpus_batch()
    with torch.no_grad():
        whole = encoder(batch, ALL)
        blocks, head = count_calls(encoder)
        view = encoder(batch, needs)
    assert blocks == list(range(1, last + 1))
    assert head == []
    assert view.readout is None
    assert set(view.hidden) == needs.hidden
    assert set(view.attention) == needs.attention
    for k in needs.hidden:
        assert_close(view.hidden[k], whole.hidden[k], rtol=0, atol=0)
    for k in needs.attention:
        assert_close(view.attention[k], whole.attention[k], rtol=0, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_an_early_stop_leaves_the_model_as_it_was(kind, make_encoder, corpus_batch):
    encoder, batch = make_encoder(kind), corpus_batch()
    names = list(encoder.state_dict())
    with torch.no_grad():
        before = encoder(batch, ALL).logits(batch["rows"])
        encoder(batch, Needs(hidden=frozenset({1})))
        assert_close(encoder(batch, ALL).logits(batch["rows"]), before, rtol=0, atol=0)
    assert list(encoder.state_dict()) == names
    assert len(blocks_of(encoder)) == 4


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_the_encoder_through_an_early_stop_and_through_the_head(kind, make_encoder, corpus_batch):
    encoder, batch = make_encoder(kind), corpus_batch()
    encoder(batch, Needs(hidden=frozenset({2}))).hidden[2].square().sum().backward()
    reached = [
        {bool(p.grad is not None and p.grad.abs().sum() > 0) for p in block.parameters()} for block in blocks_of(encoder)
    ]
    assert [True in block for block in reached] == [True, True, False, False]
    encoder.zero_grad()
    encoder(batch, Needs(logits=True)).logits(batch["rows"]).square().sum().backward()
    assert all(True in {p.grad is not None for p in block.parameters()} for block in blocks_of(encoder))


@pytest.mark.parametrize("kind", KINDS)
def test_garbage_in_padded_positions_changes_no_real_position(kind, make_encoder, corpus_batch):
    encoder, batch = make_encoder(kind), corpus_batch()
    real = batch["attention_mask"].bool()
    # a token that is not the pad token: RoBERTa counts positions by it, so only at the end of a sequence
    noisy = batch | {"input_ids": torch.where(real, batch["input_ids"], 50)}
    with torch.no_grad():
        ours, expected = encoder(noisy, ALL), encoder(batch, ALL)
    for k in range(5):
        assert_close(ours.hidden[k][real], expected.hidden[k][real], rtol=0, atol=0)


def test_a_saved_masked_lm_is_found_again(tmp_path, make_encoder, corpus_batch):
    encoder, batch = make_encoder(), corpus_batch()
    encoder.model.save_pretrained(tmp_path)
    encoder.tokenizer.save_pretrained(tmp_path)
    again = masked_lm(tmp_path).eval()
    assert again.spec == encoder.spec
    with torch.no_grad():
        assert_close(again(batch, ALL).logits(batch["rows"]), encoder(batch, ALL).logits(batch["rows"]), rtol=0, atol=0)
    assert again.spec.trained_head


def test_weights_are_float32_however_they_are_stored(tmp_path, make_encoder):
    encoder = make_encoder()
    encoder.model.half().save_pretrained(tmp_path)
    encoder.tokenizer.save_pretrained(tmp_path)
    assert masked_lm(tmp_path).model.dtype == torch.float32
    assert classifier(tmp_path, LABELS).model.dtype == torch.float32


def test_a_masked_lm_becomes_a_classifier_with_a_new_head(tmp_path, make_encoder, task_batch):
    encoder = make_encoder()
    encoder.model.save_pretrained(tmp_path)
    encoder.tokenizer.save_pretrained(tmp_path)
    ours = classifier(tmp_path, LABELS)
    assert ours.spec.labels == LABELS
    assert ours.model.config.problem_type == "single_label_classification"
    for name, tensor in encoder.model.bert.named_parameters():
        assert_close(ours.model.bert.get_parameter(name), tensor)
    assert classifier(tmp_path, ("similarity",)).model.config.problem_type == "regression"
    assert not ours.spec.trained_head
    ours.model.save_pretrained(tmp_path)
    assert classifier(tmp_path, LABELS).spec.trained_head
    assert not masked_lm(tmp_path).spec.trained_head


def test_a_saved_classifier_keeps_its_head_and_loads_into_plain_transformers(tmp_path, make_encoder, task_batch):
    encoder, batch, rows = make_encoder(labels=LABELS), task_batch(), torch.arange(4)
    encoder.model.save_pretrained(tmp_path)
    encoder.tokenizer.save_pretrained(tmp_path)
    plain = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
    with torch.no_grad():
        logits = encoder(batch, ALL).logits(rows)
        assert_close(classifier(tmp_path, LABELS).eval()(batch, ALL).logits(rows), logits, rtol=0, atol=0)
        theirs = BertForSequenceClassification.from_pretrained(tmp_path).eval()(**plain).logits
    assert_close(theirs, logits, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_classifier_keeps_the_probability_of_each_class_name_whatever_the_order(kind, tmp_path, make_encoder, task_batch):
    encoder, batch, rows = make_encoder(kind, labels=("Not-Entailment", "neutral", "entailment")), task_batch(), torch.arange(4)
    encoder.model.save_pretrained(tmp_path)
    encoder.tokenizer.save_pretrained(tmp_path)
    ours = classifier(tmp_path, ("neutral", "entailment", "not_entailment")).eval()
    assert ours.spec.labels == ("neutral", "entailment", "not_entailment")
    assert ours.model.config.label2id == {"neutral": 0, "entailment": 1, "not_entailment": 2}
    with torch.no_grad():
        theirs = encoder(batch, ALL).logits(rows).softmax(-1)
        mine = ours(batch, ALL).logits(rows).softmax(-1)
    assert_close(mine, torch.stack([theirs[:, 1], theirs[:, 2], theirs[:, 0]], dim=1))
    ours.model.save_pretrained(tmp_path)
    with torch.no_grad():
        again = classifier(tmp_path, ours.spec.labels).eval()(batch, ALL).logits(rows).softmax(-1)
    assert_close(again, mine, rtol=0, atol=0)


@pytest.mark.parametrize("labels", [("no", "yes", "perhaps"), ("yes", "no"), ("LABEL_0", "LABEL_1", "LABEL_2")])
def test_a_classifier_of_other_labels_is_refused(labels, tmp_path, make_encoder):
    encoder = make_encoder(labels=LABELS)
    encoder.model.save_pretrained(tmp_path)
    encoder.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"labels: .* classifies \['yes', 'no', 'maybe'\] and the task .*names must agree"):
        classifier(tmp_path, labels)


@pytest.mark.parametrize("load", [masked_lm, lambda path: classifier(path, LABELS)])
def test_a_folder_without_a_model_is_refused(load, tmp_path):
    with pytest.raises(ValueError, match=r"no model is there \(a folder with config\.json and model\.safetensors"):
        load(tmp_path)


@pytest.mark.parametrize("damage", ["absent", "cut short", "not weights", "other sizes"])
@pytest.mark.parametrize("load", [masked_lm, lambda path: classifier(path, LABELS)])
def test_a_folder_without_sound_weights_is_refused(load, damage, tmp_path, make_encoder):
    encoder = make_encoder()
    encoder.model.save_pretrained(tmp_path)
    encoder.tokenizer.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    if damage == "absent":
        weights.unlink()
    elif damage == "cut short":
        weights.write_bytes(weights.read_bytes()[:-1000])
    elif damage == "not weights":
        weights.write_bytes(b"no weights are in here")
    else:
        make_encoder(hidden=16).model.config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"this model cannot be loaded|have not the shapes"):
        load(tmp_path)


def test_the_exported_folder_names_no_attention_of_ours(tmp_path, make_encoder):
    make_encoder().model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert "sdpa_with_query_key" not in json.dumps(config)
    assert AutoModelForMaskedLM.from_pretrained(tmp_path).config.hidden_size == 32


def test_a_model_that_shows_no_attention_is_refused_when_attention_is_asked_for(tokenizer, corpus_batch):
    """Not silently left out: a zip over nothing would make the attention loss 0."""
    shape = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 64}
    encoder = Encoder(MPNetForMaskedLM(MPNetConfig(vocab_size=97, max_position_embeddings=64, **shape)), tokenizer)
    with pytest.raises(ValueError, match=r"MPNetForMaskedLM showed the attention of 0 of 2 layers.*attention interface"):
        encoder(corpus_batch(), Needs(attention=frozenset({1, 2})))


def test_a_model_without_a_list_of_blocks_is_refused(tokenizer):
    """ALBERT runs one block many times."""
    shape = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 64}
    model = AlbertForMaskedLM(AlbertConfig(vocab_size=97, max_position_embeddings=64, embedding_size=16, **shape))
    with pytest.raises(ValueError, match="AlbertForMaskedLM"):
        Encoder(model, tokenizer)
