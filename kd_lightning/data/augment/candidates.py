"""What could stand in a word's place: a masked LM's choices for words of one piece, the nearest words for the others."""

from collections.abc import Iterator, Sequence
from functools import cached_property

import pyarrow as pa
import torch
from tokenizers.models import WordPiece
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from kd_lightning.data.augment.stop_words import STOP_WORDS, of_letters
from kd_lightning.data.augment.vectors import Vectors, glove, input_embeddings
from kd_lightning.views import Needs

LONGEST = 512  # tokens that a masked LM is given where its tokenizer knows no limit
TOKENS = 4096  # in a batch, padding included
PREFIX = "##"  # of a piece that continues a word
SCHEMA = pa.schema({"sentence": pa.string(), "words": pa.list_(pa.string()), "candidates": pa.list_(pa.list_(pa.string()))})


class Candidates:
    """Jiao et al. 2020, section 3.3 and algorithm 1, by the release's procedure: at most count candidates for each word.

    Asked about are words of letters that are no stop words of the language (`stop_words.py`), each in its place. One in a
    single piece is masked in `[CLS] sentence with [MASK] [SEP] sentence [SEP]`, and of the count most probable pieces those
    that continue a word are dropped. One in several pieces gets its nearest words by vectors (a GloVe file). Where nothing is
    found, the word itself.

    network: a masked LM with a WordPiece tokenizer. precision: bf16-mixed, or anything else for float32.

    Deviation: the release asks about words of the letters a to z alone; here they may be of any script.
    Deviation: the stop words of English are its closed classes, another list than the release's, which is like NLTK's: words
    that only one of the two lists has vary in the other's rows alone.
    Deviation: a word that the vocabulary does not know stays as it is, unless the vectors are of a file.
    Deviation: vectors null: the network's own input embeddings. The paper uses GloVe.
    Deviation: special tokens are dropped too, and a sentence longer than half of what the network reads is cut to a window
    around the masked piece.
    """

    def __init__(self, network: nn.Module, *, count: int, vectors: str | None, precision: str, language: str) -> None:
        tokenizer = network.tokenizer
        model = getattr(getattr(tokenizer, "backend_tokenizer", None), "model", None)
        if not isinstance(model, WordPiece) or model.continuing_subword_prefix != PREFIX:
            raise ValueError(
                f"augment.masked_lm: its tokenizer ({type(tokenizer).__name__}) has no WordPiece vocabulary, in which {PREFIX} "
                "tells pieces from words. Name a BERT-like masked LM with augment.masked_lm.path=<folder or hub name>."
            )
        if not network.spec.trained_head:
            raise ValueError(
                "augment.masked_lm: this model has no masked LM head, so its candidates would be random words. Name one that "
                "has with augment.masked_lm.path=<folder or hub name>."
            )
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.network = network.eval().to(self.device, torch.bfloat16 if precision == "bf16-mixed" else torch.float32)
        self.tokenizer, self.count, self.file = tokenizer, count, vectors
        self.stop_words = STOP_WORDS.get(language, frozenset())
        self.window = (min(tokenizer.model_max_length, LONGEST) - 3) // 2
        special = set(tokenizer.all_special_ids)
        whole = {row: name for name, row in tokenizer.get_vocab().items() if not name.startswith(PREFIX)}
        self.whole = {row: name for row, name in whole.items() if row not in special}

    def __call__(self, sentences: Sequence[str]) -> pa.Table:
        """For each sentence its words and for each word its candidates, none for a word that stays as it is."""
        words = [self._words(sentence) for sentence in sentences]
        encoded = self.tokenizer(words, is_split_into_words=True, add_special_tokens=False, verbose=False)
        pieces: list[list[int]] = encoded["input_ids"]
        found: list[list[list[str]]] = [[[] for _ in row] for row in words]
        single, several = [], []
        for s, row in enumerate(words):
            for w, word in enumerate(row):
                if of_letters(word) and word.lower() not in self.stop_words:
                    start, end = encoded.word_to_tokens(s, w)
                    known = self.tokenizer.unk_token_id not in pieces[s][start:end]
                    if known or self.file is not None:
                        (single if known and end - start == 1 else several).append((s, w, start))
        single.sort(key=lambda place: len(pieces[place[0]]))
        masked = self._masked([(pieces[s], start) for s, _, start in single])
        for (s, w, _), names in zip(single, masked, strict=True):
            found[s][w] = names or [words[s][w]]
        near = self.vectors.nearest(sorted({words[s][w] for s, w, _ in several}), self.count) if several else {}
        for s, w, _ in several:
            found[s][w] = near.get(words[s][w]) or [words[s][w]]
        return pa.table([list(sentences), words, found], schema=SCHEMA)

    @cached_property
    def vectors(self) -> Vectors:
        if self.file is not None:
            return glove(self.file)
        weights = self.network.model.get_input_embeddings().weight
        return input_embeddings(weights.detach().float().cpu(), self.tokenizer)

    def _words(self, sentence: str) -> list[str]:
        """Basic tokenisation: lower case where the vocabulary is, punctuation by itself."""
        backend = self.tokenizer.backend_tokenizer
        normal = backend.normalizer.normalize_str(sentence) if backend.normalizer else sentence
        return [word for word, _ in backend.pre_tokenizer.pre_tokenize_str(normal)]

    @torch.inference_mode()
    def _masked(self, places: Sequence[tuple[list[int], int]]) -> Iterator[list[str]]:
        """The network's choices for each (sentence as pieces, position in it); like lengths should be neighbours."""
        start = 0
        while start < len(places):
            end, width = start, 0
            while end < len(places):
                width = max(width, 2 * min(len(places[end][0]), self.window) + 3)
                if end > start and width * (end + 1 - start) > TOKENS:
                    break
                end += 1
            batch, rows = self._batch(places[start:end])
            logits = self.network(batch, Needs(logits=True)).logits(rows)  # [N, V]
            for ids in logits.topk(min(self.count, logits.shape[1])).indices.tolist():
                yield [self.whole[i] for i in ids if i in self.whole]
            start = end

    def _batch(self, places: Sequence[tuple[list[int], int]]) -> tuple[dict[str, Tensor], Tensor]:
        """`[CLS] masked [SEP] sentence [SEP]` [B, S], segments 0 and 1, and the row of each mask in the flattened B * S."""
        first, last, mask = self.tokenizer.cls_token_id, self.tokenizer.sep_token_id, self.tokenizer.mask_token_id
        ids, segments, masks = [], [], []
        for pieces, place in places:
            start = max(0, min(place - self.window // 2, len(pieces) - self.window))
            seen = pieces[start : start + self.window]
            masks.append(place - start + 1)
            hidden = [first, *seen, last]
            hidden[masks[-1]] = mask
            ids.append(torch.tensor([*hidden, *seen, last]))
            segments.append(torch.tensor([0] * len(hidden) + [1] * (len(seen) + 1)))
        padded = pad_sequence(ids, batch_first=True, padding_value=self.tokenizer.pad_token_id)  # [B, S]
        lengths = torch.tensor([len(sequence) for sequence in ids])
        batch = {
            "input_ids": padded,
            "token_type_ids": pad_sequence(segments, batch_first=True),
            "attention_mask": (torch.arange(padded.shape[1]) < lengths[:, None]).long(),
        }
        rows = torch.arange(len(places)) * padded.shape[1] + torch.tensor(masks)
        return {name: tensor.to(self.device) for name, tensor in batch.items()}, rows.to(self.device)
