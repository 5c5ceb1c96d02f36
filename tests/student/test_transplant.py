"""The spec's acceptance checks A, B and C on the student builders."""

import pytest
import torch
from torch.testing import assert_close
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    DistilBertConfig,
    DistilBertForMaskedLM,
    DistilBertForSequenceClassification,
    DistilBertModel,
    ModernBertConfig,
    ModernBertForMaskedLM,
)

from kd_lightning.encoder import Encoder
from kd_lightning.student.transplant import distilbert, layers_of, smaller
from kd_lightning.views import Needs

PLAIN = {"copy_head": True, "fold_token_type": False, "freeze_position_embeddings": False}
PRESETS = {
    "hf_official": [1, 3, 5, 8, 10, 12],
    "uniform": [2, 4, 6, 8, 10, 12],
    "alternate": [1, 3, 5, 7, 9, 11],
}
# section 2.2 of the spec: student tensor -> teacher tensor
BLOCK = {
    "attention.q_lin": "attention.self.query",
    "attention.k_lin": "attention.self.key",
    "attention.v_lin": "attention.self.value",
    "attention.out_lin": "attention.output.dense",
    "sa_layer_norm": "attention.output.LayerNorm",
    "ffn.lin1": "intermediate.dense",
    "ffn.lin2": "output.dense",
    "output_layer_norm": "output.LayerNorm",
}
REST = {
    "distilbert.embeddings.word_embeddings.weight": "bert.embeddings.word_embeddings.weight",
    "distilbert.embeddings.position_embeddings.weight": "bert.embeddings.position_embeddings.weight",
    "distilbert.embeddings.LayerNorm.weight": "bert.embeddings.LayerNorm.weight",
    "distilbert.embeddings.LayerNorm.bias": "bert.embeddings.LayerNorm.bias",
    "vocab_projector.weight": "cls.predictions.decoder.weight",
    "vocab_projector.bias": "cls.predictions.bias",
}
HEAD = {
    "vocab_transform": "cls.predictions.transform.dense",
    "vocab_layer_norm": "cls.predictions.transform.LayerNorm",
}


