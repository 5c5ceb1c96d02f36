"""Which tokens a student reads: functions of the teacher that give a tokenizer."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from itertools import chain, islice, pairwise
from typing import Protocol

from datasets import Dataset
from tokenizers import Regex, Tokenizer
from tokenizers.decoders import WordPiece as WordPieceDecoder
from tokenizers.models import Model, WordLevel, WordPiece
from tokenizers.normalizers import NFC, BertNormalizer, Normalizer, Replace, Sequence
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from kd_lightning.encoder import Encoder
from kd_lightning.trim import tokenizer_of

SPECIAL = ("[PAD]", "[UNK]", "[MASK]")
INPUTS = ("input_ids", "token_type_ids", "attention_mask")
# controls and marks of the layout; what joins letters (in Persian and Hindi) and what joins emoji stays
UNSEEN = Regex(r"[\p{Cc}\p{Cf}\x{FFFD}&&[^\t\n\r\x{200C}\x{200D}\x{E0020}-\x{E007F}]]")
SPLIT = BertPreTokenizer()
BLOCK = 1000  # texts that are tokenised at once

Spans = list[tuple[int, int, str]]  # begin, end and part of speech of each morpheme in a text


class Reader(Protocol):
    def splits(self, unlabelled: bool) -> dict[str, Dataset]: ...


def normalizer(*, lowercase: bool, strip_accents: bool) -> Normalizer:
    """Text as a vocabulary that is made anew has it: composed (NFC), so that a syllable of Hangul is one character as it is in
    vector files, and with a blank on either side of a Chinese character, as in BERT.

    Deviation: BERT's own strips accents wherever it lower-cases, takes Hangul apart for it and drops what joins emoji.
    """
    steps = BertNormalizer(clean_text=False, handle_chinese_chars=True, strip_accents=strip_accents, lowercase=lowercase)
    return Sequence([NFC(), Replace(UNSEEN, ""), steps, NFC()])


def pieces(teacher: Encoder) -> PreTrainedTokenizerBase:
    """The teacher's own tokenizer, `segmented`."""
    return segmented(teacher.tokenizer)


def used(
    teacher: Encoder, *, reader: Reader | None, corpus: Callable[[], Iterable[str]] | None, characters: bool
) -> PreTrainedTokenizerBase:
    """The teacher's tokenizer with the pieces alone that a task's training and unlabelled texts (reader) and a corpus have, and
    what the other texts need (`trim.py`). None for reader or corpus: without it. characters: see `trim.tokenizer_of`.
    """
    if reader is None and corpus is None:
        raise ValueError(
            "student/vocabulary=used: student.vocabulary.reader and student.vocabulary.corpus are both null, so there are no "
            "texts whose pieces could be kept. Set one of them at most to null."
        )
    texts = chain([] if reader is None else _texts(reader), [] if corpus is None else corpus())
    seen: set[int] = set()
    while block := list(islice(texts, BLOCK)):
        for ids in teacher.tokenizer(block, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]:
            seen.update(ids)
    own = tokenizer_of(teacher.tokenizer, seen, characters=characters)
    _say(
        f"The student keeps {len(own):,} of its teacher's {len(teacher.tokenizer):,} pieces: {len(seen):,} occur in the texts, "
        f"and {len(own) - len(seen):,} serve all others."
    )
    return own


def segmented(own: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """The tokenizer itself. Where it does not tell the second text of a pair from the first, as a RoBERTa's does not, one that
    gives the same tokens and does: a student without attention reads the two texts one by one."""
    pair = own("a", "a", return_token_type_ids=True)
    if 1 in pair["token_type_ids"] and "token_type_ids" in own.model_input_names:
        return own
    parts: list[str] = []
    special: dict[str, int] = {}
    for number, text in zip(pair["input_ids"], pair.sequence_ids(), strict=True):
        name = own.convert_ids_to_tokens(number) if text is None else ("$A", "$B")[text]
        special |= {name: number} if text is None else {}
        if text is None or name not in parts[-1:]:
            parts.append(name)
    first = parts.index("$B")
    single = parts[: parts.index("$A") + 1] + [own.sep_token] * (own.sep_token in parts[parts.index("$A") :])
    backend = Tokenizer.from_str(own.backend_tokenizer.to_str())
    backend.post_processor = TemplateProcessing(
        single=" ".join(single),
        pair=" ".join([*parts[:first], *(f"{part}:1" for part in parts[first:])]),
        special_tokens=list(special.items()),
    )
    named = {name: token for name, token in own.special_tokens_map.items() if isinstance(token, str)}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, model_input_names=list(INPUTS), model_max_length=own.model_max_length, **named
    )


