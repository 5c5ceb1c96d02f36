"""What is wrong with a result, in one sentence each with what to try next.

Everything is read from files: metrics.json, run.yaml and predictions.parquet of an artifact, and the metrics.csv of its run.
They may be a stranger's. Nothing in them is used as a path, and what is quoted of them is made printable.
"""

import shlex
from collections.abc import Iterator
from pathlib import Path

from kd_lightning.run import reading
from kd_lightning.run.record import label_budget
from kd_lightning.run.results import Result, differences, teacher_of, teacher_scores
from kd_lightning.run.shown import printable

RISE = 0.005  # by how much the last validation must beat all earlier ones to say that the curve still rises
WORST = 8  # classes whose recall is shown


def advice(results: list[Result]) -> list[str]:
    """The findings about models of one or several tasks, students and teachers; a sentence each, printable."""
    found: list[str] = []
    results = [result for result in results if result.measures_a_task]
    for result in results:
        if result.record.stage != "teacher":
            for finding in (no_better_than_baseline, untaught, other_labels):
                found += finding(result, results)
        for finding in (no_better_than_majority, never_predicted, still_rising):
            found += finding(result)
    found += outdone(results)
    found += undecided(results)
    return [printable(line) for line in dict.fromkeys(found)]


def recalls(results: list[Result]) -> list[str]:
    """A line for each model of a task with uneven classes: the recall of its worst classes, the worst first."""
    lines = []
    for result in results:
        if not (result.measures_a_task and result.uneven):
            continue
        recall = result.recall
        known = [number for number in recall.argsort().tolist() if not recall[number].isnan()]
        shown = ", ".join(f"{result.label(n)} {recall[n]:.4f} of {result.counts[n]}" for n in known[:WORST])
        lines.append(printable(f"{_named(result)}, recall by class: {shown}"))
    return lines


def no_better_than_majority(result: Result) -> Iterator[str]:
    majority, score = result.majority, _mean(result.scores(result.record.metric))
    if majority is None or score is None or score > majority:
        return
    yield f"{_named(result)} is at {score:.4f}, no better than the most frequent class ({majority:.4f}): {_longer(result)}"


def no_better_than_baseline(result: Result, results: list[Result]) -> Iterator[str]:
    """The baseline: a network of the same shape, on the same task at the same scale, that had no teacher."""
    if _alone(result):
        return
    score = _mean(result.scores(result.record.metric))
    for other in results:
        base = other.record
        if not _alone(other) or _place(other) != _place(result):
            continue
        alone = _mean(other.scores(base.metric))
        if score is None or alone is None or score > alone or _shape(other) != _shape(result):
            continue
        yield (
            f"{_named(result)} is at {score:.4f}, no better than {other.name}, the same network without a teacher "
            f"({alone:.4f}): {_longer(result)}"
        )


def untaught(result: Result, results: list[Result]) -> Iterator[str]:
    """The teacher is no better than the most frequent class."""
    teacher, majority = _mean(teacher_scores(result, results, result.record.metric)), result.majority
    if teacher is None or majority is None or teacher > majority:
        return
    yield (
        f"The teacher of {_named(result)} is at {teacher:.4f}, no better than the most frequent class ({majority:.4f}), and "
        "has nothing to teach: name one that was fine-tuned on this task (teacher.path=<folder>), or "
        + _again("stages.teacher.trainer.max_epochs=10")
    )


def outdone(results: list[Result]) -> Iterator[str]:
    """A teacher that the best student without a teacher beats by more than chance, as the bootstrap says."""
    for teacher in results:
        if teacher.record.stage != "teacher":
            continue
        alone = [other for other in results if _alone(other) and _place(other) == _place(teacher)]
        alone = [other for other in alone if other.scores(other.record.metric)]
        best = max(alone, key=lambda other: _mean(other.scores(other.record.metric)), default=teacher)
        if any(found.low > 0 for _, _, found in differences([best, teacher])):
            ours, theirs = (_mean(result.scores(result.record.metric)) for result in (best, teacher))
            yield (
                f"{_named(teacher)} is at {theirs:.4f}, below {best.name}, which learned without a teacher ({ours:.4f}), so it "
                f"has little to teach: take a better pre-trained model (teacher.pretrained=<model>), or {_longer(teacher)}"
            )