def count(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def origins(layers: list[int], head: bool) -> dict[str, str]:
    """Student tensor -> the teacher tensor it is a copy of."""
    table = dict(REST)
    for number, layer in enumerate(layers):
        for ours, theirs in BLOCK.items():
            for part in ("weight", "bias"):
                name = f"distilbert.transformer.layer.{number}.{ours}.{part}"
                table[name] = f"bert.encoder.layer.{layer - 1}.{theirs}.{part}"
    for ours, theirs in HEAD.items() if head else ():
        for part in ("weight", "bias"):
            table[f"{ours}.{part}"] = f"{theirs}.{part}"
    return table


@pytest.fixture(scope="module")
def deep(make_encoder) -> Encoder:
    return make_encoder(layers=12, hidden=16, heads=2)


@pytest.fixture(scope="module")
def base(make_tokenizer) -> Encoder:
    """BERT-base, all sizes and no numbers."""
    with torch.device("meta"):
        return Encoder(BertForMaskedLM(BertConfig()), make_tokenizer(max_length=512))


@pytest.mark.parametrize(
    ("model", "config", "parameters"),
    [
        (DistilBertModel, DistilBertConfig(), 66_362_880),
        (DistilBertForMaskedLM, DistilBertConfig(), 66_985_530),
        (DistilBertForSequenceClassification, DistilBertConfig(num_labels=2), 66_955_010),
        (DistilBertModel, DistilBertConfig(vocab_size=28996), 65_190_912),
        (DistilBertForMaskedLM, DistilBertConfig(vocab_size=119547), 135_445_755),
        (DistilBertModel, DistilBertConfig(n_layers=3), 45_099_264),
        (BertModel, BertConfig(), 109_482_240),
        (BertForMaskedLM, BertConfig(), 109_514_298),
        (BertForSequenceClassification, BertConfig(num_labels=2), 109_483_778),
    ],
)
def test_transformers_builds_the_papers_architectures(model, config, parameters):
    with torch.device("meta"):
        assert count(model(config)) == parameters


@pytest.mark.parametrize("layers", [6, 4, 3])
def test_a_distilbert_of_bert_base_has_the_papers_size(layers, base):
    """Check A: V·768 + 512·768 + 2·768 + L·7,087,872, and the masked LM's head."""
    with torch.device("meta"):
        student = distilbert(base, path=None, num_hidden_layers=layers, copy_layers=None, **PLAIN)
    encoder = 30522 * 768 + 512 * 768 + 2 * 768 + layers * 7_087_872
    assert count(student.model.distilbert) == encoder
    assert count(student.model) == encoder + 590_592 + 1_536 + 30522
    config = student.model.config
    assert (config.dim, config.n_heads, config.hidden_dim, config.max_position_embeddings) == (768, 12, 3072, 512)
    assert (config.activation, config.dropout, config.attention_dropout) == ("gelu", 0.1, 0.1)
    assert not config.sinusoidal_pos_embds


@pytest.mark.parametrize(
    ("shape", "parameters", "without_pooler"),
    [
        ({"num_hidden_layers": 4, "hidden_size": 312, "intermediate_size": 1200}, 14_381_394, 14_252_592),
        ({"num_hidden_layers": 6}, 66_987_066, 66_364_416),
    ],
)
def test_a_tinybert_of_bert_base_has_the_papers_size(shape, parameters, without_pooler, base):
    """TinyBERT, check A."""
    with torch.device("meta"):
        student = smaller(base, path=None, copy_layers=None, **shape)
    assert count(student.model) == parameters
    assert count(student.model.bert) == without_pooler
    assert (student.spec.heads, student.spec.vocabulary) == (12, 30522)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(("head", "copied"), [(True, 106), (False, 102)])
def test_as_many_tensors_are_copied_as_in_the_release(preset, head, copied, deep):
    """Check B."""
    numbers = PLAIN | {"copy_head": head}
    student = distilbert(deep, path=None, num_hidden_layers=6, copy_layers=preset, **numbers).model.state_dict()
    teacher = deep.model.state_dict()
    table = origins(PRESETS[preset], head)
    equal = {n for n, t in student.items() if any(torch.equal(t, o) for o in teacher.values() if o.shape == t.shape)}
    assert len(equal) == copied
    assert equal == set(table)
    for ours, theirs in table.items():
        assert_close(student[ours], teacher[theirs], rtol=0, atol=0)


def test_layers_to_copy_can_be_listed(deep):
    student = distilbert(deep, path=None, num_hidden_layers=2, copy_layers=[4, 11], **PLAIN).model.state_dict()
    for ours, theirs in origins([4, 11], True).items():
        assert_close(student[ours], deep.model.state_dict()[theirs], rtol=0, atol=0)


def test_a_student_owns_its_memory_and_ties_its_own_embeddings(deep):
    student = distilbert(deep, path=None, num_hidden_layers=6, copy_layers="hf_official", **PLAIN)
    embeddings = student.model.distilbert.embeddings.word_embeddings.weight
    assert student.model.vocab_projector.weight.data_ptr() == embeddings.data_ptr()
    theirs = {tensor.data_ptr() for tensor in deep.model.state_dict().values()}
    assert not theirs & {tensor.data_ptr() for tensor in student.model.state_dict().values()}
    before = {name: tensor.clone() for name, tensor in deep.model.state_dict().items()}
    with torch.no_grad():
        for parameter in student.model.parameters():
            parameter.add_(1.0)
    for name, tensor in deep.model.state_dict().items():
        assert_close(tensor, before[name], rtol=0, atol=0)


def test_a_random_start_copies_nothing(deep):
    student = distilbert(deep, path=None, num_hidden_layers=6, copy_layers=None, **PLAIN)
    theirs = [tensor for tensor in deep.model.state_dict().values() if tensor.ndim > 1]
    ours = [tensor for tensor in student.model.state_dict().values() if tensor.ndim > 1]
    assert not any(a.shape == b.shape and torch.equal(a, b) for a in ours for b in theirs)


@pytest.mark.parametrize("fold", [False, True])
@pytest.mark.parametrize("segments", [False, True])
def test_a_full_copy_computes_what_the_teacher_computes(segments, fold, make_encoder, corpus_batch):
    """Check C: exactly so without a segment vector, or with it folded into the positions."""
    teacher = make_encoder(layers=4)
    if not segments:
        with torch.no_grad():
            teacher.model.bert.embeddings.token_type_embeddings.weight[0] = 0
    numbers = PLAIN | {"fold_token_type": fold}
    student = distilbert(teacher, path=None, num_hidden_layers=4, copy_layers="uniform", **numbers).eval()
    batch, needs = corpus_batch(), Needs(hidden=frozenset({4}), logits=True)
    rows = batch["attention_mask"].flatten().nonzero().squeeze(-1)
    with torch.no_grad():
        ours, theirs = (network(batch, needs).logits(rows) for network in (student, teacher))
    difference = (ours - theirs).abs().max().item()
    assert difference < 1e-5 if fold or not segments else difference > 0.05


def test_a_random_head_does_not_compute_what_the_teacher_computes(make_encoder, corpus_batch):
    teacher = make_encoder(layers=2)
    numbers = PLAIN | {"fold_token_type": True, "copy_head": False}
    student = distilbert(teacher, path=None, num_hidden_layers=2, copy_layers="uniform", **numbers).eval()
    batch, needs = corpus_batch(), Needs(hidden=frozenset({2}), logits=True)
    with torch.no_grad():
        ours, theirs = (network(batch, needs) for network in (student, teacher))
        real = batch["attention_mask"].bool()
        assert_close(ours.hidden[2][real], theirs.hidden[2][real], rtol=1e-5, atol=1e-5)
        assert (ours.logits(batch["rows"]) - theirs.logits(batch["rows"])).abs().max() > 0.05


@pytest.mark.parametrize("freeze", [True, False])
def test_positions_are_frozen_only_on_request(freeze, deep):
    numbers = PLAIN | {"freeze_position_embeddings": freeze}
    student = distilbert(deep, path=None, num_hidden_layers=6, copy_layers="hf_official", **numbers)
    frozen = {name for name, p in student.named_parameters() if not p.requires_grad}
    assert frozen == ({"model.distilbert.embeddings.position_embeddings.weight"} if freeze else set())


def test_a_student_reads_the_teachers_token_ids(deep):
    for student in (
        distilbert(deep, path=None, num_hidden_layers=6, copy_layers=None, **PLAIN),
        smaller(deep, path=None, copy_layers=None, num_hidden_layers=2),
    ):
        assert (student.spec.vocabulary, student.spec.vocabulary_id) == (97, deep.spec.vocabulary_id)


def test_a_distilbert_of_another_kind_of_teacher_starts_at_random_and_copies_no_layers(make_encoder):
    numbers = {"num_hidden_layers": 2, **PLAIN}
    student = distilbert(make_encoder("electra"), path=None, copy_layers=None, **numbers)
    assert (student.spec.layers, student.spec.hidden, student.spec.vocabulary) == (2, 32, 97)
    with pytest.raises(ValueError, match=r"a BERT, DistilBERT or RoBERTa, and this teacher is a electra.*copy_layers=null"):
        distilbert(make_encoder("electra"), path=None, copy_layers=[1, 2], **numbers)


@pytest.mark.parametrize("kind", ["distilbert", "roberta"])
def test_a_full_copy_of_a_distilbert_or_a_roberta_computes_what_the_teacher_computes(kind, make_encoder, corpus_batch):
    """RoBERTa's positions begin behind that of padding."""
    teacher = make_encoder(kind, layers=4)
    numbers = PLAIN | {"fold_token_type": True}
    student = distilbert(teacher, path=None, num_hidden_layers=4, copy_layers="uniform", **numbers).eval()
    batch, needs = corpus_batch(), Needs(logits=True)
    with torch.no_grad():
        ours, theirs = (network(batch, needs).logits(batch["rows"]) for network in (student, teacher))
    assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_a_smaller_distilbert_has_the_sizes_that_are_asked_for_under_berts_names(make_encoder):
    shape = {"num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 20}
    config = smaller(make_encoder("distilbert"), path=None, copy_layers=None, **shape).model.config
    assert (config.n_layers, config.dim, config.n_heads, config.hidden_dim) == (2, 16, 2, 20)
    assert smaller(make_encoder("distilbert"), path=None, copy_layers=None, hidden_dim=24).model.config.hidden_dim == 24


def test_a_smaller_modernbert_keeps_the_reach_of_the_layers_it_copies(tokenizer):
    shape = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 64}
    special = {"pad_token_id": 0, "bos_token_id": None, "eos_token_id": None, "cls_token_id": 2, "sep_token_id": 3}
    config = ModernBertConfig(global_attn_every_n_layers=3, max_position_embeddings=64, **shape, **special)
    teacher = Encoder(ModernBertForMaskedLM(config), tokenizer)
    assert config.layer_types == ["full_attention", "sliding_attention", "sliding_attention", "full_attention"]
    student = smaller(teacher, path=None, copy_layers=[1, 4], num_hidden_layers=2)
    assert student.model.config.layer_types == ["full_attention", "full_attention"]
    assert smaller(teacher, path=None, copy_layers=None, num_hidden_layers=2).model.config.layer_types == config.layer_types[:2]
    for ours, theirs in ((0, 0), (1, 3)):
        copied = teacher.blocks[theirs].state_dict()
        for name, tensor in student.blocks[ours].state_dict().items():
            assert_close(tensor, copied[name], rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"teacher's layer 2 and the student's layer 1 differ in attn_norm.*begins with 1"):
        smaller(teacher, path=None, copy_layers=[2, 4], num_hidden_layers=2)


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ([1, 2], r"2 teacher layers are listed for 6 of the student"),
        ([1, 2, 3, 4, 5, 13], r"must increase and lie in 1\.\.12"),
        ("evenly", r"layer map 'evenly' is unknown"),
    ],
)
def test_layers_that_cannot_be_copied_are_refused(layers, words, deep):
    with pytest.raises(ValueError, match=words):
        distilbert(deep, path=None, num_hidden_layers=6, copy_layers=layers, **PLAIN)


