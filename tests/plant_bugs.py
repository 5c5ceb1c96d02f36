"""Do the tests bite? `python tests/plant_bugs.py [--only NAME] [pytest options]` runs them on copies that have a bug each.

Prints a table, bug -> the first test that failed, and fails if a bug survived. --only may be given several times: the bugs
with NAME in their name. Give -x to stop at each bug's first failure, and files of tests to run these alone.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OF_THE_TEXTS = "tests/test_architecture.py::test_every_bug_that_is_planted_is_found_exactly_once"  # no planted text is there
SLOW = ("tests/test_conf.py", "tests/test_readme.py", "tests/data/test_docs.py")  # they look elsewhere
REAL = 'batch["attention_mask"].flatten().nonzero().squeeze(-1)'
Change = tuple[str, str, str]  # file, text, replacement
BUGS: dict[str, list[Change]] = {
    "padding counts as real positions": [("terms", REAL, REAL.replace('["attention_mask"]', '["input_ids"].ge(0)'))],
    "the GPU is asked where padding is": [("terms", 'batch["real"] if "real" in batch else ', "")],
    "the GPU is asked which rows have labels": [("terms", 'if "labelled" in batch:', "if False:")],
    "the GPU is asked whether a mask is full": [("attention", 'padding.device.type != "cpu"', "False")],
    "a mask is left out where there is padding": [("encoder", "not (full and", "not (")],
    "a stored teacher asks the GPU for the rows' numbers": [("data/labelled", ' | {"index": batch["index"]}', "")],
    "padded keys count in attention": [("terms", "key * real.to(key.dtype)", "key")],
    "attention where key or query is real": [("terms", "query * real.to(query.dtype) if self.valid_only else query", "query")],
    "masking draws words or real positions": [
        ("data/masking", "self.weights[flat] * attention_mask.flatten()", "self.weights[flat] + attention_mask.flatten()")
    ],
    "KL reversed": [
        (
            "losses",
            "s, t, rows = student.float() / temperature, teacher.float() / temperature",
            "s, t, rows = teacher.float() / temperature, student.float() / temperature",
        )
    ],
    "temperature squared dropped": [
        ("losses", "return temperature**2 * total", "return total"),
        ("losses", "temperature / rows).to", "1 / temperature / rows).to"),
    ],
    "temperature of the gradient squared": [("losses", "temperature / rows).to", "temperature**2 / rows).to")],
    "KL averaged over classes too": [("losses", "total / rows", "total / s.numel()")],
    "a chunk's gradient with the last chunk's rows": [("chunks", "out=grad_x[part]", "out=grad_x[-len(logits) :]")],
    "padding attended to in bfloat16": [
        (
            "attention",
            "torch.baddbmm(hidden, ",
            "torch.baddbmm(hidden * 0, ",
        )
    ],
    "what padding hides is hidden by a sliding window": [("attention", "is bidirectional_mask_function:", "is not None:")],
    "any difference is more than chance": [("run/advice", "found.low > 0 for", "True for")],
    "what stays is not scaled up for what is dropped": [("dropout", "(x * scale).mul_", "(x * 1.0).mul_")],
    "half is dropped whatever the probability": [("dropout", "first = dropped - LEVELS // 2", "first = 0")],
    "dropout's gradient through what is dropped": [("dropout", "ctx.scale).mul_(ctx.saved_tensors[0])", "ctx.scale)")],
    "the Gram form's gradient with the wrong matrix": [("losses", "query @ (of_key", "query @ (of_query")],
    "half the gradient of attention's scores": [("losses", "mul_(2 * scale)", "mul_(scale)")],
    "a chunk's gradient in place of the former ones'": [("chunks", "add_(grown) if start", "copy_(grown) if start")],
    "a query without a key sees all in bfloat16": [("attention", "output.masked_fill(~seeing, 0.0)", "output")],
    "a head that is not given the mask": [("encoder", "_Given(output))(**inputs)", "_Given(output))()")],
    "a norm after the last block in a lower layer": [("encoder", "if stop == layers else shown[0]", "")],
    "the positions of padding count": [("pairing", "0 if table.padding_idx is None else table.padding_idx + 1", "0")],
    "MobileBERT reads the padding behind a text": [("encoder", "nn.init.zeros_(encoder", "id(encoder")],
    "segments read by a model that has one": [("encoder", "or has_segments(model)", "or True")],
    "only Latin words may be replaced": [("data/augment/stop_words", "word[:1].isalpha()", "word[:1].isascii()")],
    "Hangul is taken apart": [("student/vocabulary", "steps, NFC()])", "BertNormalizer(strip_accents=True)])")],
    "a morpheme's tag goes to the next word": [("data/kiwi", 'for _ in f"{word} "', 'for _ in f" {word}"[1:]')],
    "an indented array loses what is behind a block": [("data/json_rows", "self.held[self.at :] + more", "more")],
    "a nested label by its whole name": [("data/rows", 'column.partition(".")', 'column.partition("/")')],
    "a key that stands twice in JSON": [("data/json_rows", "if len(row) < len(pairs):", "if False:")],
    "a head that reads the text's first token": [("tokenizer_check", "if first in ids:", "if False:")],
    "a trimmed vocabulary without the marks of unknown bytes": [("trim", "BYTE.fullmatch(piece) or ", "")],
    "a trimmed tokenizer with the old numbers around a text": [("trim", "    _renumber(state", "    (lambda *_: None)(state")],
    "the rarest characters are learnt too": [("student/fresh", '"limit_alphabet": enough', '"limit_alphabet": 10**6')],
    "padding on the tokenizer's own side": [("pairing", 'own.padding_side = "right"', "pass")],
    "clipped before it is unscaled": [("distiller", "plugin.scaler.unscale_(optimizer)", "pass")],
    "a loss that is not finite goes on": [("distiller", "        if found:\n", "        if found and False:\n")],
    "weights that are not finite are saved": [
        ("distiller", "        self._check_weights()\n        checkpoint", "        checkpoint")
    ],
    "class names that are alike before those that are equal": [
        ("encoder", "same.get(name, alike.get(_plain(name), -1))", "alike.get(_plain(name), -1)")
    ],
    "attention of the layer below": [("encoder", "captured[k - 1]", "captured[k - 2]")],
    "uniform map of the wrong stride": [("layer_maps", "m * teacher // student)", "(m - 1) * teacher // student + 1)")],
    "teacher awake": [("distiller", "self.teacher.eval()", "self.teacher.train(mode)")],
    "teacher trainable": [
        ("distiller", "teacher.requires_grad_(False).eval()", "teacher.eval()"),
        ("distiller", "decay_groups([self.student, self.objective],", "decay_groups([self],"),
    ],
    "teacher saved": [("distiller", 'if not k.startswith("teacher.")', "if k")],
    "what nobody reads is in the optimizer": [
        ("distiller", "parameter.requires_grad and parameter in read", "parameter.requires_grad")
    ],
    "a phase lets more learn than it reads": [("callback/progressive", " and parameter in self.read[self.phase]", "")],
    "what learns is found with dropout": [("reach", "    network.eval()\n", "")],
    "a process's batch counts whatever its rows": [
        ("objective", "processes() * counts / summed(counts).clamp(min=1)", "counts**0")
    ],
    "weights ignored": [("objective", "weights[name] * part", "part")],
    "a student is measured by what it showed before it learned": [
        ("distiller", "        self.changed()\n\n    def changed", "        pass\n\n    def changed")
    ],
    "whatever the batch, what was shown last": [("once", "before == content and ", "")],
    "metrics not reset": [("callback/metrics", "self.measured[who].reset()", "")],
    "agreement not reset": [("callback/metrics", "self.agreement.reset()", "")],
    "a word's second copy is hidden too": [
        ("data/augment/candidates", "[*hidden, *seen, last]", "[*hidden, *hidden[1:-1], last]")
    ],
    "the candidates of the next position": [("data/augment/candidates", "+ torch.tensor(masks)", "+ torch.tensor(masks) + 1")],
    "pieces that continue a word are candidates": [("data/augment/candidates", "if not name.startswith(PREFIX)", "if name")],
    "the first text of a pair stays at its last variant": [
        ("data/augment/masked_lm", "[original | {column", "[made[-1] | {column")
    ],
    "stop words change": [("data/augment/candidates", " and word.lower() not in self.stop_words", "")],
    "words are kept with the probability": [("data/augment/masked_lm", "< probability", "> probability")],
    "draws without the seed": [
        ("data/augment/masked_lm", "default_rng([self.seed, row, number])", "default_rng([row, number])")
    ],
    "the backward LSTM begins in the padding": [("student/bilstm", "lengths[:, None] - 1 - place, place)", "place, place)")],
    "a CNN's maximum over padding too": [("student/cnn", "maps.masked_fill(outside[:, None], 0)", "maps")],
    "a bag of words divided by its batch's length": [("student/bow", "x.sum(1) / lengths[:, None]", "x.mean(1)")],
    "the first text is read with the second": [("student/low_resource_model", "real - second", "real")],
    "the frozen vectors learn": [("student/low_resource_model", "frozen.requires_grad_(False)", "frozen.requires_grad_(True)")],
    "words are hidden outside training too": [
        ("student/low_resource_model", "if self.training and self.config", "if self.config")
    ],
    "padding is hidden as a word": [("student/low_resource_model", " & real.bool()", "")],
    "another tokenizer's rows are the first one's": [("data/labelled", "other._fitting(tokenizer)", "self.tokenizer")],
    "the majority is of the classes": [("run/results", "labels.mode().values.expand_as", "labels.median().sub(1).expand_as")],
    "operations counted without attention": [("run/artifact", "sdpa_kernel(SDPBackend.MATH)", "sdpa_kernel(list(SDPBackend))")],
    "the vocabulary knows the validation texts": [("student/vocabulary", 'if name in ("train", "unlabelled"):', "if name:")],
    "a stored teacher teaches at padding": [("teacher/stored", "replace(teacher.spec, stored=True)", "teacher.spec")],
    "hidden states at padding come from a stored teacher": [("terms", "if self.rows is all_positions:", "if not self.rows:")],
    "attention at padding comes from a stored teacher": [
        ("terms", "if not self.valid_only:\n            refuse", "if self.valid_only is None:\n            refuse")
    ],
    "layers of other tokens are compared": [
        ("objective", "stored and reads_layers and student.vocabulary_id", "False and student.vocabulary_id")
    ],
    "the cost of an operation by its work alone": [
        ("student/adabert/search", "(sizes.softmax(0) + works.softmax(0)) / 2", "works.softmax(0)")
    ],
    "stored answers of the next row": [("teacher/stored", 'kept("logits", index)', 'kept("logits", index - 1)')],
    "the last n-gram of a text is never drawn": [("data/augment/tang", "len(words) - size + 1)", "max(1, len(words) - size))")],
    "the others keep their labels": [
        ("data/labelled", "return kept, Dataset(table.set_column", "return kept, Dataset(table) or (table.set_column")
    ],
    "one answer for all correlates": [
        ("callback/metrics", "covariance / both.sqrt() if both else both", "covariance / both.sqrt()")
    ],
    "padding is attended to in attention transfer": [("terms", ".masked_fill(hidden, -1e4)", "")],
    "padded queries count in attention transfer": [
        (
            "terms",
            "rows = self.rows(batch)\n        hidden",
            "rows = all_positions(batch)\n        hidden",
        )
    ],
    "variance for standard deviation": [("losses", "x.float().var(-1, correction=0)", "x.float().std(-1, correction=0)")],
    "a phase compares all up to its own": [("callback/progressive", "[self.pairs[phase]])", "self.pairs[: phase + 1])")],
    "blocks above the phase compute": [
        ("callback/progressive", "module.student_needs, module.teacher_needs = module.objective.bind", "module.objective.bind")
    ],
    "blocks above the phase learn": [("callback/progressive", "0.0 if block > top else", "1.0 if block > top else")],
    "blocks below learn at the full rate": [("callback/progressive", "else self.below", "else 1.0")],
    "phases begin anew after an interruption": [
        ("callback/progressive", "bisect_right(self.starts, trainer.global_step)", "bisect_right(self.starts, batch_idx % 3)")
    ],
    "embeddings learn in the layer stage": [
        ("method/mobilebert", "blocks = enumerate(self.student.blocks, start=1)", "blocks = [(1, self.student)]"),
        ("method/mobilebert", "student.requires_grad_(False)", ""),
    ],
    "the layers of a loss are not averaged": [("method/mobilebert", "transfer(1 / student.spec.layers)", "transfer(1.0)")],
    "MobileBERT's head without its own matrix": [
        ("encoder", "head.dense.weight.mT], dim=1)", "torch.zeros_like(head.dense.weight.mT)], dim=1)")
    ],
    "IB-BERT's keys read the narrow width": [
        ("student/ib_bert", "attention.key = nn.Linear(config.hidden_size, attention.all_head_size)", "")
    ],
    "valid_only divided by (sum of n)²": [("terms", "mask.sum(1).square().sum()", "mask.sum().square()")],
    "operations not drawn have no share": [
        (
            "student/adabert/search",
            "return torch.stack([*found, torch.zeros_like(found[0])])",
            "return torch.stack([*found, found[0]]) * 0",
        )
    ],
    "the gates of an exported LSTM in torch's order": [("export_onnx", "GATES = (0, 3, 1, 2)", "GATES = (0, 1, 2, 3)")],
    "one input of an export for all": [
        (
            "export_onnx",
            "(torch.ones(2, 7, dtype=torch.long) for _ in inputs)",
            "(one for one in [torch.ones(2, 7, dtype=torch.long)] * len(inputs))",
        )
    ],
    "padding counts where AdaBERT is exported": [
        ("student/adabert/cell", "masked_fill(~self.real[..., None], fill)", "clone()")
    ],
    "an exported text is cut later": [("export", "enable_truncation(max_length,", "enable_truncation(2 * max_length,")],
    "no export is refused": [("export", "if share > tolerance:", "if share > 1:")],
    "a score that moved is the same answer": [("export_check", "> MOVED * theirs.std", "> theirs.std")],
    "a cold model is timed": [("run/timing", "for _ in range(WARM_UP):", "for _ in range(0):")],
    "names of labels make an architecture": [("run/artifact", ', "label2id": None', "")],
    "a card names a path": [("run/card", "command = without_paths(record.command)", "command = record.command")],
    "run.yaml goes to the hub": [("card", 'STAYS = ("run.yaml", ', "STAYS = (")],
    "answers are averaged without their weights": [
        ("teacher/answers", "np.average(_softmax(read), axis=0, weights=self.weights)", "_softmax(read).mean(0)")
    ],
    "averaged as logits": [("teacher/answers", "np.average(_softmax(read)", "np.average(_softmax(np.exp(read))")],
    "the answer of the line before": [("teacher/answers", "answers[lines[text]].mean(0)", "answers[lines[text][0] - 1]")],
    "answers beside stage teacher": [("run/answered", 'if who != "teacher"]', "if who]")],
    "the worst of a sweep goes to the hub": [("card", "max(scores)[1]", "min(scores)[1]")],
    "code beside a model is vouched for": [("manifest", " and file.suffix != CODE", "")],
    "a model's code names the package": [("run/portable", "from .\\1 import", "from kd_lightning.student.\\1 import")],
    "LAMB's ratio for vectors too": [("optim/lamb", "if x.ndim > 1:", "if x.ndim > 0:")],
    "LAMB's decay outside of the ratio": [
        ("optim/lamb", "ours, theirs = x.norm(), update.norm()", "ours, theirs = x.norm(), mean.norm()")
    ],
    "zero derived": [("student/adabert/architecture", ".softmax(-1)[:, :-1].max(-1)", ".softmax(-1).max(-1)")],
    "layer table by floor": [("method/adabert", "-(-layers * i // depth)", "layers * i // depth")],
    "a probe weighed by its loss": [("method/adabert", "[-F.cross_entropy(logits[rows]", "[F.cross_entropy(logits[rows]")],
    "padding in an average pool": [("student/adabert/cell", "third * (3 / places.neighbours).to(x.dtype)", "third")],
    "a derived network without statistics": [("student/adabert/search", "norm.momentum = None", "norm.momentum = 0.0")],
    "probes learn from all rows": [
        ("teacher/probes", "order = np.random.default_rng(epoch).permutation(numbers)", "order = np.arange(len(labels))")
    ],
}


def plant(package: Path, changes: list[Change]) -> None:
    """Make these changes to the files of the package."""
    for name, text, replacement in changes:
        file = package / f"{name}.py"
        file.write_text(file.read_text(encoding="utf-8").replace(text, replacement), encoding="utf-8")


def misplaced() -> list[str]:
    """A sentence for each text to be replaced that its file does not hold exactly once."""
    found = []
    for bug, changes in BUGS.items():
        for name, text, _ in changes:
            count = (ROOT / "kd_lightning" / f"{name}.py").read_text(encoding="utf-8").count(text)
            if count != 1:
                found.append(f"{bug}: {name}.py holds {count} times, not once: {text}")
    return found


def failures(changes: list[Change], options: list[str]) -> list[str]:
    """The tests that fail in a copy of the repository with these changes."""
    chosen = any((ROOT / option.partition("::")[0]).exists() for option in options)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "copy")
        for name in ("kd_lightning", "tests", "conf", "benchmarks"):
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("pyproject.toml", "train.py", "README.md", "LICENSE"):
            shutil.copy(ROOT / name, copy)
        plant(copy / "kd_lightning", changes)
        ignored = [*(f"--ignore={copy / name}" for name in SLOW), f"--deselect={OF_THE_TEXTS}"]
        command = [sys.executable, "-m", "pytest", "-q", "--tb=no", "-p", "no:cacheprovider", *ignored, *options]
        command += [] if chosen else ["tests"]
        environment = os.environ | {"PYTHONPATH": str(copy)}
        done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)
        if done.returncode not in (0, 1):
            sys.exit(f"pytest did not run:\n{done.stdout}\n{done.stderr}")
    red = [line for line in done.stdout.splitlines() if line.startswith(("FAILED ", "ERROR "))]
    return [line.split(" ", 1)[1].split(" - ")[0] for line in red]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--only", metavar="NAME", action="append", help="plant the bugs with NAME in their name")
    given, options = parser.parse_known_args()
    wanted = [name for name in BUGS if given.only is None or any(part in name for part in given.only)]
    if not wanted:
        sys.exit(f"--only: no bug has {' or '.join(given.only)} in its name. BUGS in tests/plant_bugs.py lists the names.")
    if wrong := misplaced():
        sys.exit("\n".join(wrong))
    if red := failures([], options):
        sys.exit("the tests fail without any bug: " + ", ".join(red))
    survivors = []
    for name in wanted:
        red = failures(BUGS[name], options)
        print(f"{name:40} {len(red):4}  {red[0] if red else 'SURVIVED'}", flush=True)
        if not red:
            survivors.append(name)
    sys.exit(f"survived: {', '.join(survivors)}" if survivors else None)


if __name__ == "__main__":
    main()
