import copy
import json
from dataclasses import replace

import pytest
import torch
from tokenizers import Tokenizer
from torch.nn.functional import scaled_dot_product_attention
from torch.testing import assert_close
from transformers import (
    AlbertConfig,
    AlbertForMaskedLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    BertForSequenceClassification,
    ModernBertConfig,
    ModernBertForMaskedLM,
    ModernBertForSequenceClassification,
    MPNetConfig,
    MPNetForMaskedLM,
    PreTrainedTokenizerFast,
    RobertaForSequenceClassification,
)

from kd_lightning.attention import plain_attention
from kd_lightning.encoder import Encoder, classifier, masked_lm, vocabulary_id
from kd_lightning.pairing import Trial
from kd_lightning.terms import AttentionMatch
from kd_lightning.views import Needs

ALL = Needs(hidden=frozenset(range(5)), attention=frozenset(range(1, 5)), logits=True)
KINDS = ("bert", "roberta", "electra", "distilbert")
LABELS = ("yes", "no", "maybe")
SHAPE = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 64}


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
        ours = plain_attention(query * 0.5, key, value, given, 0.0)
        expected = scaled_dot_product_attention(query, key, value, attn_mask=given, scale=0.5).transpose(1, 2)
        assert_close(ours, expected)
        upstream = torch.randn(ours.shape, generator=generator, dtype=torch.float64)
        assert_close(torch.autograd.grad(ours, inputs, upstream), torch.autograd.grad(expected, inputs, upstream))


def test_attention_from_its_formula_drops_weights_and_keeps_their_mean():
    query, key = (torch.zeros(1, 1, 200, 4) for _ in range(2))
    value = torch.eye(200)[None, None]  # what comes out are the weights
    weights = plain_attention(query, key, value, None, 0.25)[0, :, 0]
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
    encoder = Encoder(MPNetForMaskedLM(MPNetConfig(vocab_size=97, max_position_embeddings=64, **SHAPE)), tokenizer)
    assert not encoder.spec.shows_attention
    with pytest.raises(ValueError, match=r"MPNetForMaskedLM showed the attention of 0 of 2 layers.*attention interface"):
        encoder(corpus_batch(), Needs(attention=frozenset({1, 2})))
    with pytest.raises(ValueError, match=r"attention: the teacher cannot show queries and keys.*weight to 0"):
        AttentionMatch(1.0, layers="uniform", valid_only=True).bind(replace(encoder.spec, shows_attention=True), encoder.spec)


def test_a_model_without_a_list_of_blocks_runs_as_a_whole(tokenizer, corpus_batch):
    """ALBERT runs one block many times."""
    shape = {"vocab_size": 97, "max_position_embeddings": 64, "embedding_size": 16, "pad_token_id": 0, **SHAPE}
    encoder, batch = Encoder(AlbertForMaskedLM(AlbertConfig(**shape)).eval(), tokenizer), corpus_batch()
    expected, real = reference(encoder, batch), batch["attention_mask"].bool()
    with torch.no_grad():
        view, low = encoder(batch, ALL), encoder(batch, Needs(hidden=frozenset({1})))
    for k in range(5):
        assert_close(view.hidden[k][real], expected.hidden_states[k][real], rtol=1e-5, atol=1e-5)
    assert torch.equal(low.hidden[1], view.hidden[1])
    with pytest.raises(ValueError, match=r"AlbertForMaskedLM: it has no list of blocks"):
        _ = encoder.blocks


def modernbert(**more) -> ModernBertConfig:
    """Its queries see three positions on either side; token ids as in the tests' tokenizer."""
    special = {"pad_token_id": 0, "bos_token_id": None, "eos_token_id": None, "cls_token_id": 2, "sep_token_id": 3}
    local = {"local_attention": 6, "global_attn_every_n_layers": 2, "max_position_embeddings": 64}
    return ModernBertConfig(vocab_size=97, **special, **local, **SHAPE, **more)


