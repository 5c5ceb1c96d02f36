"""English prose in source files: what a file documents, cut into paragraphs, and those that read like sentences."""

import ast
import inspect
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

WHOLE = {"topics.py", "_torch_docs.py", "_tensor_docs.py", "_add_newdocs.py"}  # files of texts, not of code
SHORTEST, LONGEST = 8, 1200  # words, characters of a paragraph

ITEM = re.compile(  # how an item of a list begins: `- `, `1. `, `:param x: `, `name (type): `, `name : `
    r"^(([-*+•]|\(?(\d{1,2}|[a-z])[.)]|:\w[^:`]*:|[*`\w.]+( ?\([^:]*\))? ?:)(\s+|$))+"
)
RULE = re.compile(r"([-=~^#\"*+_]\s?){3,}$")
MARKUP = (
    (re.compile(r"\[\[?([^\]\[]+)\]?\]\([^)\s]*\)"), r"\1"),  # [text](address)
    (re.compile(r"\[(`[^`\]]+`)\]"), r"\1"),  # [`x`]
    (re.compile(r"(?<!\w):[\w:+.-]+:(?=`)"), ""),  # :role:`x`
    (re.compile(r"`([^`<]+?)\s*<[^`>]*>`_{0,2}"), r"\1"),  # `text <address>`_
    (re.compile(r"`+[~!]?(?:\.(?=[A-Z]))?([^`]+?)`+_{0,2}(?!\w)"), r"\1"),  # ``x``, `x`, `~.X`, `x`_
    (re.compile(r"\s?\[[\w#*]+\]_"), ""),  # footnote [1]_
    (re.compile(r"(?<![\w*])\*{1,2}([^\s*](?:[^*]*[^\s*])?)\*{1,2}(?![\w*])"), r"\1"),  # *x*, **x**
)
REFUSED = re.compile(  # code, mathematics, addresses, literature, licences
    r"[{}|\\<>\[\]^$`*~@#]|==|::|://|---|\.\.\s|\.\.\.\s\w|\d--?\d"
    r"|\b(TODO|FIXME|XXX|Copyright|[Ll]icensed?|et al|pp|vol)\b"
)
COMMON = re.compile(
    r"\b(a|an|and|are|as|at|be|been|but|by|can|does|for|from|has|have|if|in|into|is|it|its|may|must|no|not|of|on|or"
    r"|should|so|than|that|the|their|them|then|there|these|they|this|to|use|used|was|we|when|where|which|will|with|you)\b"
)


def docstrings(node: ast.AST) -> Iterator[str]:
    """The docstrings of a module, of its classes and of its functions, in the order of the file."""
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        yield ast.get_docstring(node) or ""
    for block in ("body", "handlers", "orelse", "finalbody"):
        for child in getattr(node, block, ()):
            yield from docstrings(child)


def texts(file: Path) -> list[str]:
    """What a source file documents; nothing if it cannot be parsed."""
    try:
        with warnings.catch_warnings(action="ignore"):
            tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):  # templates, null bytes
        return []
    if file.name not in WHOLE:
        return list(docstrings(tree))
    strings = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant))
    return [inspect.cleandoc(s) for s in strings if isinstance(s, str) and "\n\n" in s]


def pieces(text: str) -> Iterator[str]:
    """A docstring cut at blank lines, at rules, where the indentation changes and before the items of a list."""
    piece: list[str] = []
    indent = 0
    for line in text.expandtabs().splitlines():
        bare, start = line.strip(), len(line) - len(line.lstrip())
        apart = not bare or RULE.match(bare)
        moved = start != indent and not bare[:1].islower()  # lower case: a hanging line of the same sentence
        if piece and (apart or moved or ITEM.match(bare)):
            yield " ".join(piece)
            piece = []
        if not apart:
            piece.append(bare)
            indent = start
    if piece:
        yield " ".join(piece)


def prose(piece: str) -> str:
    """The piece as plain text on one line, or "" if it does not read like English sentences."""
    if len(piece.split()) < SHORTEST:
        return ""
    text = ITEM.sub("", piece)
    for pattern, plain in MARKUP:
        text = pattern.sub(plain, text)
    text = " ".join(text.split())
    keep = (
        text.count(" ") + 1 >= SHORTEST
        and len(text) <= LONGEST
        and re.match(r"[A-Z]", text)
        and re.search(r"[.!?][\"')]*$", text)
        and not REFUSED.search(text)
        and sum(c.isalpha() or c == " " for c in text) >= 0.9 * len(text)
        and len(set(COMMON.findall(text.lower()))) >= 2
        and text.isprintable()
    )
    return text if keep else ""


def key(text: str) -> str:
    """What near-duplicates share: the plain words in lower case, without names, numbers and identifiers."""
    first, _, rest = text.partition(" ")
    return " ".join([first.casefold(), *re.findall(r"(?<![\w.])[a-z]+(?![\w(]|\.\w)", rest)])