@pytest.mark.parametrize("kind", ["bert", "roberta", "electra", "distilbert"])
def test_a_smaller_student_of_any_kind_copies_blocks_by_the_map_and_the_rest_by_name(kind, make_encoder):
    teacher = make_encoder(kind, layers=4)
    student = smaller(teacher, path=None, copy_layers=[2, 4], num_hidden_layers=2)
    source, target = teacher.model.state_dict(), student.model.state_dict()
    moved = {"layer.0.": "layer.1.", "layer.1.": "layer.3."}
    for name, tensor in target.items():
        origin = name
        for ours, theirs in moved.items():
            if f".{ours}" in name:
                origin = name.replace(ours, theirs)
        assert_close(tensor, source[origin], rtol=0, atol=0)
        assert tensor.numel() == 0 or tensor.data_ptr() != source[origin].data_ptr()


def test_a_full_smaller_copy_computes_what_the_teacher_computes(make_encoder, corpus_batch):
    teacher, batch, needs = make_encoder(layers=2), corpus_batch(), Needs(logits=True)
    student = smaller(teacher, path=None, copy_layers="uniform").eval()
    with torch.no_grad():
        ours, theirs = (network(batch, needs).logits(batch["rows"]) for network in (student, teacher))
    assert_close(ours, theirs, rtol=0, atol=0)


