"""The spec's acceptance checks A, B, C, J and K on MobileBERT and IB-BERT."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch.nn import functional as F
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    MobileBertConfig,
    MobileBertForMaskedLM,
    MobileBertModel,
)

from kd_lightning.encoder import classifier, masked_lm
from kd_lightning.run import artifact
from kd_lightning.student.ib_bert import IBBertConfig, IBBertForMaskedLM, IBBertForSequenceClassification, IBBertModel
from kd_lightning.student.mobilebert import mobilebert
from kd_lightning.views import Needs

ROOT = Path(__file__).parents[2]
IB = {
    "intra_bottleneck_size": 1024,
    "intermediate_size": 4096,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "num_feedforward_networks": 1,
    "normalization_type": "layer_norm",
    "use_bottleneck_attention": False,
    "key_query_shared_bottleneck": False,
}
FULL_WIDTH = ["student.key_query_shared_bottleneck=false"]
HEAD = 512 * 512 + 512 + 1024 + 384 * 30522 + 30522  # of the masked LM; its other matrix is the word table


@pytest.mark.parametrize("who", [0, 1])
def test_a_classifiers_answer_does_not_depend_on_the_padding(who, make_bottleneck_pair, tmp_path):
    """Nor that of the folder that it leaves, read by plain transformers: the last token's neighbour is 0 in either case."""
    network = make_bottleneck_pair(blocks=1)[who]
    with torch.no_grad():
        network.model.get_input_embeddings().weight[network.model.config.pad_token_id] = 3.0  # as masked-LM training leaves it
    network.model.save_pretrained(tmp_path / "lm")
    network.tokenizer.save_pretrained(tmp_path / "lm")
    made = classifier(tmp_path / "lm", ["no", "yes"])
    made.model.save_pretrained(tmp_path / "made")
    texts = {"padding": "max_length", "return_tensors": "pt"}
    short, long = (made.tokenizer("t7 t8 t9", max_length=length, **texts) for length in (5, 16))
    for model in (made.model.eval(), AutoModelForSequenceClassification.from_pretrained(tmp_path / "made").eval()):
        with torch.no_grad():
            assert_close(model(**short).logits, model(**long).logits)


def test_an_ib_bert_reads_by_the_tokenizer_that_lies_elsewhere(make_tokenizer, tmp_path):
    MobileBertConfig().save_pretrained(tmp_path / "model")
    make_tokenizer(40, 64).save_pretrained(tmp_path / "tokenizer")
    said = [
        f"teacher.pretrained={tmp_path}/model",
        f"teacher.tokenizer={tmp_path}/tokenizer",
        "scale=demo",
        "method=mobilebert",
    ]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        teacher = instantiate(compose("train", said).stages.pretraining.networks.student)
    assert teacher.tokenizer.get_vocab() == make_tokenizer(40, 64).get_vocab()
    assert teacher.spec.vocabulary == 40


