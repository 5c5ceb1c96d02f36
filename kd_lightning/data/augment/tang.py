"""Transfer data by rule: variants of the training texts, for the teacher to label (Tang et al. 2019, section 3.2)."""

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
from datasets import Dataset
from tokenizers.pre_tokenizers import BertPreTokenizer
from tqdm import tqdm

MASK = "[MASK]"
LONGEST = 5  # words of an n-gram

Tagger = Callable[[Sequence[str]], list[tuple[str, str]]]


class Tang:
    """Rows -> rows: first those given, then their variants, unlabelled.

    In a variant each word draws X uniform in 0..1: below mask it becomes [MASK]; from there below mask + pos another word of
    the same part of speech, drawn as often as the texts use it; else it stays. With probability ngram only 1 to 5 words in a
    row are kept of the result, any place alike likely. A variant is dropped where no word stayed itself, or where it is there
    already. Of a pair one text varies in two thirds of the draws, either alike likely, and both in the others.

    variants: draws a row. tagger: words -> (word, part of speech), e.g. nltk.pos_tag; null: all words are of one part.
    seed: a row's variants follow from it and the row's number.

    Deviation: d-bert, the paper's code, never keeps the last n-gram of a text, gives up a text whose n-gram would be as long as
    itself, and in its last revision turns every fifth word into [UNK]; none of it is repeated here.
    """

    def __init__(self, *, mask: float, pos: float, ngram: float, variants: int, tagger: Tagger | None, seed: int) -> None:
        if not (mask >= 0 and pos >= 0 and mask + pos <= 1 and 0 <= ngram <= 1):
            raise ValueError(
                f"augment: mask={mask}, pos={pos}, ngram={ngram} are probabilities, mask and pos together at most 1."
            )
        if variants < 1:
            raise ValueError(f"augment.variants={variants}: a number from 1 up is wanted; without augmentation: augment=none.")
        self.mask, self.pos, self.ngram, self.variants, self.tagger, self.seed = mask, pos, ngram, variants, tagger, seed
        self.split = BertPreTokenizer()

    def __call__(self, rows: Dataset) -> Dataset:
        columns = [name for name in rows.column_names if name != "label"]
        texts = list(zip(*(rows[name] for name in columns), strict=True))
        tagged = {text: self._tagged(text) for row in texts for text in row}
        used: dict[str, list[str]] = {}  # part of speech -> its words, as often as they are used
        for row in texts:
            for text in row:
                for word, part in tagged[text]:
                    used.setdefault(part, []).append(word)
        plain = {text: " ".join(word for word, _ in words) for text, words in tagged.items()}
        seen = {tuple(plain[text] for text in row) for row in texts}
        made: list[tuple[str, ...]] = []
        for number, row in enumerate(tqdm(texts, desc="Transfer data")):
            random = np.random.default_rng([self.seed, number])
            for _ in range(self.variants):
                chosen = ((0,), (1,), (0, 1))[random.integers(3)] if len(row) == 2 else (0,)
                variant = [plain[text] for text in row]
                for place in chosen:
                    variant[place] = self._variant(tagged[row[place]], used, random)
                if all(variant) and tuple(variant) not in seen:
                    seen.add(tuple(variant))
                    made.append(tuple(variant))
        table = rows.with_format("arrow")[:]
        label = table.schema.field("label").type
        new = {name: [variant[place] for variant in made] for place, name in enumerate(columns)}
        new["label"] = [float("nan") if pa.types.is_floating(label) else -100] * len(made)
        return Dataset(pa.concat_tables([table, pa.table(new).select(table.column_names).cast(table.schema)]))

    def _tagged(self, text: str) -> list[tuple[str, str]]:
        words = [word for word, _ in self.split.pre_tokenize_str(text)]
        if self.tagger is None:
            return [(word, "") for word in words]
        try:
            return self.tagger(words)
        except LookupError as error:
            raise ValueError(
                "augment.tagger: its data is not installed (for nltk.pos_tag: python -m nltk.downloader "
                "averaged_perceptron_tagger_eng). Install it, or set augment.tagger=null."
            ) from error

    def _variant(self, tagged: list[tuple[str, str]], used: dict[str, list[str]], random: np.random.Generator) -> str:
        """Empty where it is to be dropped."""
        draws = random.random(len(tagged))
        if not (draws >= self.mask + self.pos).any():
            return ""
        words = []
        for (word, part), draw in zip(tagged, draws, strict=True):
            if draw < self.mask:
                word = MASK
            elif draw < self.mask + self.pos:
                word = used[part][random.integers(len(used[part]))]
            words.append(word)
        if random.random() < self.ngram:
            size = min(int(random.integers(1, LONGEST + 1)), len(words))
            start = int(random.integers(len(words) - size + 1))
            words = words[start : start + size]
        return " ".join(words)