def test_a_smaller_student_starts_at_random_and_leaves_the_teachers_configuration_alone(make_encoder):
    teacher = make_encoder(layers=4)
    student = smaller(teacher, path=None, copy_layers=None, num_hidden_layers=2, hidden_size=16, intermediate_size=20)
    assert (student.spec.layers, student.spec.hidden, student.spec.heads) == (2, 16, 4)
    assert (teacher.model.config.num_hidden_layers, teacher.model.config.hidden_size) == (4, 32)
    torch.manual_seed(5)
    weight = smaller(teacher, path=None, copy_layers=None, num_hidden_layers=2).model.bert.encoder.layer[0].output.dense.weight
    assert weight.std().item() == pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize(
    ("shape", "layers", "words"),
    [
        ({"n_layerz": 2}, None, r"student\.n_layerz: the teacher's configuration \(bert\) has no such field"),
        ({"hidden_size": 30}, None, r"hidden_size 30 does not divide by num_attention_heads 4"),
        (
            {"num_hidden_layers": 2, "hidden_size": 16},
            "uniform",
            r"the teacher's layers are 32 wide and the student's 16.*student\.copy_layers=null or student\.hidden_size=32",
        ),
        (
            {"num_hidden_layers": 2, "intermediate_size": 20},
            "uniform",
            r"intermediate\.dense\.weight is \[20, 32\] in the student and \[64, 32\] in the teacher.*equal widths",
        ),
        ({"num_hidden_layers": 3}, "uniform", r"4 teacher layers do not divide over 3 student layers"),
        ({"num_hidden_layers": 2}, [1], r"1 teacher layers are listed for 2 of the student"),
        ({"num_hidden_layers": 2}, "last", r"1 teacher layers are listed for 2 of the student"),
    ],
)
def test_an_impossible_smaller_student_is_refused_in_a_sentence(shape, layers, words, make_encoder):
    with pytest.raises(ValueError, match=words):
        smaller(make_encoder(layers=4), path=None, copy_layers=layers, **shape)


