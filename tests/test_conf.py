"""Every configuration that can be named is composed, and every pair is built on tiny networks."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import MissingConfigException
from hydra.utils import instantiate
from omegaconf import OmegaConf

from kd_lightning.run.chain import identity, plan
from kd_lightning.run.stage import build
from kd_lightning.submission import FILES

CONF = Path(__file__).parent.parent / "conf"
PAIRS = sorted(tuple(path.stem.split("_")) for path in (CONF / "recipe").glob("*.yaml"))
SCALES = sorted(path.stem for path in (CONF / "scale").glob("*.yaml"))
TASKS = sorted(path.stem for path in (CONF / "task").glob("*.yaml"))
EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))
NAMED = ["corpus=[text.txt]", "teacher.pretrained=teacher"]  # what the scale laptop leaves to its user


@pytest.fixture(autouse=True)
def _hydra():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


def start(cfg, folder: str) -> None:
    """Teacher and student start from there; a student that is always made anew does not."""
    for who in (cfg.teacher, cfg.student):
        if "path" in who:
            who.path = folder


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize(("method", "stage"), PAIRS)
def test_every_pair_of_method_and_stage_composes_at_every_scale_without_a_missing_number(method, stage, scale):
    cfg = compose("train", [f"method={method}", f"stage={stage}", f"scale={scale}", *NAMED])
    start(cfg, "somewhere")
    OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    assert (cfg.method.name, cfg.stage.name, cfg.scale.name) == (method, stage, scale)


@pytest.mark.parametrize("task", TASKS)
def test_every_task_composes_and_its_monitor_is_one_of_its_metrics(task):
    cfg = compose("train", [f"task={task}"])
    assert cfg.task.name == task
    assert cfg.task.monitor in cfg.task.metrics
    cfg.task.labels = ["no", "yes"]
    assert cfg.data.reader.labels == cfg.networks.student.labels == ["no", "yes"]


def test_the_eleven_files_of_the_leaderboard_are_those_of_the_tasks():
    tasks = [compose("train", [f"task={task}"]).task for task in TASKS]
    named = [name for task in tasks for name in task.get("submission", {})]
    assert sorted(named) == sorted(FILES)
    assert all(split in task.files for task in tasks for split in task.get("submission", {}).values())


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("stage", ["intermediate", "prediction", "task"])
def test_tinyberts_task_stages_augment_when_asked_except_the_prediction_stage_of_stsb(stage, task):
    assert compose("train", [f"stage={stage}", f"task={task}"]).data.augment is None
    cfg = compose("train", [f"stage={stage}", f"task={task}", "augment=masked_lm"])
    if task == "stsb" and stage != "intermediate":
        assert cfg.data.augment is None
    else:
        augment = OmegaConf.to_container(cfg.data.augment, resolve=True, throw_on_missing=True)
        assert augment["variants"] == cfg.task.variants


@pytest.mark.parametrize("scale", SCALES)
def test_the_stages_that_learn_from_a_teacher_alone_read_unlabelled_rows(scale):
    found = {}
    for method, stage in PAIRS:
        data = compose("train", [f"method={method}", f"stage={stage}", f"scale={scale}", *NAMED]).data
        found[method, stage] = data.get("unlabelled", False)
    tinybert = {("tinybert", stage) for stage in ("intermediate", "prediction", "task")}
    assert {pair for pair, wanted in found.items() if wanted} == tinybert | {(m, "task") for m in ("bilstm", "cnn", "bow")}


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_composes(experiment):
    cfg = compose("train", [f"experiment={experiment}"])
    OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)


def test_a_pair_that_does_not_exist_is_refused_with_its_name():
    with pytest.raises(MissingConfigException, match=r"distilbert_intermediate(.|\n)*distilbert_general"):
        compose("train", ["method=distilbert", "stage=intermediate"])


def test_the_chain_of_a_task_stage_runs_its_prerequisites_first_and_the_baseline_last():
    overrides = ["experiment=demo", "artifacts=nowhere"]
    runs = plan(compose("train", overrides), overrides)
    assert [(run.method.name, run.stage.name) for run in runs] == [
        ("finetune", "teacher"),
        ("tinybert", "general"),
        ("tinybert", "intermediate"),
        ("tinybert", "task"),
        ("finetune", "general"),
        ("finetune", "task"),
    ]
    assert runs[3].student.path == runs[2].artifact
    assert runs[3].teacher.path == runs[0].artifact


STRATEGIES = {
    "progressive": ["pretraining", "progressive", "general"],
    "joint": ["pretraining", "joint", "general"],
    "auxiliary": ["pretraining", "general"],
    "none": ["pretraining", "general"],
}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_mobileberts_strategies_differ_in_their_stages_and_share_one_teacher(strategy):
    overrides = ["method=mobilebert", "stage=general", f"method.strategy={strategy}", "artifacts=nowhere"]
    runs = plan(compose("train", overrides), overrides)
    assert [run.stage.name for run in runs] == STRATEGIES[strategy]
    assert runs[0].artifact == "nowhere/demo/ib-bert"
    assert {run.teacher.path for run in runs[1:]} == {runs[0].artifact}
    assert runs[-1].student.path == (runs[-2].artifact if len(runs) == 3 else None)
    assert (runs[-1].distiller.auxiliary > 0) == (strategy == "auxiliary")
    assert sum(run.trainer.max_epochs for run in runs[1:]) == 2  # as much training for each
    assert [run.stage.name for run in runs if "progressive" in run.callback] == [strategy] * (strategy == "progressive")


def test_a_changed_loss_weight_moves_the_students_of_the_chain_and_leaves_the_teacher():
    def artifacts(*overrides):
        return [run.artifact for run in plan(compose("train", list(overrides)), list(overrides))]

    plain, changed = artifacts("method=tinybert", "stage=task"), artifacts("stage=task", "method.attention=0")
    assert plain[0] == changed[0]
    assert all(a != b for a, b in zip(plain[1:], changed[1:], strict=True))
    assert artifacts("stage=task", "method.attention=0.5") != changed


def test_augmentation_moves_what_is_trained_on_more_rows_and_what_starts_from_it_and_nothing_else():
    def runs(*overrides):
        given = ["experiment=demo", "task=stsb", *overrides]
        return plan(compose("train", given), given)

    variants = [[], *(["augment=masked_lm", *more] for more in ([], ["augment.variants=7"], ["task.variants=7"]))]
    chains = [runs(*variant) for variant in variants]
    moved = {("tinybert", "intermediate"), ("tinybert", "task")}
    for same in zip(*chains, strict=True):
        assert len({run.artifact for run in same}) == (4 if (same[0].method.name, same[0].stage.name) in moved else 1)
    assert [run.stage.name for run in chains[1] if run.data.get("augment")] == ["intermediate"]


def test_a_general_student_is_about_no_task_and_is_made_once_for_all():
    plain, other = _runs("stage=task"), _runs("stage=task", "task.max_length=64", "task=table", "task.files.train=mine.csv")
    same = [one.artifact == two.artifact for one, two in zip(plain, other, strict=True)]
    assert [run.stage.name for run in plain] == ["teacher", "general", "intermediate", "task"]
    assert same == [False, True, False, False]
    assert identity(plain[1]) == identity(other[1])


def test_an_override_of_the_trainer_speaks_of_the_named_stage_alone():
    overrides = ["stage=task", "trainer.max_epochs=7"]
    runs = plan(compose("train", overrides), overrides)
    assert runs[-1].trainer.max_epochs == 7
    assert all(run.trainer.max_epochs != 7 for run in runs[:-1])


def test_what_a_digest_stands_for_is_kept():
    runs = _runs("stage=task", "seed=7", "method.attention=${method.hidden}", "student.num_hidden_layers=2")
    assert runs[0].changes == []
    assert runs[-1].changes == [r"method.attention=\${method.hidden}", "student.num_hidden_layers=2"]


def test_an_experiments_epochs_are_set_for_each_stage_by_name():
    runs = _runs("experiment=small_task", "stage=task", "epochs.teacher=4", "epochs.intermediate=3", "epochs.task=2")
    assert [run.trainer.max_epochs for run in runs] == [4, 1, 3, 2]


def test_a_small_task_suits_students_that_begin_from_nothing_too():
    overrides = ["experiment=small_task", "stage=task", "artifacts=nowhere", "epochs.random=7"]
    overrides += ["compare=[{method: bow, stage: baseline}, {method: adabert, stage: random}]"]
    runs = {Path(run.artifact).name.rpartition("-")[0]: run for run in plan(compose("train", overrides), overrides)}
    assert {name: runs[name].trainer.max_epochs for name in ("teacher", "tinybert", "adabert-search", "adabert-random")} == {
        "teacher": 5,
        "tinybert": 5,
        "adabert-search": 40,
        "adabert-random": 7,
    }
    small = runs["bow-baseline"].trainer
    assert (small.max_epochs, small.max_steps, small.val_check_interval, small.check_val_every_n_epoch) == (-1, 6000, 200, None)
    assert runs["adabert-search"].callback.anneal.schedule.epochs == 40
    assert runs["adabert-search"].networks.stored.epochs == runs["adabert-random"].networks.stored.epochs == 40


def test_a_search_can_cool_by_stairs():
    cfg = compose("train", ["method=adabert", "stage=search", "anneal@callback.anneal.schedule=stairs"])
    assert instantiate(cfg.callback.anneal).schedule(0, 9_099) == pytest.approx(0.447214, abs=1e-6)  # specs/adabert.md, check F


def test_with_few_labels_the_teacher_too_goes_by_updates():
    few = ["experiment=few_labels", "method=bilstm", "stage=task", "task.label_budget=50", "artifacts=nowhere"]
    plain = plan(compose("train", few), few)
    assert [run.trainer.max_steps for run in plain] == [300, 3000]
    more = plan(compose("train", few), [*few, "updates.teacher=100", "looks.teacher=10"])
    assert [run.trainer.max_steps for run in more] == [100, 3000]
    assert [run.trainer.val_check_interval for run in more] == [10, 100]


def test_an_explicit_path_wins_over_a_prerequisite():
    overrides = ["stage=prediction", "student.path=mine", "teacher.path=yours"]
    runs = plan(compose("train", overrides), overrides)
    assert len(runs) == 1
    assert (runs[0].student.path, runs[0].teacher.path) == ("mine", "yours")


def test_missing_prerequisites_are_refused_where_that_is_asked_for():
    overrides = ["stage=task", "prerequisites=error", "artifacts=nowhere"]
    with pytest.raises(ValueError, match="earlier stages are missing: nowhere/demo/docs_topic/teacher"):
        plan(compose("train", overrides), overrides)


def _runs(*overrides):
    return plan(compose("train", list(overrides)), list(overrides))


def test_each_seed_makes_the_tasks_stages_again_and_shares_teacher_and_general_student():
    runs = _runs("stage=task", "seeds=3", "compare=[{method: finetune, stage: task}]", "artifacts=nowhere")
    made = {}
    for run in runs:
        made.setdefault((run.method.name, run.stage.name), []).append(run)
    assert {key: [run.seed for run in group] for key, group in made.items()} == {
        ("finetune", "teacher"): [42],
        ("tinybert", "general"): [42],
        ("tinybert", "intermediate"): [42, 43, 44],
        ("tinybert", "task"): [42, 43, 44],
        ("finetune", "general"): [42],
        ("finetune", "task"): [42, 43, 44],
    }
    students = made["tinybert", "task"]
    assert [run.student.path for run in students] == [run.artifact for run in made["tinybert", "intermediate"]]
    assert {run.teacher.path for run in students} == {made["finetune", "teacher"][0].artifact}
    assert {run.setting for run in students} == {students[0].artifact}
    assert [run.data.seed for run in students] == [42, 43, 44]
    assert len({run.artifact for run in runs}) == len(runs)


def test_the_first_of_several_seeds_is_the_run_of_one():
    alone, several = _runs("stage=task", "artifacts=nowhere"), _runs("stage=task", "artifacts=nowhere", "seeds=2")
    assert [run.artifact for run in several[: len(alone)]] == [run.artifact for run in alone]
    assert [run.seed for run in alone] == [42] * 4


def test_a_seed_by_hand_and_a_further_seed_never_meet_and_have_one_setting():
    """By hand it is the teacher's too."""
    by_hand, further = _runs("stage=task", "seed=43", "artifacts=nowhere"), _runs("stage=task", "seeds=2", "artifacts=nowhere")
    assert by_hand[-1].seed == further[-1].seed == 43
    assert by_hand[-1].setting == further[-1].setting
    assert not {run.artifact for run in by_hand} & {run.artifact for run in further}


