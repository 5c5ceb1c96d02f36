"""AdaBERT's operations, cell and network, on the numbers of specs/adabert.md and what NumPy computes."""

import json
import subprocess
import sys
from functools import partial
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

from kd_lightning.student.adabert.architecture import (
    EDGES,
    KERNELS,
    OPERATIONS,
    Architecture,
    derive,
    from_dict,
    picture,
    random_like,
    read,
    size,
    work,
)
from kd_lightning.student.adabert.cell import Cell, Places, operation
from kd_lightning.student.adabert.model import student
from kd_lightning.student.adabert.network import AdaBertConfig, AdaBertForSequenceClassification
from kd_lightning.views import Needs

# The cell that PaddleSlim has for MRPC: 30 taps.
MRPC = {
    "cells": 4,
    "nodes": {
        "2": {"0": "conv_7", "1": "dilated_5"},
        "3": {"0": "conv_7", "1": "dilated_5"},
        "4": {"1": "conv_3", "3": "dilated_3"},
    },
}
EVERY = {
    "cells": 2,
    "nodes": {"2": {"0": "conv_5", "1": "max_pool"}, "4": {"0": "average_pool", "2": "identity", "1": "dilated_7"}},
}
BARE = {"norm": nn.Identity}
LENGTHS = (7, 1, 4)


def model(architecture=EVERY, seed: int = 0, **config) -> AdaBertForSequenceClassification:
    torch.manual_seed(seed)
    shape = {"vocab_size": 97, "channels": 6, "num_labels": 3, "dropout": 0.0, "max_position_embeddings": 64} | config
    made = AdaBertForSequenceClassification(AdaBertConfig(architecture=architecture, **shape)).eval()
    for norm in (m for m in made.modules() if isinstance(m, nn.BatchNorm1d)):
        norm.running_mean.normal_(), norm.running_var.uniform_(0.5, 2), norm.bias.data.normal_()
    return made


@pytest.fixture
def places() -> Places:
    return Places((torch.arange(7) < torch.tensor(LENGTHS)[:, None]).long())


def texts(x: torch.Tensor) -> list[np.ndarray]:
    return np.split(x.detach().double().numpy(), np.cumsum(LENGTHS)[:-1])


@pytest.mark.parametrize("name", KERNELS)
def test_a_convolution_is_that_of_each_text_alone_in_numpy(name, places):
    taps, dilation = {"3": 3, "5": 5, "7": 7}[name[-1]], 2 if name.startswith("dilated") else 1
    module, x = operation(name, 6, **BARE), torch.randn(12, 6)
    kernel = module.convolution.weight.detach().double().numpy()[:, :, 0]  # [out, in, taps]
    reach = dilation * (taps - 1) // 2
    expected = []
    for text in texts(x):
        padded = np.pad(np.maximum(text, 0), ((reach, reach), (0, 0)))
        expected += [
            sum(kernel[:, :, tap] @ padded[place + tap * dilation] for tap in range(taps)) for place in range(len(text))
        ]
    assert_close(module(x, places).detach().double().numpy(), np.array(expected), rtol=1e-5, atol=1e-6)


def test_a_dilated_convolution_of_seven_sees_thirteen_positions():
    one = Places(torch.ones(1, 31, dtype=torch.long))
    module = operation("dilated_7", 1, **BARE)
    module.convolution.weight.data.fill_(1)
    x = torch.zeros(31, 1)
    x[15] = 1
    assert module(x, one).squeeze(1).nonzero().squeeze(1).tolist() == list(range(9, 22, 2))


def test_pools_see_neighbours_in_their_text_and_nothing_outside(places):
    three = Places(torch.tensor([[1, 1, 1, 0, 0]]))
    x = torch.tensor([[3.0], [6.0], [9.0]])
    assert operation("average_pool", 1, **BARE)(x, three).squeeze(1).tolist() == pytest.approx([4.5, 6, 7.5])
    assert operation("max_pool", 1, **BARE)(-x, three).squeeze(1).tolist() == [-3, -3, -6]
    for name in ("max_pool", "average_pool", "identity"):
        assert operation(name, 6, **BARE)(torch.randn(12, 6), places).shape == (12, 6)