def words(
    teacher: Encoder, *, reader: Reader, size: int, lowercase: bool = True, strip_accents: bool = False
) -> PreTrainedTokenizerFast:
    """Words and punctuation, as BERT splits them before its pieces: the most frequent of the task's training and unlabelled
    texts, size in all, special tokens included; equally frequent ones come in alphabetical order.

    Deviation: nlp-architect counts the development and test texts as well.
    """
    normal = normalizer(lowercase=lowercase, strip_accents=strip_accents)
    return _of_words(_counted(_texts(reader), normal), size, normal)


def words_or_pieces(
    teacher: Encoder, *, reader: Reader, size: int, unknown: float, lowercase: bool = True, strip_accents: bool = False
) -> PreTrainedTokenizerBase:
    """`words`, or `pieces` where words would leave more than this share of a new text's words unknown, which is said.

    The share is estimated as Good (1953) does: a word that the texts have once stands for those that they do not have yet. It
    grows with each ending that a language glues to its words: below 5 % for the English tasks of GLUE, above 30 % for Korean
    comments.
    """
    normal = normalizer(lowercase=lowercase, strip_accents=strip_accents)
    found = _counted(_texts(reader), normal)
    kept = _most_frequent(found, size)
    share = 1 - sum(found[word] for word in kept if found[word] > 1) / max(found.total(), 1)
    if share <= unknown:
        return _of_words(found, size, normal)
    _say(
        f"Of a new text's words about {share:.0%} would be unknown to a student of {size:,} words, more than {unknown:.0%}: it "
        "reads the teacher's pieces. (student/vocabulary=words: words all the same.)"
    )
    return pieces(teacher)


def morphemes(
    teacher: Encoder,
    *,
    reader: Reader,
    analyser: Callable[[str], Spans],
    size: int,
    lowercase: bool = True,
    strip_accents: bool = False,
) -> PreTrainedTokenizerFast:
    """The most frequent morphemes of the task's training and unlabelled texts, and their single characters, size in all: as
    WordPieces, so that what is exported reads texts without the analyser.

    analyser: where the morphemes of a text begin and end (`data/kiwi.py`). One that does not begin a word is a piece with ##.
    The longest piece that fits comes first, which is not always how the analyser cuts.
    """
    _check(size)
    normal = normalizer(lowercase=lowercase, strip_accents=strip_accents)
    found: Counter[str] = Counter()
    for text in _texts(reader):
        plain = normal.normalize_str(text)
        begins = {begin for begin, _, _ in analyser(plain)}
        for word, (start, end) in SPLIT.pre_tokenize_str(plain):
            cuts = sorted({start, end, *(begin for begin in begins if start < begin < end)})
            cut = [word[a - start : b - start] for a, b in pairwise(cuts)]
            for parts in (cut, word) if len(word) > 1 else (cut,):
                found.update(part if number == 0 else f"##{part}" for number, part in enumerate(parts))
    table = {piece: number for number, piece in enumerate([*SPECIAL, *_most_frequent(found, size)])}
    return _made(WordPiece(table, unk_token="[UNK]"), normal)


def _texts(reader: Reader) -> Iterator[str]:
    for name, examples in reader.splits(unlabelled=True).items():
        if name in ("train", "unlabelled"):
            for column in (column for column in examples.column_names if column != "label"):
                yield from examples[column]


def _counted(texts: Iterator[str], normal: Normalizer) -> Counter[str]:
    return Counter(word for text in texts for word, _ in SPLIT.pre_tokenize_str(normal.normalize_str(text)))


def _check(size: int) -> None:
    if size <= len(SPECIAL):
        raise ValueError(f"vocabulary size {size}: {len(SPECIAL)} are special tokens, so more are wanted.")


def _most_frequent(found: Counter[str], size: int) -> list[str]:
    _check(size)
    return sorted(found.keys() - set(SPECIAL), key=lambda word: (-found[word], word))[: size - len(SPECIAL)]


def _of_words(found: Counter[str], size: int, normal: Normalizer) -> PreTrainedTokenizerFast:
    table = {word: number for number, word in enumerate([*SPECIAL, *_most_frequent(found, size)])}
    return _made(WordLevel(table, unk_token="[UNK]"), normal)


def _made(model: Model, normal: Normalizer) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(model)
    tokenizer.normalizer, tokenizer.pre_tokenizer = normal, SPLIT
    tokenizer.post_processor = TemplateProcessing(single="$A", pair="$A $B:1")
    if isinstance(model, WordPiece):
        tokenizer.decoder = WordPieceDecoder()
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "mask_token": "[MASK]"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_input_names=list(INPUTS), **names)


@cache
def _say(sentence: str) -> None:
    """Once, however many stages ask."""
    print(sentence, flush=True)