def count(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.fixture
def base(make_tokenizer, tmp_path):
    """The networks of the scale `base`, without storage."""
    tokenizer = make_tokenizer(30522, 512)
    tokenizer.save_pretrained(tmp_path)
    MobileBertConfig().save_pretrained(tmp_path)

    def build(*overrides: str):
        named = [f"teacher.pretrained={tmp_path}", "scale=base", "method=mobilebert", *overrides]
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"), torch.device("meta"):
            stages = compose("train", named).stages
            teacher = instantiate(stages.pretraining.networks.student)
            return instantiate(stages.joint.networks.student)(teacher), teacher

    return build


@pytest.mark.parametrize(
    ("overrides", "block", "encoder", "flops"),
    [
        ([], 842_240, 24_581_888, 5.385),
        (FULL_WIDTH, 874_624, 25_359_104, 5.587),
        (["student=mobilebert_tiny"], 463_232, 15_485_696, 3.070),
        (["student=mobilebert_without_opt"], 842_240, 24_581_888, 5.385),
    ],
)
def test_students_of_the_paper_have_the_specs_counts(overrides, block, encoder, flops, base):
    student, _ = base(*overrides)
    assert {count(b) for b in student.blocks} == {block}
    assert count(student.model.base_model) == encoder
    assert count(student.model) == encoder + HEAD
    assert billions(student.model.base_model) == pytest.approx(flops, abs=5e-4)
    with torch.device("meta"):
        assert count(AutoModelForSequenceClassification.from_config(student.model.config)) == encoder + 1026


def test_the_teacher_of_the_paper_has_the_specs_counts(base):
    _, teacher = base()
    assert {count(b) for b in teacher.blocks} == {12_076_544}
    assert count(teacher.model.base_model) == 294_205_184
    assert count(teacher.model) == 306_483_516 - 262_656 - 1026 == 294_205_184 + HEAD  # without pooler and next sentences
    assert billions(teacher.model.base_model) == pytest.approx(75.75, abs=5e-3)


def billions(encoder: torch.nn.Module) -> float:
    """Of operations for 128 tokens, as PyTorch counts them: two for a multiplication with its addition."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        encoder(torch.ones(1, 128, dtype=torch.long, device="meta"))
    return counter.get_total_flops() / 1e9


@pytest.mark.parametrize(
    ("width", "inner", "heads", "expected"),
    [
        (1024, 1024, 16, 357_617_920),
        (768, 1024, 16, 325_911_552),
        (512, 1024, 16, 294_205_184),
        (384, 1024, 16, 278_352_000),
        (256, 1024, 16, 262_498_816),
        (512, 1024, 4, 294_205_184),
        (512, 512, 4, 92_681_984),
        (512, 256, 4, 34_387_712),
        (512, 128, 4, 15_857_408),
    ],
)
def test_the_teachers_that_the_paper_chose_from_have_the_specs_counts(width, inner, heads, expected):
    shape = {"hidden_size": width, "num_attention_heads": heads, "intra_bottleneck_size": inner, "intermediate_size": 4 * inner}
    with torch.device("meta"):
        model = IBBertModel(IBBertConfig(classifier_activation=False, **IB | shape))
    assert count(model) == expected


def test_transformers_alone_cannot_run_the_teacher_and_ours_can():
    ids = torch.ones(1, 4, dtype=torch.long, device="meta")
    with torch.device("meta"):
        theirs, ours = MobileBertModel(MobileBertConfig(**IB)), IBBertModel(IBBertConfig(**IB))
    assert (count(theirs), count(ours)) == (319_633_664, 294_467_840)
    with pytest.raises(RuntimeError):
        theirs(ids)
    assert ours(ids).last_hidden_state.shape == (1, 4, 512)


def test_every_layer_norm_has_the_configurations_epsilon(make_bottleneck_pair):
    norms = [m for m in make_bottleneck_pair()[1].modules() if isinstance(m, torch.nn.LayerNorm)]
    assert len(norms) == 1 + 3 * 4 + 1
    assert {norm.eps for norm in norms} == {1e-12}


def test_new_queries_and_keys_start_like_every_other_matrix():
    shape = {"num_hidden_layers": 1, "hidden_size": 256, "intra_bottleneck_size": 512}
    attention = IBBertModel(IBBertConfig(vocab_size=50, **IB | shape)).encoder.layer[0].attention.self
    for linear in (attention.query, attention.key, attention.value):
        assert linear.weight.shape == (512, 256)
        assert linear.weight.std().item() == pytest.approx(0.02, rel=0.02)
        assert not linear.bias.any()


def test_a_block_of_the_teacher_is_the_papers(make_bottleneck_pair, corpus_batch):
    """Section 1.2 of the spec, step by step, from the weights."""
    (_, teacher), batch = make_bottleneck_pair(blocks=1), corpus_batch()
    view = teacher(batch, Needs(hidden=frozenset({0, 1})))
    block, x = teacher.blocks[0], view.hidden[0]

    def norm(y, of):
        return F.layer_norm(y, y.shape[-1:], of.weight, of.bias, 1e-12)

    def linear(y, of):
        return y @ of.weight.mT + of.bias

    def heads(y):
        return y.unflatten(-1, (4, 16)).transpose(1, 2)

    b = norm(linear(x, block.bottleneck.input.dense), block.bottleneck.input.LayerNorm)
    attention = block.attention.self
    q, k, v = (heads(linear(x, of)) for of in (attention.query, attention.key, attention.value))
    hidden = torch.where(batch["attention_mask"][:, None, None].bool(), 0.0, -torch.inf)
    context = ((q @ k.mT / 4 + hidden).softmax(-1) @ v).transpose(1, 2).flatten(2)
    a = norm(linear(context, block.attention.output.dense) + b, block.attention.output.LayerNorm)
    inner = linear(F.gelu(linear(a, block.intermediate.dense)), block.output.dense)
    c = norm(inner + a, block.output.LayerNorm)
    y = norm(linear(c, block.output.bottleneck.dense) + x, block.output.bottleneck.LayerNorm)
    assert_close(view.hidden[1], y, rtol=1e-4, atol=1e-5)


def test_the_embedding_is_a_convolution_over_three_tokens(make_bottleneck_pair, corpus_batch):
    """Taps: previous, current, next. The other way round is something else."""
    (student, _), ids = make_bottleneck_pair(), corpus_batch()["input_ids"]
    embeddings = student.model.base_model.embeddings
    following, current, previous = embeddings.embedding_transformation.weight.split(16, dim=1)
    rest = embeddings.position_embeddings.weight[:8] + embeddings.token_type_embeddings.weight[0]
    words = embeddings.word_embeddings(ids).mT

    def convolved(*taps):
        out = F.conv1d(words, torch.stack(taps, dim=-1), embeddings.embedding_transformation.bias, padding=1)
        return out.mT + rest

    found = embeddings(ids)
    assert_close(found, convolved(previous, current, following), rtol=0, atol=1e-6)
    assert (found - convolved(following, current, previous)).abs().max() > 0.1


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"use_bottleneck_attention": True}, "both true, and the shared bottleneck would be built and never used"),
        ({"intra_bottleneck_size": 10}, "intra_bottleneck_size 10 does not divide by num_attention_heads 4"),
        ({"embedding_size": 8}, r"word_embeddings.weight is \[97, 8\] in the student and in the teacher \[97, 16\]"),
    ],
)
def test_a_student_that_does_not_fit_is_refused_in_a_sentence(other, words, make_bottleneck_pair):
    with pytest.raises(ValueError, match=words):
        make_bottleneck_pair(**other)


def test_ib_bert_refuses_the_flags_of_other_networks():
    for flags in ({"use_bottleneck_attention": True}, {"key_query_shared_bottleneck": True}, {"use_bottleneck": False}):
        with pytest.raises(ValueError, match="With other flags it is a MobileBERT"):
            IBBertConfig(**flags)


def test_the_student_starts_with_the_teachers_embeddings_and_head_and_blocks_of_its_own(make_bottleneck_pair):
    student, teacher = make_bottleneck_pair()
    theirs = teacher.model.state_dict()
    copied = set()
    for name, tensor in student.model.state_dict().items():
        if ".encoder." in name or ".embeddings.LayerNorm." in name:
            continue
        assert torch.equal(tensor, theirs[name]), name
        copied.add(name.removeprefix("mobilebert.embeddings.").removeprefix("cls.predictions."))
    assert copied >= {"word_embeddings.weight", "position_embeddings.weight", "token_type_embeddings.weight", "dense.weight"}
    assert copied >= {"embedding_transformation.weight", "transform.dense.weight", "transform.LayerNorm.bias", "bias"}
    norm = student.model.base_model.embeddings.LayerNorm
    assert norm.weight.eq(1).all()
    assert norm.bias.eq(0).all()
    assert student.model.cls.predictions.decoder.weight is student.model.get_input_embeddings().weight


def test_a_student_with_layer_norms_takes_the_teachers_norm_too_and_one_may_take_nothing(make_bottleneck_pair):
    student, teacher = make_bottleneck_pair(normalization_type="layer_norm")
    ours, theirs = (n.model.base_model.embeddings.LayerNorm.weight for n in (student, teacher))
    assert torch.equal(ours, theirs)
    student, teacher = make_bottleneck_pair(init_from_teacher=False)
    ours, theirs = (n.model.get_input_embeddings().weight for n in (student, teacher))
    assert not torch.equal(ours, theirs)


def test_a_plain_berts_embeddings_cannot_be_copied_and_it_can_teach_without(make_encoder, make_bottleneck_pair):
    teacher = make_encoder(layers=3)
    shape = {"num_hidden_layers": 3, "num_attention_heads": 4, "embedding_size": 16, "intra_bottleneck_size": 8}
    rest = {"intermediate_size": 16, "num_feedforward_networks": 2, "key_query_shared_bottleneck": True}
    with pytest.raises(ValueError, match=r"not there \(it is a bert\).*student.init_from_teacher=false"):
        mobilebert(teacher, path=None, init_from_teacher=True, **shape, **rest)
    assert mobilebert(teacher, path=None, init_from_teacher=False, **shape, **rest).spec.hidden == 32


def test_a_later_stage_finds_the_trained_blocks_and_the_teachers_head_and_leaves_a_trained_head(make_bottleneck_pair, tmp_path):
    student, teacher = make_bottleneck_pair()
    for who, model in (("blocks", student.model.base_model), ("whole", student.model)):
        model.save_pretrained(tmp_path / who)
        student.tokenizer.save_pretrained(tmp_path / who)
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.add_(1)
    for who in ("blocks", "whole"):
        later = mobilebert(teacher, path=tmp_path / who, init_from_teacher=True).model.state_dict()
        for name, tensor in student.model.state_dict().items():
            from_teacher = who == "blocks" and name.startswith("cls.") and "decoder.weight" not in name
            source = teacher.model.state_dict()[name] if from_teacher else tensor
            assert torch.equal(later[name], source), (who, name)


def test_nothing_drops_out_while_distilling_and_who_fine_tunes_finds_dropout(make_bottleneck_pair):
    student, teacher = make_bottleneck_pair()
    for network, hidden in ((student, 0.0), (teacher, 0.1)):
        assert {m.p for m in network.modules() if isinstance(m, torch.nn.Dropout)} == {0.0}
        assert network.model.config.attention_probs_dropout_prob == 0.1
        assert network.model.config.hidden_dropout_prob == hidden


@pytest.mark.parametrize("variant", ["student", "full width", "tiny", "teacher"])
def test_what_is_saved_loads_everywhere_and_computes_the_same(variant, make_bottleneck_pair, corpus_batch, tmp_path):
    flags = {"full width": (False, False), "tiny": (True, False)}.get(variant, (False, True))
    student, teacher = make_bottleneck_pair(use_bottleneck_attention=flags[0], key_query_shared_bottleneck=flags[1])
    network, batch = (teacher if variant == "teacher" else student).eval(), corpus_batch()
    network.model.save_pretrained(tmp_path)
    network.tokenizer.save_pretrained(tmp_path)
    expected = network(batch, Needs(logits=True)).logits(batch["rows"])
    loaded = masked_lm(tmp_path).eval()
    assert type(loaded.model) is (IBBertForMaskedLM if variant in ("full width", "teacher") else MobileBertForMaskedLM)
    assert loaded.spec.trained_head
    assert_close(loaded(batch, Needs(logits=True)).logits(batch["rows"]), expected, rtol=0, atol=0)
    assert type(artifact.load(tmp_path)) is type(loaded.model)
    headed = classifier(tmp_path, ["no", "yes"])
    assert not headed.spec.trained_head
    if variant == "teacher":
        assert isinstance(headed.model, IBBertForSequenceClassification)
        assert isinstance(AutoModel.from_pretrained(tmp_path), IBBertModel)


def test_importing_the_package_is_enough_to_load_the_teacher(make_bottleneck_pair, tmp_path):
    make_bottleneck_pair()[1].model.save_pretrained(tmp_path)
    line = f"import kd_lightning; from transformers import AutoModelForMaskedLM as A; A.from_pretrained({str(tmp_path)!r})"
    done = subprocess.run([sys.executable, "-c", line], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("who", [0, 1])
def test_the_head_on_chosen_rows_is_the_models_own(who, make_bottleneck_pair, corpus_batch):
    network, batch = make_bottleneck_pair()[who].eval(), corpus_batch()
    whole = network.model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits.flatten(0, 1)
    assert_close(network(batch, Needs(logits=True)).logits(batch["rows"]), whole[batch["rows"]], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("who", [0, 1])
def test_queries_and_keys_give_the_attention_of_transformers_and_hidden_states_are_its_own(
    who, make_bottleneck_pair, corpus_batch, tmp_path
):
    network, batch = make_bottleneck_pair()[who].eval(), corpus_batch()
    network.model.save_pretrained(tmp_path)
    eager = AutoModelForMaskedLM.from_pretrained(tmp_path, attn_implementation="eager").eval()
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    expected = eager(**inputs, output_attentions=True, output_hidden_states=True)
    view = network(batch, Needs(frozenset(range(4)), frozenset({1, 2, 3})))
    hidden = torch.where(batch["attention_mask"][:, None, None].bool(), 0.0, -torch.inf)
    for k in (1, 2, 3):
        query, key = view.attention[k]
        assert_close((query @ key.mT + hidden).softmax(-1), expected.attentions[k - 1], rtol=0, atol=1e-6)
    for k in range(4):
        assert_close(view.hidden[k], expected.hidden_states[k], rtol=1e-4, atol=1e-5)