def test_parameters_and_work_of_an_operation_are_those_of_torch():
    """The paper's costs have a bias; their work is multiply-adds and three further for each number, where torch's counter has
    two operations for each multiply-add of the convolution."""
    expected = {3: 49_152, 5: 81_920, 7: 114_688}
    full = Places(torch.ones(1, 128, dtype=torch.long))
    for name, (taps, _) in KERNELS.items():
        module = operation(name, 128, **BARE)
        with FlopCounterMode(display=False) as counter:
            module(torch.randn(128, 128), full)
        assert sum(p.numel() for p in module.parameters()) == expected[taps] == size(name, 128) - 128
        assert counter.get_total_flops() / 2 == work(name, 128, 128) - 3 * 128 * 128
    assert [size(name, 128) for name in OPERATIONS[6:]] == [0, 0, 1, 1]
    assert [work(name, 128, 128) for name in OPERATIONS[6:]] == [32_768, 32_768, 1, 1]


def test_the_wiring_of_a_cell(places):
    """Identity on 0 -> 2 and 1 -> 2 and nothing else: node 2 is their sum, and 3 and 4 are zero."""
    first, second = torch.randn(2, 12, 6)
    cell = Cell({edge: operation("identity", 6, **BARE) for edge in ((0, 2), (1, 2))})
    found = cell(first, second, lambda name, x: cell.edges[name](x, places))
    assert_close(found, cell.blend.softmax(0)[0] * (first + second))
    assert len(EDGES) == 9


def test_a_cell_adds_up_what_comes_into_each_node_and_blends_the_nodes(places):
    """Edges that multiply by a number of their own: the nodes are sums of products."""
    factor = {(0, 2): 2.0, (1, 3): 3.0, (2, 3): 5.0, (0, 4): 7.0, (3, 4): 11.0}
    cell = Cell({edge: nn.Identity() for edge in factor})
    first, second = torch.randn(2, 12, 6)
    found = cell(first, second, lambda name, x: factor[int(name[0]), int(name[2])] * x)
    two, three = 2 * first, 3 * second + 10 * first
    weights = cell.blend.softmax(0)
    assert_close(found, weights[0] * two + weights[1] * three + weights[2] * (7 * first + 11 * three))


def test_the_network_has_the_published_numbers_of_parameters():
    """The spec's 5,938,963 without affine BatchNorms; each of six a cell has two vectors of 128 here."""
    with torch.device("meta"):
        made = AdaBertForSequenceClassification(AdaBertConfig(architecture=MRPC, num_labels=2))
    count = sum(p.numel() for p in made.parameters())
    assert sum(p.numel() for p in made.embeddings.parameters()) == 3_972_352 + 256
    assert sum(m.weight.numel() for m in made.cells[0].modules() if isinstance(m, nn.Conv2d)) == 491_520
    assert from_dict(MRPC, "").taps * 128**2 == 491_520
    assert count - 4 * 6 * 2 * 128 == 5_938_963