def test_a_query_that_sees_no_key_gives_nought_and_has_no_gradient():
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(2, 3, 4, 5, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    mask = torch.ones(2, 1, 4, 4, dtype=torch.bool).tril()
    mask[1, 0, 2] = False
    upstream = torch.randn(2, 4, 3, 5, generator=generator, dtype=torch.float64)
    ours = plain_attention(*inputs, mask, 0.0)
    expected = scaled_dot_product_attention(*inputs, attn_mask=mask, scale=1.0).transpose(1, 2)
    assert bool((ours[1, 2] == 0).all())
    assert_close(ours, expected)
    assert_close(torch.autograd.grad(ours, inputs, upstream), torch.autograd.grad(expected, inputs, upstream))


def test_padding_out_of_reach_of_a_window_is_not_nan_in_bfloat16(tokenizer):
    torch.manual_seed(0)
    encoder = Encoder(ModernBertForSequenceClassification(modernbert(classifier_pooling="mean")), tokenizer)
    ids = torch.randint(5, 97, (2, 30))
    mask = (torch.arange(30) < torch.tensor([[30], [4]])).long()
    batch = {"input_ids": ids * mask, "attention_mask": mask}
    with torch.autocast("cpu", torch.bfloat16):
        logits = encoder(batch, ALL).logits(torch.arange(2))
    logits.float().sum().backward()
    assert bool(logits.isfinite().all())
    assert all(bool(p.grad.isfinite().all()) for p in encoder.parameters() if p.grad is not None)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_a_head_that_reads_the_mask_answers_in_a_padded_batch_as_alone(pooling, tokenizer):
    torch.manual_seed(0)
    model = ModernBertForSequenceClassification(modernbert(classifier_pooling=pooling, num_labels=3)).eval()
    batch = {"input_ids": torch.randint(5, 97, (3, 12)), "attention_mask": torch.ones(3, 12, dtype=torch.long)}
    lengths = (12, 4, 7)
    with torch.no_grad():
        alone = [model(batch["input_ids"][k : k + 1, :n]).logits[0] for k, n in enumerate(lengths)]
        for k, n in enumerate(lengths):
            batch["input_ids"][k, n:], batch["attention_mask"][k, n:] = 0, 0
        shown = Encoder(model, tokenizer)(batch, Needs(logits=True)).logits(torch.arange(3))
    assert_close(shown, torch.stack(alone), rtol=1e-4, atol=1e-5)


def test_a_norm_after_the_last_block_belongs_to_no_lower_layer(tokenizer, corpus_batch):
    torch.manual_seed(0)
    encoder, batch = Encoder(ModernBertForMaskedLM(modernbert()).eval(), tokenizer), corpus_batch()
    with torch.no_grad():
        theirs = type(encoder.model)(copy.deepcopy(encoder.model.config)).eval()
        theirs.load_state_dict(encoder.model.state_dict())
        expected = theirs(**inputs(batch), output_hidden_states=True).hidden_states
        for k in range(1, 5):
            shown = encoder(batch, Needs(hidden=frozenset({k}))).hidden[k]
            assert_close(shown, expected[k], rtol=1e-5, atol=1e-5)


def test_a_tokenizer_is_cut_to_the_positions_of_its_model(make_tokenizer, make_encoder):
    boundless = make_tokenizer(max_length=int(1e30))
    for kind, pad, limit in (("bert", 0, 64), ("distilbert", 0, 64), ("roberta", 0, 63), ("roberta", 1, 62)):
        config = copy.deepcopy(make_encoder(kind).model.config)
        config.pad_token_id = pad
        assert Encoder(AutoModelForMaskedLM.from_config(config), boundless).tokenizer.model_max_length == limit
    assert Encoder(ModernBertForMaskedLM(modernbert()), boundless).tokenizer.model_max_length == 64
    assert make_encoder("bert").tokenizer.model_max_length == 64
    assert Encoder(make_encoder("bert").model, make_tokenizer(max_length=20)).tokenizer.model_max_length == 20
    assert boundless.model_max_length == int(1e30)


def test_a_roberta_reads_pairs_of_a_tokenizer_with_segments(tmp_path, make_encoder, make_tokenizer):
    """It has a vector for the first segment alone, and plain transformers gives it none."""
    config = copy.deepcopy(make_encoder("roberta", labels=LABELS).model.config)
    config.type_vocab_size = 1
    encoder = Encoder(RobertaForSequenceClassification(config).eval(), make_tokenizer())
    pair = make_tokenizer()("w7 w8", "w9", return_tensors="pt")
    assert pair["token_type_ids"].max() == 1
    with torch.no_grad():
        expected = encoder.model(input_ids=pair["input_ids"], attention_mask=pair["attention_mask"]).logits
        assert_close(encoder(pair, Needs(logits=True)).logits(torch.tensor([0])), expected, rtol=1e-5, atol=1e-6)
    encoder.tokenizer.save_pretrained(tmp_path)
    assert "token_type_ids" not in AutoTokenizer.from_pretrained(tmp_path)("w7 w8", "w9")
    assert "token_type_ids" in make_encoder("bert").tokenizer("w7 w8", "w9")


def saved(encoder: Encoder, folder, tokenizer=None):
    encoder.model.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("load", [masked_lm, lambda path: classifier(path, LABELS)])
def test_a_folder_without_a_tokenizer_is_refused(load, tmp_path, make_encoder):
    with pytest.raises(ValueError, match=r"there is no tokenizer .* every text would become \[UNK\]"):
        load(saved(make_encoder(), tmp_path))


@pytest.mark.parametrize("load", [masked_lm, lambda path: classifier(path, LABELS)])
def test_a_tokenizer_larger_than_its_model_is_refused_and_a_smaller_one_is_read(load, tmp_path, make_encoder, make_tokenizer):
    assert load(saved(make_encoder(), tmp_path / "small", make_tokenizer(90))).spec.vocabulary == 97
    with pytest.raises(ValueError, match=r"knows token 97 and the model has vectors for 0 to 96"):
        load(saved(make_encoder(), tmp_path / "large", make_tokenizer(98)))


def test_a_tokenizer_without_the_special_tokens_it_needs_is_refused(tmp_path, make_encoder, make_tokenizer):
    folder = saved(make_encoder(), tmp_path, make_tokenizer())
    plain = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"), unk_token="[UNK]", pad_token="[PAD]")
    plain.save_pretrained(folder)
    with pytest.raises(ValueError, match=r"its tokenizer has no cls and no sep and no mask token"):
        masked_lm(folder)


NONE = ('{"model": {"type": "Nothing"}}', '{"version": "1.0", "model": {"type": "BPE", "vocab": 3}}')


def test_tokenizers_has_no_error_of_its_own_for_json_that_is_no_tokenizer(tmp_path):
    for text in NONE:
        (tmp_path / "tokenizer.json").write_text(text)
        with pytest.raises(Exception, match="line 1") as raised:
            Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
        assert raised.type is Exception


@pytest.mark.parametrize("text", ["{", "version https://git-lfs.github.com/spec/v1\noid sha256:12", *NONE])
def test_a_tokenizer_that_is_not_json_or_no_tokenizer_is_refused(text, tmp_path, make_encoder, make_tokenizer):
    saved(make_encoder(), tmp_path, make_tokenizer())
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(ValueError, match=r"its tokenizer cannot be read"):
        masked_lm(tmp_path)


def test_a_tokenizer_that_wants_a_further_package_names_it(tmp_path, make_encoder, monkeypatch):
    def absent(*_, **__):
        raise ImportError("XTokenizer requires the SentencePiece library")

    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", absent)
    with pytest.raises(ValueError, match=r"pip install sentencepiece tiktoken protobuf"):
        masked_lm(saved(make_encoder(), tmp_path))


def test_what_does_not_answer_as_transformers_does_is_refused_when_it_is_loaded(tmp_path, make_encoder, monkeypatch):
    encoder = make_encoder(labels=LABELS)
    saved(encoder, tmp_path, encoder.tokenizer)
    right = Encoder._readout
    monkeypatch.setattr(Encoder, "_readout", lambda self, output, inputs, rows: right(self, output, inputs, 1 - rows))
    with pytest.raises(ValueError, match=r"is not what it answers to each alone in transformers \(they differ by"):
        classifier(tmp_path, LABELS)


def test_loading_draws_no_random_number_but_for_a_new_head(tmp_path, make_encoder):
    encoder = make_encoder(labels=LABELS)
    saved(encoder, tmp_path, encoder.tokenizer)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    Trial(tmp_path, encoder.model, encoder.tokenizer).check(encoder)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("load", [masked_lm, lambda path: classifier(path, LABELS)])
def test_weights_that_are_not_finite_or_not_there_are_refused(load, tmp_path, make_encoder):
    encoder = make_encoder()
    state = encoder.model.state_dict()
    rest = {name: tensor for name, tensor in state.items() if "layer.2." not in name}
    encoder.model.save_pretrained(tmp_path, state_dict=rest)
    encoder.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"16 weights of a bert are not in there \(bert\.encoder\.layer\.2\."):
        load(tmp_path)
    with torch.no_grad():
        encoder.model.bert.encoder.layer[3].output.dense.bias[0] = float("nan")
    with pytest.raises(ValueError, match=r"whose weights give values that are not finite"):
        load(saved(encoder, tmp_path))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config"}}, r"code of its own, which is never run here"),
        ({"model_type": "mine"}, r"cannot be loaded \(.*`mine`"),
        ({"model_type": "t5"}, r"a t5 cannot serve as an encoder with this head"),
    ],
)
def test_a_model_that_transformers_does_not_know_is_refused_without_a_question(config, words, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=words):
        masked_lm(tmp_path)