@pytest.mark.parametrize(("kind", "blocks"), [("bert", "bert.encoder.layer"), ("roberta", "roberta.encoder.layer")])
def test_a_student_of_some_layers_of_a_classifier_is_that_classifier_without_the_others(kind, blocks, make_encoder, task_batch):
    """The reference drops the other blocks from the teacher itself; body, embeddings and head are its own."""
    batch = task_batch()
    teacher = make_encoder(kind=kind, layers=4, labels=("no", "yes", "perhaps")).eval()
    student = layers_of(teacher, num_hidden_layers=2, copy_layers=[1, 4]).eval()
    rows, needs = torch.arange(len(batch["input_ids"])), Needs(logits=True)
    ours = student(batch, needs).logits(rows)
    kept = teacher.model.get_submodule(blocks)
    teacher.model.set_submodule(blocks, torch.nn.ModuleList([kept[0], kept[3]]))
    inputs = {name: tokens for name, tokens in batch.items() if name != "labels"}
    assert_close(ours, teacher.model(**inputs).logits, atol=1e-6, rtol=1e-6)
    assert student.spec.labels == ("no", "yes", "perhaps")
    assert student.spec.trained_head


def test_layers_are_uniform_where_none_are_named_and_a_teacher_without_so_many_is_refused(make_encoder):
    teacher = make_encoder(layers=4, labels=("no", "yes"))
    student = layers_of(teacher, num_hidden_layers=2, copy_layers=None)
    pairs = zip(student.blocks, (teacher.blocks[1], teacher.blocks[3]), strict=True)
    assert all(torch.equal(a, b) for ours, theirs in pairs for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    with pytest.raises(ValueError, match="5"):
        layers_of(teacher, num_hidden_layers=5, copy_layers=None)
