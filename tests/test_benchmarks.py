"""What the benchmarks count and compare, at sizes of a second."""

import sys
from pathlib import Path

import pandas
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
import gpu
import growth

from kd_lightning.attention import ATTENTION


def test_torchdistills_loss_and_gradient_are_those_of_its_formula_and_so_are_ours():
    """alpha · CE + (1 - alpha) · T² · KL, alpha = 0.9, T = 3."""
    work = gpu.workload("torchdistill", "small", 4, 8)
    sides = [work.build("peer", "cpu"), work.build("fp32", "cpu")]
    ours = sides[1].distiller
    inputs = {name: tensor for name, tensor in sides[1].batch.items() if name != "labels"}
    logits, taught = (network.model(**inputs).logits.double() for network in (ours.student, ours.teacher))
    p, q = (x.div(3).softmax(-1) for x in (logits, taught))
    hard = -logits.log_softmax(-1)[range(4), sides[1].batch["labels"]].mean()
    loss = 0.9 * hard + 0.1 * 9 * (q * (q.log() - p.log())).sum(-1).mean()
    found = torch.autograd.grad(loss, list(ours.student.parameters()))
    for side in sides:
        value, gradient = side.gradient()
        assert value == pytest.approx(loss.item(), rel=1e-5)
        assert len(gradient) == len(found) > 0
        for mine, expected in zip(gradient, found, strict=True):
            torch.testing.assert_close(mine, expected, atol=1e-5, rtol=1e-3)


def test_the_operations_of_a_step_are_those_that_torch_counts():
    """Of logits on a task, where nothing is computed that the step could do without."""
    side = gpu.workload("torchdistill", "small", 2, 16).build("fp32", "cpu")
    for network in (side.distiller.student, side.distiller.teacher):
        network.model.set_attn_implementation("eager")  # torch does not count the fused one on a processor
    with FlopCounterMode(display=False) as counter:
        side.backward()
    assert gpu.step_operations(side.distiller, side.batch) == pytest.approx(counter.get_total_flops(), rel=1e-4)


@pytest.mark.parametrize("name", [name for name in gpu.NAMES if name != "torchdistill"])
def test_a_peers_step_is_ours_also_when_both_are_there_and_it_attends_in_its_own_way(name):
    work = gpu.workload(name, "small", 2, 16)
    peer, ours = work.build("peer", "cpu"), work.build("fp32", "cpu")
    (loss, theirs), (value, mine) = peer.gradient(), ours.gradient()
    assert value == pytest.approx(loss, rel=1e-5)
    distance = sum(float((a - b).square().sum()) for a, b in zip(mine, theirs, strict=True)) ** 0.5
    assert distance < 1e-5 * sum(float(b.square().sum()) for b in theirs) ** 0.5
    assert ours.modules[0].model.config._attn_implementation == ATTENTION
    assert peer.modules[0].config._attn_implementation != ATTENTION


@pytest.mark.parametrize(("name", "rows"), [("distilbert-masked", 4), ("distilbert-all", 30), ("tinybert", 0)])
def test_of_a_vocabulary_only_the_rows_that_are_read_count_and_each_once(name, rows):
    """Two sequences of 14 and 16 tokens, 4 of them masked, in batches of 2 x 16."""
    side = gpu.workload(name, "small", 2, 16).build("fp32", "cpu")
    width, inner = (128, 512) if name == "tinybert" else (256, 1024)

    def layer(width: int, inner: int) -> int:
        return 2 * 16 * (2 * (4 * width**2 + 2 * width * inner) + 4 * 16 * width)

    head = rows * 2 * (256 * 256 + 256 * 30522)
    expected = 4 * layer(256, 1024) + head + 3 * (2 * layer(width, inner) + head)
    assert gpu.step_operations(side.distiller, side.batch) == expected


def test_the_table_of_a_gpu_has_a_line_for_each_side_and_its_figures_belong_together(tmp_path, capsys):
    file = tmp_path / "gpu.md"
    words = "torchdistill --device cpu --shape small --batch 2 --length 16 --rounds 1 --steps 1 --peak 0.001"
    gpu.main([*words.split(), "--markdown", str(file)])
    table = pandas.read_csv(file, sep="|", skiprows=2, skipinitialspace=True).iloc[1:, 1:-1]
    table.columns = table.columns.str.strip()
    assert [step.strip() for step in table["step"]] == ["peer", "peer bf16", "ours"]
    tokens = table["tokens/s"].str.replace(",", "").astype(float).tolist()
    share = table["MFU"].str.strip().str.rstrip("%").astype(float).tolist()
    for speed, part in zip(tokens, share, strict=True):
        assert part / speed == pytest.approx(share[2] / tokens[2], rel=0.05)
    assert [ratio.strip() for ratio in table["ours"]][2] == "-"
    assert float(table["ours"].iloc[0].strip().rstrip("x")) == pytest.approx(tokens[2] / tokens[0], rel=0.05)
    assert "torchdistill" in capsys.readouterr().out


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_without_a_gpu_it_says_what_to_write_instead(capsys):
    with pytest.raises(SystemExit):
        gpu.main(["tinybert"])
    assert "--device cpu --shape small" in capsys.readouterr().err


def test_a_peak_is_of_the_very_card():
    assert gpu.peak_of("NVIDIA H200") == gpu.peak_of("NVIDIA H100 80GB HBM3") == 989
    assert gpu.peak_of("NVIDIA A100-SXM4-80GB") == gpu.peak_of("NVIDIA A100 80GB PCIe") == 312
    for other in ("NVIDIA L40", "NVIDIA H100 PCIe", "NVIDIA H200 NVL", "NVIDIA H100 80GB HBM3 MIG 1g.10gb"):
        assert gpu.peak_of(other) is None


def test_a_size_on_paper_lies_on_the_line_through_the_two_largest_and_says_so():
    measured = [(1, 90.0, 5.0), (10, 20.0, 4.0), (100, 110.0, 3.0)]
    cells = [{"stage": "general", "MB": mb, "s": s, "peak MB": held, "peak in": "train"} for mb, s, held in measured]
    (line,) = growth.on_paper(cells, "MB", 1000)
    assert line == {"stage": "general, on paper", "MB": 1000.0, "s": 1010.0, "peak MB": 3.0, "peak in": ""}
    assert growth.on_paper(cells[:1], "MB", 1000) == []