def test_the_network_is_the_papers_in_numpy():
    """One cell of 0 -> 2 and 1 -> 3 identities, and two cells: states, their averages, tanh and the classifier."""
    made = model({"cells": 2, "nodes": {"2": {"0": "identity"}, "3": {"1": "identity"}}})
    made.blend.data.normal_()
    for cell in made.cells:
        cell.blend.data.normal_()
    ids = torch.tensor([[5, 9, 11, 0], [7, 8, 0, 0]])
    found = made(input_ids=ids, attention_mask=(ids > 0).long()).logits
    weights = {name: p.detach().double().numpy() for name, p in made.named_parameters()}

    def softmax(x):
        return np.exp(x) / np.exp(x).sum()

    for row, words in enumerate(([5, 9, 11], [7, 8])):
        x = weights["embeddings.words.weight"][words] + weights["embeddings.positions.weight"][: len(words)]
        x = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)
        first = softmax(weights["cells.0.blend"])[:2].sum() * x
        blend = softmax(weights["cells.1.blend"])
        second = blend[0] * x + blend[1] * first
        mean = np.einsum("k,kc->c", softmax(weights["blend"]), [s.mean(0) for s in (x, first, second)])
        expected = weights["classifier.weight"] @ np.tanh(mean) + weights["classifier.bias"]
        assert_close(found[row].detach().double().numpy(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("pair", [False, True])
def test_padding_changes_nothing_even_in_the_statistics_of_training(training, pair, task_batch):
    made = model(pair=pair).train(training)
    batch = {name: rows for name, rows in task_batch(size=9).items() if name != "labels"}
    expected = made(**batch).logits
    wider = {name: nn.functional.pad(rows, (0, 5)) for name, rows in batch.items()}
    wider["input_ids"] = torch.where(wider["attention_mask"].bool(), wider["input_ids"], 42)
    assert_close(made(**wider).logits, expected, rtol=1e-6, atol=1e-6)


def test_of_a_pair_each_text_starts_at_position_0_and_has_its_own_input():
    made = model(pair=True)
    ids, second = torch.tensor([[5, 9, 11, 20, 21]]), torch.tensor([[0, 0, 0, 1, 1]])
    places = Places(torch.ones_like(ids))
    a, b = made.embeddings(ids, second, places)
    table = made.embeddings.words.weight[ids[0]] + made.embeddings.positions.weight[[0, 1, 2, 0, 1]]
    expected = made.embeddings.norm(table)
    assert_close(a, expected * torch.tensor([1, 1, 1, 0, 0])[:, None])
    assert_close(b, expected * torch.tensor([0, 0, 0, 1, 1])[:, None])
    swapped = made(input_ids=torch.tensor([[20, 21, 5, 9, 11]]), token_type_ids=torch.tensor([[0, 0, 1, 1, 1]])).logits
    assert not torch.allclose(swapped, made(input_ids=ids, token_type_ids=second).logits, atol=1e-3)
    alone = model(pair=False).embeddings(ids, second, places)
    assert torch.equal(*alone)


def test_a_text_without_tokens_has_logits():
    ids = torch.tensor([[5, 9], [0, 0]])
    assert model()(input_ids=ids, attention_mask=(ids > 0).long()).logits.isfinite().all()


def test_it_is_exported_and_loaded_in_a_fresh_process_with_the_same_logits_and_its_architecture(tmp_path, make_tokenizer):
    made, texts = model(MRPC), ["w5 w9 w30", "w41", "w7 w7 w12 w80 w33"]
    made.save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    script = (
        "import kd_lightning, sys\n"
        "from transformers import AutoModelForSequenceClassification as M, AutoTokenizer as T\n"
        "batch = T.from_pretrained(sys.argv[1])(sys.argv[2:], padding=True, return_tensors='pt')\n"
        "print(M.from_pretrained(sys.argv[1]).eval()(**batch).logits.tolist())\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path), *texts], capture_output=True, text=True, check=True)
    expected = made(**make_tokenizer()(texts, padding=True, return_tensors="pt")).logits
    assert_close(torch.tensor(json.loads(done.stdout)), expected, rtol=1e-6, atol=1e-6)
    assert json.loads((tmp_path / "architecture.json").read_text()) == MRPC
    assert read(tmp_path) == from_dict(MRPC, "")


def test_the_picture_has_every_node_and_names_every_operation():
    shown = ElementTree.fromstring(picture(from_dict(MRPC, "")))
    words = [element.text for element in shown.iter("{http://www.w3.org/2000/svg}text")]
    assert sorted(w for w in words if w in OPERATIONS) == sorted(["conv_7", "dilated_5"] * 2 + ["conv_3", "dilated_3"])
    assert {"0", "1", "2", "3", "4", "out"} <= set(words)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"cells": 0, "nodes": {"2": {"0": "conv_3"}}}, "is no architecture"),
        ([], "is no architecture"),
        ({"cells": 2, "nodes": {}}, "a cell without edges"),
        ({"cells": 2, "nodes": {"2": {"2": "conv_3"}}}, "no edge from node 2 to 2"),
        ({"cells": 2, "nodes": {"2": {"0": "conv_9"}}}, "'conv_9' is no operation. Choose from conv_3"),
        ({"cells": 2, "nodes": {"2": {"0": "zero"}}}, "leave out an edge"),
    ],
)
def test_a_mistake_in_an_architecture_is_said_with_its_file(given, sentence, tmp_path):
    (tmp_path / "cell.json").write_text(json.dumps(given))
    with pytest.raises(ValueError, match=rf"cell\.json.*{sentence}"):
        read(tmp_path / "cell.json")


