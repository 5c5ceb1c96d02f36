"""Every configuration that can be named is composed, and every stage is built on tiny networks."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import MissingConfigException
from hydra.utils import instantiate
from omegaconf import OmegaConf

from kd_lightning.run.chain import plan
from kd_lightning.run.stage import build
from kd_lightning.submission import FILES

CONF = Path(__file__).parent.parent / "conf"
METHODS = sorted(path.stem for path in (CONF / "method").glob("*.yaml"))
SCALES = sorted(path.stem for path in (CONF / "scale").glob("*/"))
TASKS = sorted(path.stem for path in (CONF / "task").glob("*.yaml"))
EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))
NAMED = ["corpus=[text.txt]", "teacher.pretrained=teacher"]  # what the scale laptop leaves to its user


def _stages(method):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return _stages_of(compose("train", [f"method={method}"]).stages)


def _stages_of(stages):
    """Without those that only stand for another."""
    return [name for name in stages if not OmegaConf.is_interpolation(stages, name)]


PAIRS = [(method, stage) for method in METHODS for stage in _stages(method)]


@pytest.fixture(autouse=True)
def _hydra():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


def _plan(*overrides):
    return plan(compose("train", list(overrides)), list(overrides))


def _runs(*overrides):
    return _plan(*overrides).runs


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("method", METHODS)
def test_every_stage_of_a_method_composes_at_every_scale_without_a_missing_number(method, scale):
    cfg = compose("train", [f"method={method}", f"scale={scale}", *NAMED])
    assert (cfg.method.name, cfg.scale.name) == (method, scale)
    assert len(cfg.stages) >= 3
    for name, stage in cfg.stages.items():
        resolved = OmegaConf.to_container(stage, resolve=True, throw_on_missing=True)
        assert {"networks", "distiller", "data", "optim", "trainer", "callback", "metric", "starts_from"} <= set(resolved), name
        assert set(resolved["starts_from"]) <= set(cfg.stages), name


def test_the_stages_of_each_method_are_those_of_the_papers():
    assert {method: _stages_of(compose("train", [f"method={method}"]).stages) for method in METHODS} == {
        "finetune": ["teacher", "general", "task"],
        "distilbert": ["teacher", "general", "task", "baseline_general", "baseline"],
        "tinybert": ["teacher", "general", "intermediate", "prediction", "baseline_general", "baseline"],
        "mobilebert": ["teacher", "pretraining", "progressive", "joint", "general", "task"],
        "adabert": ["teacher", "search", "task", "random"],
        "bilstm": ["teacher", "task", "baseline"],
        "cnn": ["teacher", "task", "baseline"],
        "bow": ["teacher", "task", "baseline"],
    }


@pytest.mark.parametrize("task", TASKS)
def test_every_task_composes_and_its_monitor_is_one_of_its_metrics(task):
    cfg = compose("train", [f"task={task}"])
    assert cfg.task.name == task
    assert cfg.task.monitor in cfg.task.metrics
    cfg.task.labels = ["no", "yes"]
    prediction = cfg.stages.prediction
    assert prediction.data.reader.labels == prediction.networks.student.labels == ["no", "yes"]


def test_the_eleven_files_of_the_leaderboard_are_those_of_the_tasks():
    tasks = [compose("train", [f"task={task}"]).task for task in TASKS]
    named = [name for task in tasks for name in task.get("submission", {})]
    assert sorted(named) == sorted(FILES)
    assert all(split in task.files for task in tasks for split in task.get("submission", {}).values())


@pytest.mark.parametrize("task", TASKS)
def test_tinyberts_task_stages_augment_when_asked_except_the_prediction_stage_of_stsb(task):
    plain, more = (compose("train", [f"task={task}", *words]) for words in ([], ["augment=masked_lm"]))
    for stage in ("intermediate", "prediction"):
        assert plain.stages[stage].data.augment is None
        found = more.stages[stage].data.augment
        if task == "stsb" and stage == "prediction":
            assert found is None
        else:
            found = OmegaConf.to_container(found, resolve=True, throw_on_missing=True)
            assert found["variants"] == more.task.variants


@pytest.mark.parametrize("scale", SCALES)
def test_the_stages_that_learn_from_a_teacher_alone_read_unlabelled_rows(scale):
    found = set()
    for method in METHODS:
        stages = compose("train", [f"method={method}", f"scale={scale}", *NAMED]).stages
        found |= {(method, name) for name in _stages_of(stages) if stages[name].data.get("unlabelled", False)}
    tinybert = {("tinybert", stage) for stage in ("intermediate", "prediction")}
    assert found == tinybert | {(method, "task") for method in ("bilstm", "cnn", "bow")}


def _read_from(node, places: tuple[str, ...]):
    """Every node below with a path that is one of these, as they are written."""
    for value in node.values() if isinstance(node, dict) else ():
        yield from _read_from(value, places)
    if isinstance(node, dict) and node.get("path") in places:
        yield node


@pytest.mark.parametrize("method", METHODS)
def test_a_tokenizer_that_lies_elsewhere_reaches_all_that_reads_the_teacher(method):
    cfg = OmegaConf.to_container(compose("train", [f"method={method}", "augment=masked_lm"]), resolve=False)
    found = list(_read_from(cfg, ("${teacher.pretrained}", "${stages.teacher.path}")))
    models = [node for node in found if node.get("_target_") != "kd_lightning.student.mobilebert.ib_bert"]
    assert len(models) > 1
    assert all(node["tokenizer"] == "${teacher.tokenizer}" for node in models)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_makes_a_plan(experiment, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    method = ["method=bilstm"] if experiment == "few_labels" else []
    runs = _runs(f"experiment={experiment}", *method, "artifacts=nowhere")
    assert runs
    for run in runs:
        OmegaConf.to_container(run, throw_on_missing=True)


@pytest.mark.parametrize(
    ("scale", "stage", "setting", "number"),
    [  # by hand from the papers' tables (specs: distilbert, tinybert, mobilebert, adabert)
        ("base tinybert", "general", "optim.lr", 5e-5),
        ("base tinybert", "general", "data.batch_size", 256),
        ("base tinybert", "general", "trainer.max_epochs", 3),
        ("base tinybert", "intermediate", "trainer.max_epochs", 20),
        ("base tinybert", "intermediate", "optim.schedule", "constant"),
        ("base tinybert", "prediction", "optim.lr", 3e-5),
        ("base distilbert", "general", "optim.lr", 5e-4),
        ("base distilbert", "general", "optim.betas", [0.9, 0.98]),
        ("base distilbert", "general", "trainer.gradient_clip_val", 5.0),
        ("base distilbert", "general", "trainer.accumulate_grad_batches", 80),
        ("base mobilebert", "progressive", "trainer.max_steps", 240_000),
        ("base mobilebert", "general", "trainer.max_steps", 500_000),
        ("base mobilebert", "pretraining", "trainer.accumulate_grad_batches", 128),
        ("base adabert", "search", "trainer.max_epochs", 80),
        ("base bilstm", "task", "optim.lr", 1e-3),
        ("base finetune", "teacher", "optim.lr", 2e-5),
    ],
)
def test_the_papers_numbers_reach_their_stages(scale, stage, setting, number):
    size, method = scale.split()
    cfg = compose("train", [f"scale={size}", f"method={method}"])
    assert OmegaConf.select(cfg.stages[stage], setting) == number


@pytest.mark.parametrize("scale", SCALES)
def test_tinyberts_baseline_is_that_of_method_finetune(scale):
    named = [] if scale == "demo" else [*NAMED, "task=docs_topic"]
    ours = _runs(f"scale={scale}", "baseline=true", *named)[-2:]
    theirs = _runs(f"scale={scale}", "method=finetune", *named)
    assert [run.identity for run in ours] == [run.identity for run in theirs]
    assert [run.artifact for run in ours] == [run.artifact for run in theirs]


STRATEGIES = {
    "progressive": ["pretraining", "progressive", "general"],
    "joint": ["pretraining", "joint", "general"],
    "auxiliary": ["pretraining", "general"],
    "none": ["pretraining", "general"],
}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_mobileberts_strategies_differ_in_their_stages_and_share_one_teacher(strategy):
    runs = _runs("method=mobilebert", "stage=general", f"method.strategy={strategy}", "artifacts=nowhere")
    assert [run.stage for run in runs] == STRATEGIES[strategy]
    assert runs[0].artifact == "nowhere/demo/ib-bert"
    assert {run.networks.teacher.path for run in runs[1:]} == {runs[0].artifact}
    assert runs[-1].networks.student.path == (runs[-2].artifact if len(runs) == 3 else None)
    assert (runs[-1].distiller.auxiliary > 0) == (strategy == "auxiliary")
    assert sum(run.trainer.max_epochs for run in runs[1:]) == 2  # as much training for each
    assert [run.stage for run in runs if "progressive" in run.callback] == [strategy] * (strategy == "progressive")


@pytest.mark.parametrize("scale", ["demo", "laptop"])
@pytest.mark.parametrize("method", ["tinybert", "distilbert", "finetune", "mobilebert"])
def test_stages_on_a_task_are_as_long_as_their_rows_ask_for_and_a_person_may_say_otherwise(method, scale):
    words = (f"method={method}", "stage=task", f"scale={scale}", "task=docs_topic", *(NAMED if scale == "laptop" else ()))
    runs = [run for run in _runs(*words) if run.task is not None]
    assert runs
    for run in runs:
        assert (run.trainer.max_epochs, run.trainer.max_steps) == (-1, -1), run.stage
        assert 0 < run.callback.budget.least < run.callback.budget.most, run.stage
    said = _runs(*words, f"stages.{runs[-1].stage}.trainer.max_epochs=4")
    assert said[-1].trainer.max_epochs == 4


def test_the_papers_epochs_are_their_own():
    runs = _runs("method=tinybert", "scale=base", "task=docs_topic", *NAMED)
    assert [run.trainer.max_epochs for run in runs] == [3, 3, 20, 3]


def test_low_resource_students_have_as_many_updates_whatever_the_rows_and_a_small_search_cools_over_its_own_epochs():
    small = _runs("method=bow", "stage=baseline")[-1].trainer
    assert (small.max_epochs, small.max_steps, small.val_check_interval, small.check_val_every_n_epoch) == (-1, 6000, 200, None)
    searched, found = _runs("experiment=small_task", "scale=laptop", "task=docs_topic", *NAMED)[-2:]
    assert (searched.trainer.max_epochs, found.trainer.max_epochs) == (40, 30)
    assert searched.callback.anneal.schedule.epochs == 40
    assert searched.networks.answers.epochs == found.networks.answers.epochs == 40


def test_with_few_labels_the_teacher_too_goes_by_updates():
    runs = _runs("experiment=few_labels", "method=bilstm", "task.label_budget=50", "stages.teacher.trainer.max_steps=100")
    assert [run.trainer.max_steps for run in runs] == [100, 3000]
    assert [run.trainer.val_check_interval for run in runs] == [50, 100]


def test_an_experiment_for_another_method_is_refused_with_the_stages_that_there_are():
    with pytest.raises(
        ValueError, match=r"stages.baseline: method=adabert has no such stage; it has teacher, search, task, ran"
    ):
        _plan("experiment=few_labels", "method=adabert")


def test_a_choice_that_does_not_exist_is_named_by_hydra():
    with pytest.raises(MissingConfigException, match="method/tinybrt"):
        compose("train", ["method=tinybrt"])


def test_one_optimizer_for_all_stages_or_for_one():
    everywhere = compose("train", ["optim=lamb"]).stages
    once = compose("train", ["optim@stages.general.optim=lamb"]).stages
    kinds = {name: stage.optim.optimizer._target_ for name, stage in everywhere.items()}
    assert set(kinds.values()) == {"kd_lightning.optim.lamb.Lamb"}
    kinds = {name: stage.optim.optimizer._target_ for name, stage in once.items()}
    assert [name for name, kind in kinds.items() if kind == "kd_lightning.optim.lamb.Lamb"] == ["general"]


def test_a_part_of_a_student_is_chosen_as_a_group():
    cfg = compose("train", ["method=bilstm", "student/embeddings=file", "student/vocabulary=pieces"])
    for stage in ("task", "baseline"):
        student = cfg.stages[stage].networks.student
        assert student.embeddings._target_ == "kd_lightning.student.embeddings.from_vectors"
        assert student.vocabulary._target_ == "kd_lightning.student.vocabulary.pieces"
    cfg = compose("train", ["method=adabert", "student/embeddings=random"])
    for stage in ("search", "task", "random"):
        assert cfg.stages[stage].networks.student.embeddings._target_ == "kd_lightning.student.embeddings.random"


@pytest.mark.parametrize("student", ["tang_bilstm", "tang_bilstm_300", "kim_cnn", "bow_mlp"])
def test_a_preset_wins_over_the_sizes_of_the_scale(student):
    cfg = compose("train", ["method=bilstm", f"student={student}"])
    alone = compose(f"student/{student}", [])
    assert cfg.student.architecture._target_ == alone.student.architecture._target_
    assert cfg.student.embeddings.size == alone.student.embeddings.size
    assert compose("train", ["student=tinybert_6x768"]).student.hidden_size == 768
    tiny = compose("train", ["method=mobilebert", "student=mobilebert_tiny"]).student
    assert (tiny.num_feedforward_networks, tiny.num_hidden_layers) == (2, 4)


def _saved(encoder, folder):
    encoder.model.save_pretrained(folder)
    encoder.tokenizer.save_pretrained(folder)
    return str(folder)


def _text(folder):
    (folder / "x.txt").write_text("w5 w6\n")
    return folder / "x.txt"


@pytest.mark.parametrize(("method", "stage"), PAIRS)
def test_every_stage_builds_on_tiny_networks(method, stage, tmp_path, make_encoder, make_bottleneck_pair):
    labels = ["task.labels=[no,yes]", "task.max_length=16", f"task.root={tmp_path}"]
    overrides = [f"method={method}", f"stage={stage}", f"corpus=[{_text(tmp_path)}]", f"cache={tmp_path}", *labels]
    cfg = compose("train", overrides)
    labelled = "reader" in cfg.stages[stage].data
    small = {"num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 4, "intermediate_size": 32, "channels": 16}
    for name in small.keys() & set(cfg.student):
        cfg.student[name] = small[name]
    if method == "mobilebert":
        cfg.student.num_hidden_layers, cfg.student.embedding_size, cfg.student.intra_bottleneck_size = 3, 16, 8
    if method == "mobilebert" and not labelled:
        folder = _saved(make_bottleneck_pair(blocks=3)[1], tmp_path / "model")
    else:
        folder = _saved(make_encoder(labels=("no", "yes") if labelled else ()), tmp_path / "model")
    (tmp_path / "model" / "architecture.json").write_text('{"cells": 2, "nodes": {"2": {"0": "conv_3", "1": "max_pool"}}}')
    for name in _stages_of(cfg.stages):
        cfg.stages[name].data.max_length = 16
        if name != stage:
            cfg.stages[name].path = folder
    cfg.teacher.pretrained = folder
    (tmp_path / cfg.task.folder).mkdir()
    for name in ("train.tsv", "dev.tsv", "unlabelled.tsv"):
        (tmp_path / cfg.task.folder / name).write_text("sentence\tlabel\nw5 w6\tno\nw7 w8\tyes\n")
    (run,) = plan(cfg, overrides).runs
    distiller, data = build(run)
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
    given = ["method=mobilebert", *f"stage={stage}".split(), *thin, "data.max_length=16", f"corpus=[{_text(tmp_path)}]"]
    if "auxiliary" not in stage:
        given.append("method.strategy=none")
    *_, run = _runs(*given, f"stages.pretraining.path={teacher}", f"cache={tmp_path}", f"artifacts={tmp_path}")
    distiller, _ = build(run)
    assert distiller.student.model.config.model_type == "mobilebert"
    assert (distiller.student.spec.layers, distiller.student.spec.hidden) == (4, 32)
    assert list(distiller.objective.terms) == terms


def test_a_search_cools_by_the_exponential_of_the_authors_code():
    search = compose("train", ["method=adabert", "scale=base", "task.labels=[a,b]"]).stages.search
    anneal = OmegaConf.to_container(search.callback.anneal, resolve=True)
    assert instantiate(anneal).schedule(40) == pytest.approx(0.449329, abs=1e-6)  # exp(-0.02 * 40)


@pytest.mark.parametrize("name", sorted(path.stem for path in (CONF / "hydra" / "launcher").glob("*.yaml")))
def test_every_launcher_composes(name):
    cfg = compose("train", [f"hydra/launcher={name}"], return_hydra_config=True)
    assert cfg.hydra.launcher._target_.startswith("hydra_plugins.hydra_")


def test_slurm_is_told_nothing_that_its_launcher_does_not_know():
    plugin = pytest.importorskip("hydra_plugins.hydra_submitit_launcher.config")
    given = OmegaConf.load(CONF / "hydra" / "launcher" / "slurm.yaml")
    assert OmegaConf.merge(OmegaConf.structured(plugin.SlurmQueueConf), given).max_num_timeout > 0  # a requeue goes on


@pytest.mark.parametrize("name", sorted(path.stem for path in (CONF / "hparams_search").glob("*.yaml") if path.stem != "any"))
def test_every_search_draws_settings_that_its_method_has(name):
    space = compose("train", [f"method={name}", f"hparams_search={name}"]).hparams_search.space
    assert len(space) > 2
    assert len(_runs(f"method={name}", *(f"{setting}={about.low}" for setting, about in space.items()))) == len(
        _runs(f"method={name}")
    )