def never_predicted(result: Result) -> Iterator[str]:
    counts = result.counts
    if not len(counts):
        return
    given = result.answers.flatten().bincount(minlength=len(counts))
    never = [number for number in range(len(counts)) if counts[number] and not given[number]]
    if never:
        shown = ", ".join(f"{result.label(n)} ({counts[n]} rows)" for n in never[:WORST])
        more = f" and {len(never) - WORST} more" if len(never) > WORST else ""
        yield f"{_named(result)} never predicts {shown}{more}: add training rows of these, or {_longer(result)}"


def still_rising(result: Result) -> Iterator[str]:
    """The last of at least three validations in training is the best by more than `RISE`."""
    curve = _validations(result.folders[0], result.record.metric)
    scores = [score for _, score in curve[:-1]]
    if len(scores) < 3 or scores[-1] - max(scores[:-1]) <= RISE:
        return
    yield (
        f"{_named(result)} still rises at the end of its training (from {max(scores[:-1]):.4f} to {scores[-1]:.4f} in the last "
        f"of {len(scores)} validations): {_longer(result)}"
    )


def undecided(results: list[Result]) -> Iterator[str]:
    """Of each task the best two students, where the bootstrap's interval of their difference holds zero."""
    tasks: dict[tuple, list[Result]] = {}
    for result in results:
        if result.record.stage != "teacher" and result.scores(result.record.metric):
            tasks.setdefault(_place(result), []).append(result)
    for students in tasks.values():
        best = sorted(students, key=lambda result: -_mean(result.scores(result.record.metric)))[:2]
        for ours, theirs, found in differences(best):
            if found.low <= 0 <= found.high:
                yield (
                    f"{ours.name} and {theirs.name} cannot be told apart on the {len(ours.predictions['label'])} validation "
                    f"rows of {ours.record.task.name} (95 % interval {found.low:+.4f} to {found.high:+.4f}): give "
                    f"more validation rows, or for more seeds {_again('seeds=5')}"
                )


def other_labels(result: Result, results: list[Result]) -> Iterator[str]:
    """A student of few labels whose teacher saw more of them."""
    teacher, kept = teacher_of(result, results), label_budget(result.folders[0])
    if teacher is None or kept is None:
        return
    seen = label_budget(teacher.folders[0])
    if seen is None or seen > kept:
        many = "all labels" if seen is None else f"{seen} labels"
        yield (
            f"{_named(result)} knows {kept} labels, and its teacher has seen {many}, so that it is no result of few labels: "
            f"leave out teacher.path, and {_again(f'task.label_budget={kept}')}"
        )


def _named(result: Result) -> str:
    return f"{result.name} on {result.record.task.name} ({result.record.task.monitor})"


def _alone(result: Result) -> bool:
    """Whether it is a student that learned without a teacher. A baseline may have been measured beside one."""
    return result.record.stage == "baseline" or (result.record.teacher is None and result.record.stage != "teacher")


def _place(result: Result) -> tuple[str, str, str]:
    return result.record.task.name, result.record.scale, result.record.metric


def _shape(result: Result) -> dict:
    """The model's settings but for its labels' names."""
    return {k: v for k, v in reading.settings(result.folders[0]).items() if k not in ("id2label", "label2id", "problem_type")}


def _mean(scores: list[float]) -> float | None:
    return sum(scores) / len(scores) if scores else None


def _longer(result: Result) -> str:
    """Train twice as long, in updates where it is known how many there were."""
    trainer, curve = f"stages.{result.record.stage}.trainer", _validations(result.folders[0], result.record.metric)
    if not curve:
        return f"train longer: {_again(f'{trainer}.max_epochs=20')}"
    return f"train twice as long: {_again(f'{trainer}.max_epochs=-1', f'{trainer}.max_steps={2 * int(curve[-1][0])}')}"


def _again(*settings: str) -> str:
    """What to say beside what was said of the data and the teacher. A stage's name comes from an artifact: it is quoted."""
    return f"run its command again with {' '.join(map(shlex.quote, settings))}."


def _validations(folder: Path, metric: str) -> reading.Curve:
    """(updates so far less one, score) of each validation in training, and at the end (updates, score) of the weights that are
    kept. Nothing is said of a search, whose length also sets how fast its temperature falls."""
    found = reading.curves(folder)
    return [] if any(name.startswith("search/") for name in found) else found.get(metric, [])