def test_an_architecture_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no architecture is there"):
        read(tmp_path / "nowhere.json")


def logits(best: dict[tuple[int, int], tuple[str, float]]) -> torch.Tensor:
    edges = torch.zeros(9, 10)
    for edge, (name, value) in best.items():
        edges[EDGES.index(edge), OPERATIONS.index(name)] = value
    return edges


def test_the_two_best_edges_into_a_node_are_kept_with_their_best_operation_and_never_zero():
    best = {
        (0, 2): ("conv_3", 1.0),
        (1, 2): ("zero", 9.0),
        (0, 3): ("dilated_7", 3.0),
        (1, 3): ("max_pool", 1.0),
        (2, 3): ("identity", 2.0),
        (1, 4): ("average_pool", 1.0),
        (3, 4): ("conv_5", 1.0),
    }
    found = derive(logits(best), torch.tensor([0.0, 0.1, 5.0, 0.2]))
    assert found.cells == 3
    assert found.edges == {
        (0, 2): "conv_3",
        (1, 2): "conv_3",  # of the equal ones the first
        (0, 3): "dilated_7",
        (2, 3): "identity",
        (1, 4): "average_pool",
        (3, 4): "conv_5",
    }
    assert derive(torch.zeros(9, 10), torch.zeros(8)).as_dict() == {
        "cells": 1,
        "nodes": {node: {"0": "conv_3", "1": "conv_3"} for node in "234"},
    }


def test_a_random_architecture_has_as_many_cells_and_weights_and_follows_from_its_seed():
    given = from_dict(MRPC, "")
    drawn = [random_like(given, seed) for seed in range(20)]
    assert {other.cells for other in drawn} == {4}
    assert all(28.5 <= other.taps <= 31.5 for other in drawn)
    assert all(sum(to == node for _, to in other.edges) == 2 for other in drawn for node in (2, 3, 4))
    assert len({str(other) for other in drawn}) == 20
    assert given not in drawn
    assert random_like(given, 3) == drawn[3]


def built(teacher, path, **other):
    embeddings = partial(lambda tokenizer, teacher: torch.full((len(tokenizer), 6), 0.5))
    given = {"inherit": False, "random_seed": None, "embeddings": embeddings, "channels": 6, "dropout": 0.1}
    return student(teacher, path=str(path), **(given | {"labels": ["no", "yes"], "text": ["sentence"]} | other))


def test_a_student_of_a_file_has_the_teachers_tokens_and_word_vectors(make_encoder, tmp_path, task_batch):
    (tmp_path / "cell.json").write_text(json.dumps(EVERY))
    teacher = make_encoder(labels=("no", "yes"))
    network = built(teacher, tmp_path / "cell.json")
    assert (network.spec.layers, network.spec.hidden, network.spec.labels) == (2, 6, ("no", "yes"))
    assert network.spec.vocabulary_id == teacher.spec.vocabulary_id
    assert not network.model.embeddings.words.weight[0].any()
    assert (network.model.embeddings.words.weight[1:] == 0.5).all()
    view = network(task_batch(), Needs(hidden=frozenset({0, 2}), logits=True))
    assert set(view.hidden) == {0, 2}
    assert view.hidden[2].shape == (4, 8, 6)
    assert view.logits(torch.tensor([1, 3])).shape == (2, 2)
    with pytest.raises(ValueError, match="no attention"):
        network(task_batch(), Needs(attention=frozenset({1})))
    drawn = built(teacher, tmp_path / "cell.json", random_seed=7)
    assert drawn.model.config.architecture != EVERY
    assert Architecture(2, from_dict(drawn.model.config.architecture, "").edges).taps == 12


def test_weights_are_inherited_from_a_folder_alone_and_a_regression_is_refused(make_encoder, tmp_path):
    teacher, made = make_encoder(labels=("no", "yes")), model()
    made.save_pretrained(tmp_path)
    network = built(teacher, tmp_path, inherit=True)
    for name, tensor in made.state_dict().items():
        assert torch.equal(network.model.state_dict()[name], tensor)
    with pytest.raises(ValueError, match=r"student\.inherit=true: only the folder of a search"):
        built(teacher, tmp_path / "architecture.json", inherit=True)
    with pytest.raises(ValueError, match="no regression"):
        built(teacher, tmp_path, labels=["score"])
