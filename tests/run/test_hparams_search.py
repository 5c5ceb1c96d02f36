"""A search: what it draws, keeps, goes on with and refuses. Chains are stood for by arithmetic; SQLite is read by sqlite3."""

import re
import sqlite3
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

optuna = pytest.importorskip("optuna")

from types import SimpleNamespace  # noqa: E402

import torch  # noqa: E402

from kd_lightning.callback.prune import Prune  # noqa: E402
from kd_lightning.run.search import direction, search  # noqa: E402
from kd_lightning.run.sweep import Found, gather  # noqa: E402

CONF = Path(__file__).parents[2] / "conf"


@pytest.fixture
def begin(tmp_path, monkeypatch):
    """Search the weight of TinyBERT's prediction with a chain that finds 0.5 less its distance from 1."""

    monkeypatch.setattr("kd_lightning.run.search.pictures", lambda *_: iter(()))

    def make(*words: str, chain=None):
        given = ["hparams_search=tinybert", f"hparams_search.folder={tmp_path}/study", "hparams_search.trials=4", *words]
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = compose("train", given)
            cfg.hparams_search.space = {"method.prediction": {"low": 0.1, "high": 2.0}}
            return search(cfg, given, chain or answer)

    return make


def weight(overrides: list[str]) -> float:
    return float(next(word for word in overrides if word.startswith("method.prediction=")).partition("=")[2])


def answer(cfg, overrides, callbacks) -> Found:
    value = weight(overrides)
    assert cfg.method.prediction == value
    return Found("val/student/accuracy", [0.5 - abs(value - 1)], 1.0, 3 * value, 1.0, "a")


def states(folder: Path) -> list[str]:
    with sqlite3.connect(folder / "study" / "study.db") as database:
        return [row[0] for row in database.execute("select state from trials order by number")]


def test_a_search_that_was_killed_is_gone_on_with_and_the_killed_trial_made_again(begin, tmp_path):
    drawn = []

    def dies(cfg, overrides, callbacks):
        drawn.append(weight(overrides))
        if len(drawn) == 3:
            raise SystemExit(137)
        return answer(cfg, overrides, callbacks)

    with pytest.raises(SystemExit):
        begin(chain=dies)
    assert states(tmp_path) == ["COMPLETE", "COMPLETE", "RUNNING"]
    best = begin(chain=dies)
    assert states(tmp_path) == ["COMPLETE", "COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    assert drawn[2] == drawn[3]
    assert len(set(drawn)) == 4
    assert best == pytest.approx(max(0.5 - abs(value - 1) for value in drawn))
    begin(chain=dies)
    assert len(drawn) == 5  # nothing was missing
    assert [row["value"] for row in gather(tmp_path / "study")] == [
        f"{0.5 - abs(value - 1):.4f}" for value in (drawn[0], drawn[1], drawn[3], drawn[4])
    ]


def test_a_trial_that_fails_or_is_pruned_does_not_end_the_search(begin, tmp_path):
    turns = iter([ValueError("too large."), RuntimeError("out of memory"), optuna.TrialPruned(), None])

    def chain(cfg, overrides, callbacks):
        if (error := next(turns)) is not None:
            raise error
        return answer(cfg, overrides, callbacks)

    begin(chain=chain)
    assert states(tmp_path) == ["FAIL", "FAIL", "PRUNED", "COMPLETE"]
    rows = gather(tmp_path / "study")
    assert [row["value"] for row in rows[:3]] == ["failed", "failed", "pruned"]
    assert [row["error"] for row in rows] == ["too large.", "out of memory", "", ""]


def test_two_objectives_weigh_the_metric_against_the_milliseconds_and_prune_nothing(begin, tmp_path, capsys):
    added = []

    def chain(cfg, overrides, callbacks):
        added.append(callbacks)
        return answer(cfg, overrides, callbacks)

    begin("hparams_search.latency=true", chain=chain)
    assert added == [{}] * 4
    with sqlite3.connect(tmp_path / "study" / "study.db") as database:
        ways = database.execute("select direction, objective from study_directions order by objective").fetchall()
    assert ways == [("MAXIMIZE", 0), ("MINIMIZE", 1)]
    assert re.search(r"Best, trial \d: -?0\.\d{4}, \d\.\d{4} with method\.prediction", capsys.readouterr().out)


def test_what_does_not_fit_is_refused_before_a_trial(begin, tmp_path):
    with pytest.raises(ValueError, match=r"minimize: val/student/accuracy is maximized\. Write maximize"):
        begin("hparams_search.direction=minimize")
    begin("hparams_search.trials=1")
    with pytest.raises(ValueError, match="another search lies there"):
        begin("method.temperature=3")
    assert len(states(tmp_path)) == 1


def test_a_loss_is_minimised_and_a_score_maximised():
    assert [direction(name, None) for name in ("val/loss", "val/student/mlm_loss", "val/student/pearson")] == [
        "minimize",
        "minimize",
        "maximize",
    ]


def test_a_trial_behind_the_median_of_the_others_is_pruned_at_a_validation(tmp_path):
    place = f"sqlite:///{tmp_path}/study.db"
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(storage=place, study_name="s", direction="maximize")
    for value in (0.6, 0.7, 0.8, 0.9, 0.7):
        trial = study.ask()
        trial.report(value, 10)
        study.tell(trial, value)
    trainer = SimpleNamespace(sanity_checking=True, state=SimpleNamespace(fn="fit"), global_step=10)
    for value, behind in ((0.75, False), (0.65, True)):
        trainer.callback_metrics = {"val/a": torch.tensor(value)}
        trial = study.ask()
        prune = Prune(storage=place, study="s", trial=trial._trial_id, metric="val/a")
        trainer.sanity_checking = True
        prune.on_validation_end(trainer, None)
        assert study.trials[trial.number].intermediate_values == {}
        trainer.sanity_checking = False
        if behind:
            with pytest.raises(optuna.TrialPruned):
                prune.on_validation_end(trainer, None)
        else:
            prune.on_validation_end(trainer, None)
        assert study.trials[trial.number].intermediate_values == {10: pytest.approx(value)}