def test_further_seeds_are_no_missing_prerequisites(tmp_path):
    overrides = ["stage=teacher", "prerequisites=error", "seeds=3", f"artifacts={tmp_path}"]
    assert [run.seed for run in _runs(*overrides)] == [42, 43, 44]


@pytest.mark.parametrize("seeds", ["0", "-1", "some", "1.5"])
def test_a_number_of_seeds_below_one_is_refused(seeds):
    with pytest.raises(ValueError, match=f"seeds={seeds}: give how many seeds"):
        _runs(f"seeds={seeds}")


def _saved(encoder, folder):
    encoder.model.save_pretrained(folder)
    encoder.tokenizer.save_pretrained(folder)
    return str(folder)


def _text(folder):
    (folder / "x.txt").write_text("w5 w6\n")
    return folder / "x.txt"


@pytest.mark.parametrize(("method", "stage"), PAIRS)
def test_every_pair_builds_on_tiny_networks(method, stage, tmp_path, make_encoder):
    labelled = stage not in ("general", "pretraining", "progressive", "joint")
    task = ["task.labels=[no,yes]", "task.max_length=16"] if labelled else ["data.max_length=16"]
    overrides = [f"method={method}", f"stage={stage}", *task]
    cfg = compose("train", [*overrides, f"corpus=[{_text(tmp_path)}]", f"cache={tmp_path}", f"task.root={tmp_path}"])
    if "num_hidden_layers" in cfg.student:
        cfg.student.num_hidden_layers = 2
    if "hidden_size" in cfg.student:
        cfg.student.hidden_size, cfg.student.num_attention_heads, cfg.student.intermediate_size = 16, 4, 32
    if "channels" in cfg.student:
        cfg.student.channels = 16
    folder = _saved(make_encoder(labels=("no", "yes") if labelled else ()), tmp_path / "model")
    (tmp_path / "model" / "architecture.json").write_text('{"cells": 2, "nodes": {"2": {"0": "conv_3", "1": "max_pool"}}}')
    start(cfg, folder)
    (tmp_path / cfg.task.folder).mkdir()
    for name in ("train.tsv", "dev.tsv", "unlabelled.tsv"):
        (tmp_path / cfg.task.folder / name).write_text("sentence\tlabel\nw5 w6\tno\nw7 w8\tyes\n")
    distiller, data = build(cfg)
    assert distiller.student.spec.vocabulary == len(data.tokenizer)
    assert list(distiller.objective.terms)


@pytest.mark.parametrize(
    ("stage", "terms"),
    [
        ("joint", ["normalised", "mean", "variance", "attention"]),
        ("general", ["mlm", "soft"]),
        ("general method.strategy=auxiliary", ["mlm", "soft", "normalised", "mean", "variance", "attention"]),
        ("joint method.feature=1 method.normalised=0 method.mean=0 method.variance=0", ["feature", "attention"]),
    ],
)
def test_a_new_mobilebert_is_made_for_its_teacher(stage, terms, tmp_path, make_bottleneck_pair):
    teacher = _saved(make_bottleneck_pair(blocks=4)[1], tmp_path / "teacher")
    thin = ["student.embedding_size=16", "student.intra_bottleneck_size=8", "student.intermediate_size=16"]
    overrides = ["method=mobilebert", *f"stage={stage}".split(), *thin, "data.max_length=16", f"corpus=[{_text(tmp_path)}]"]
    cfg = compose("train", [*overrides, f"teacher.path={teacher}", f"cache={tmp_path}"])
    distiller, _ = build(cfg)
    assert distiller.student.model.config.model_type == "mobilebert"
    assert (distiller.student.spec.layers, distiller.student.spec.hidden) == (4, 32)
    assert list(distiller.objective.terms) == terms