@pytest.mark.parametrize(
    ("theirs", "ours", "order"),
    [
        (("US", "us", "Other"), ("us", "other", "US"), (1, 2, 0)),
        (("us", "US"), ("US", "us"), (1, 0)),
        (("Not-Entailment", "us", "US"), ("US", "not_entailment", "us"), (2, 0, 1)),
    ],
)
def test_class_names_are_taken_as_they_are_written_first(theirs, ours, order, tmp_path, make_encoder, task_batch):
    encoder, batch, rows = make_encoder(labels=theirs), task_batch(), torch.arange(4)
    saved(encoder, tmp_path, encoder.tokenizer)
    with torch.no_grad():
        expected = encoder(batch, ALL).logits(rows)[:, list(order)]
        assert_close(classifier(tmp_path, ours).eval()(batch, ALL).logits(rows), expected, rtol=0, atol=0)


@pytest.mark.parametrize(("theirs", "ours"), [(("US", "us"), ("Us", "uS")), (("a", "b"), ("a", "a"))])
def test_class_names_that_fit_more_than_one_are_refused(theirs, ours, tmp_path, make_encoder):
    encoder = make_encoder(labels=theirs)
    saved(encoder, tmp_path, encoder.tokenizer)
    with pytest.raises(ValueError, match="names must agree"):
        classifier(tmp_path, ours)
