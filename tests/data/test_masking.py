"""DistilBERT's check H, and TinyBERT's wish that a share of 0 hides nothing."""

import pytest
import torch
from transformers import BertTokenizerFast

from kd_lightning.data.masking import Masking

SPECIAL_IDS = torch.arange(5)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def uniform(tokenizer, share: float = 0.15) -> Masking:
    return Masking(tokenizer, torch.ones(97, dtype=torch.long), share=share, smoothing=0.7)


def sentences(lengths: list[int], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """[CLS] words [SEP], an [UNK] in each, padded with [PAD]."""
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    ids = torch.randint(5, 97, mask.shape, generator=generator(seed))
    ids[:, 0], ids[:, 2] = 2, 1
    ids[torch.arange(len(lengths)), torch.tensor(lengths) - 1] = 3
    return ids * mask, mask


def test_a_rare_token_weighs_more_by_the_power_of_the_smoothing(tokenizer):
    counts = torch.zeros(97, dtype=torch.long)
    counts[5:9] = torch.tensor([0, 1, 100, 10_000])
    masking = Masking(tokenizer, counts, share=0.15, smoothing=0.7)
    assert masking.weights[5:9].tolist() == pytest.approx([1, 1, 0.039811, 0.001585], rel=1e-3)
    assert masking.weights[SPECIAL_IDS].tolist() == [0.0] * 5
    assert Masking(tokenizer, counts, share=0.15, smoothing=0.0).weights[5:].tolist() == [1.0] * 92


def test_a_single_draw_prefers_the_rare_token_as_its_weight_says(tokenizer):
    """One type seen once beside one seen 100 times: 1 / (1 + 0.039811) = 0.9617."""
    counts = torch.zeros(97, dtype=torch.long)
    counts[5], counts[6] = 1, 100
    masking = Masking(tokenizer, counts, share=0.15, smoothing=0.7)
    ids, mask, draws = torch.tensor([[5, 6]]), torch.ones(1, 2).long(), generator()
    rare = sum(masking(ids, mask, draws)["labels"].item() == 5 for _ in range(4000))
    assert rare / 4000 == pytest.approx(0.9617, abs=0.012)


def test_the_number_of_targets_is_rounded_up_over_the_whole_batch(tokenizer):
    ids, mask = sentences([12, 20])
    assert len(uniform(tokenizer)(ids, mask, generator())["rows"]) == 5  # ⌈4.8⌉
    assert len(uniform(tokenizer, 0.5)(ids, mask, generator())["rows"]) == 16


def test_no_special_and_no_padded_position_is_ever_drawn(tokenizer):
    ids, mask = sentences([12, 20, 4, 7])
    for seed in range(50):
        rows = uniform(tokenizer, 0.4)(ids, mask, generator(seed))["rows"]
        assert len(rows)
        assert not torch.isin(ids.flatten()[rows], SPECIAL_IDS).any()
        assert mask.flatten()[rows].all()


def test_padding_that_is_not_the_pad_token_is_not_drawn_either(tokenizer):
    ids, mask = sentences([4, 20])
    noisy = torch.where(mask.bool(), ids, 50)
    for seed in range(50):
        rows = uniform(tokenizer, 0.4)(noisy, mask, generator(seed))["rows"]
        assert len(rows)
        assert mask.flatten()[rows].all()


def test_there_are_never_more_targets_than_words(tokenizer):
    ids, mask = torch.tensor([[2, 1, 7, 3]]), torch.ones(1, 4).long()
    assert uniform(tokenizer, 0.9)(ids, mask, generator())["rows"].tolist() == [2]


def test_rows_are_distinct_in_reading_order_and_labels_are_what_stood_there(tokenizer):
    ids, mask = sentences([12, 20, 9])
    batch = uniform(tokenizer, 0.4)(ids, mask, generator())
    assert batch["rows"].tolist() == sorted(set(batch["rows"].tolist()))
    assert torch.equal(batch["labels"], ids.flatten()[batch["rows"]])
    elsewhere = torch.ones(ids.numel(), dtype=torch.bool).scatter(0, batch["rows"], False)
    assert torch.equal(batch["input_ids"].flatten()[elsewhere], ids.flatten()[elsewhere])


def test_of_the_targets_80_percent_are_masked_10_kept_and_10_random(tokenizer):
    ids, mask = sentences([60] * 1000)
    batch = uniform(tokenizer, 0.5)(ids, mask, generator())
    shown = batch["input_ids"].flatten()[batch["rows"]]
    assert len(shown) >= 20_000
    masked, kept = shown == 4, shown == batch["labels"]
    shares = [masked.float().mean().item(), kept.float().mean().item(), (~masked & ~kept).float().mean().item()]
    assert shares == pytest.approx([0.8 + 0.1 / 97, 0.1 + 0.1 / 97, 0.1 * 95 / 97], abs=0.01)
    random = shown[~masked & ~kept]
    assert torch.bincount(random, minlength=97)[[0, 1, 2, 3, 96]].min() > 5  # the whole vocabulary, specials too


def test_two_draws_differ_and_the_same_seed_repeats(tokenizer):
    ids, mask = sentences([40, 40])
    first, again, other = (uniform(tokenizer)(ids, mask, generator(seed)) for seed in (1, 1, 2))
    for name in first:
        assert torch.equal(first[name], again[name])
    assert first["rows"].tolist() != other["rows"].tolist()


def test_share_zero_hides_nothing(tokenizer):
    ids, mask = sentences([12, 20])
    batch = uniform(tokenizer, 0.0)(ids, mask, generator())
    assert torch.equal(batch["input_ids"], ids)
    assert len(batch["rows"]) == len(batch["labels"]) == 0


@pytest.mark.parametrize("share", [-0.1, 1.0, 15])
def test_what_is_no_share_is_refused(share, tokenizer):
    with pytest.raises(ValueError, match=r"data\.mask_share: .* is not a share of tokens; give 0 \(nothing hidden\)"):
        uniform(tokenizer, share)


def test_a_tokenizer_without_a_mask_token_is_refused():
    tokenizer = BertTokenizerFast(vocab={"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3})
    tokenizer.mask_token = None
    with pytest.raises(ValueError, match=r"tokenizer: it has no mask token"):
        Masking(tokenizer, torch.ones(4).long(), share=0.15, smoothing=0.7)
