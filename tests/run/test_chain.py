"""What a chain runs, what an artifact is made of, and what it is called."""

import shutil
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from kd_lightning.run.chain import finished, plan
from kd_lightning.run.record import Record

CONF = Path(__file__).parents[2] / "conf"


@pytest.fixture(autouse=True)
def _hydra():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


def chain(*overrides):
    given = [*overrides, "artifacts=nowhere"] if not any(o.startswith("artifacts=") for o in overrides) else list(overrides)
    return plan(compose("train", given), given)


def by_stage(*overrides):
    return {run.stage: run for run in chain(*overrides).runs}


def folders(*overrides):
    return [Path(run.artifact).relative_to("nowhere/demo").as_posix() for run in chain(*overrides).runs]


def test_a_chain_runs_its_prerequisites_first_and_the_baseline_last():
    runs = chain("experiment=demo").runs
    assert [(run.method, run.stage) for run in runs] == [
        ("finetune", "teacher"),
        ("tinybert", "general"),
        ("tinybert", "intermediate"),
        ("tinybert", "prediction"),
        ("finetune", "baseline_general"),
        ("finetune", "baseline"),
    ]
    assert runs[3].networks.student.path == runs[2].artifact
    assert runs[3].networks.teacher.path == runs[0].artifact
    assert dict(runs[3].starts_from) == {"teacher": runs[0].artifact, "intermediate": runs[2].artifact}


def test_where_nothing_differs_from_the_defaults_a_folder_is_called_by_the_method():
    plain = [
        "docs_topic/teacher",
        "tinybert-general",
        "docs_topic/tinybert-intermediate",
        "docs_topic/tinybert",
        "finetune-general",
        "docs_topic/finetune",
    ]
    assert folders("experiment=demo") == plain
    assert folders("baseline=true", "method.attention=1", "stages.teacher.optim.lr=0.0002") == plain


@pytest.mark.parametrize("word", ["method.temperature=1", "method.temperature=1.0", "optim.weight_decay=1e-2", "seed=42"])
def test_however_a_default_is_typed_it_is_the_same_artifact(word):
    assert folders(word) == folders()


def test_a_sweep_over_the_predictions_weight_shares_every_earlier_stage():
    jobs = [by_stage(f"method.prediction={w}", f"method.temperature={t}") for w in ("0.5", "1.0") for t in ("1", "1.0")]
    made = {stage: len({job[stage].artifact for job in jobs}) for stage in jobs[0]}
    assert made == {"teacher": 1, "general": 1, "intermediate": 1, "prediction": 2}


def test_what_a_stage_reads_moves_it_and_those_after_it_and_their_names_say_so():
    plain, moved = by_stage(), by_stage("method.attention=0")
    assert [stage for stage in plain if plain[stage].artifact != moved[stage].artifact] == [
        "general",
        "intermediate",
        "prediction",
    ]
    assert {run.name for run in moved.values()} == {
        "teacher",
        "tinybert-general,attention=0",
        "tinybert-intermediate,attention=0",
        "tinybert,attention=0",
    }
    name = Path(moved["prediction"].artifact).name
    assert name == f"tinybert,attention=0-{moved['prediction'].identity[:6]}"


def test_a_setting_of_one_stage_is_said_at_that_stage():
    runs = by_stage(
        "stages.general.data.max_sequences=6000", "stages.general.optim.lr=1e-4", "stages.teacher.trainer.max_epochs=1"
    )
    assert (runs["general"].data.max_sequences, runs["general"].optim.lr) == (6000, 1e-4)
    assert {stage: run.trainer.max_epochs for stage, run in runs.items()} == {
        "teacher": 1,
        "general": 1,
        "intermediate": -1,  # by its rows
        "prediction": -1,
    }
    assert runs["intermediate"].optim.lr == 1e-3


def test_a_setting_of_all_stages_is_said_once():
    runs = by_stage("trainer.max_epochs=7", "optim.lr=0.5", "data.batch_size=8", "trainer.precision=32-true")
    assert len(runs) == 4
    for run in runs.values():
        assert (run.trainer.max_epochs, run.optim.lr, run.data.batch_size, run.trainer.precision) == (7, 0.5, 8, "32-true")


def test_what_no_stage_reads_is_refused():
    with pytest.raises(ValueError, match=r"data.mask_share: no stage of method=bilstm reads it"):
        chain("method=bilstm", "data.mask_share=0.3")
    with pytest.raises(ValueError, match=r"method.atention: there is no such setting. Did you mean method.attention"):
        chain("+method.atention=0")


def test_a_stage_that_a_method_lacks_is_refused_with_those_it_has():
    with pytest.raises(ValueError, match=r"stage=intermediate: method=distilbert has none of this name; it has teacher, gen"):
        chain("method=distilbert", "stage=intermediate")
    with pytest.raises(ValueError, match=r"stage=baseline: method=adabert has none"):
        chain("method=adabert", "baseline=true")


def test_a_general_student_is_of_no_task():
    plain, other = by_stage(), by_stage("task.max_length=64", "task=table", "task.files.train=mine.csv", "task.text=[a]")
    same = {stage: plain[stage].identity == other[stage].identity for stage in plain}
    assert same == {"teacher": False, "general": True, "intermediate": False, "prediction": False}
    assert plain["general"].artifact == other["general"].artifact


def test_augmentation_moves_what_trains_on_more_rows_and_what_starts_from_it_and_nothing_else():
    variants = [
        [],
        ["augment=masked_lm"],
        ["augment=masked_lm", "augment.variants=7"],
        ["augment=masked_lm", "task.variants=9"],
    ]
    jobs = [by_stage("baseline=true", "task=docs_pair", *variant) for variant in variants]
    made = {stage: len({job[stage].identity for job in jobs}) for stage in jobs[0]}
    assert made == {
        "teacher": 1,
        "general": 1,
        "intermediate": 4,
        "prediction": 4,
        "baseline_general": 1,
        "baseline": 1,
    }


@pytest.mark.parametrize(
    "word",
    [
        "data.workers=2",
        "trainer.devices=2",
        "trainer.accelerator=cpu",
        "+trainer.strategy=ddp",
        "cache=elsewhere",
        "logger=wandb",
    ],
)
def test_the_machine_changes_no_artifact(word):
    assert folders("baseline=true", word) == folders("baseline=true")


def test_a_stored_teacher_is_the_same_teacher():
    stored = by_stage("teacher.stored=true", "method.valid_only=true")
    assert stored["prediction"].stored
    assert not stored["general"].stored
    plain = by_stage("method.valid_only=true")
    assert [run.identity for run in stored.values()] == [run.identity for run in plain.values()]


def test_what_stands_for_a_stage_is_said_in_one_word_or_at_the_stage(tmp_path, make_encoder):
    folder = saved(make_encoder(), tmp_path / "model")
    short, long = chain(f"student.path={folder}"), chain(f"stages.general.path={folder}")
    for found in (short, long):
        assert [run.stage for run in found.runs] == ["teacher", "intermediate", "prediction"]
        assert found.given == {"general": folder}
        assert found.runs[1].networks.student.path == folder
    assert [run.identity for run in short.runs] == [run.identity for run in long.runs]
    found = chain(f"stages.intermediate.path={folder}", f"teacher.path={folder}")
    assert [run.stage for run in found.runs] == ["prediction"]
    assert found.given == {"teacher": folder, "intermediate": folder}
    assert found.left_out == ["general"]


def test_a_general_stage_goes_on_from_a_student_that_is_given(tmp_path, make_encoder):
    folder = saved(make_encoder(), tmp_path / "model")
    for method in ("tinybert", "distilbert", "finetune"):
        (run,) = chain(f"method={method}", "stage=general", f"student.path={folder}").runs
        assert run.networks.student.path == folder


def test_a_path_that_nothing_starts_from_is_refused():
    with pytest.raises(ValueError, match=r"teacher.path=x: what runs is general, and none of them starts from it"):
        chain("stage=general", "teacher.path=x")
    with pytest.raises(ValueError, match=r"stages.general.path=x: what runs is general, and it stands for that very stage"):
        chain("stage=general", "stages.general.path=x")


def test_a_student_of_the_teachers_layers_needs_no_general_stage_and_its_baseline_has_the_same_start():
    runs = by_stage("start=teacher", "baseline=true")
    assert list(runs) == ["teacher", "intermediate", "prediction", "baseline"]
    teacher, student = runs["teacher"].artifact, runs["intermediate"].networks.student
    assert (student._target_, student.num_hidden_layers) == ("kd_lightning.student.transplant.layers_of", 2)
    assert runs["baseline"].networks.student == student
    assert runs["baseline"].networks.teacher.path == runs["intermediate"].networks.teacher.path == teacher
    assert Path(runs["prediction"].artifact).name.startswith("tinybert,start=teacher-")
    for method in ("distilbert", "finetune"):
        assert list(by_stage(f"method={method}", "start=teacher")) == ["teacher", "task"]


def test_where_nobody_says_it_the_corpus_decides_what_a_student_starts_from_and_the_plan_says_why(tmp_path, make_encoder):
    """The papers' way needs a student of no task, or 100 MB of text, or a data set of the hub."""
    laptop = ("scale=laptop", "glue=nowhere", f"teacher.pretrained={saved(make_encoder(), tmp_path / 'model')}")
    text, long = tmp_path / "a.txt", tmp_path / "b.txt"
    text.write_text("a tensor")
    with long.open("w") as file:
        file.truncate(100_000_000)
    few = {"teacher", "intermediate", "prediction"}
    for said, stages, why in [
        ([], few, "teacher (no corpus is named for a general stage)"),
        ([f"corpus=[{text}]"], few, "teacher (the corpus has 0.0 MB of 100 that make a general stage worth it)"),
        ([f"corpus=[{text},{long}]"], {*few, "general"}, "corpus (the corpus has 100.0 MB of 100 "),
        (["corpus=[owner/name]"], {*few, "general"}, "corpus (the corpus is a data set of the hub)"),
        ([f"student.path={tmp_path}/model"], few, "corpus (student.path names the student of a general stage)"),
        (["start=corpus", f"corpus=[{text}]"], {*few, "general"}, ""),
        (["start=teacher", f"corpus=[{long}]"], few, ""),
        (["stage=general", f"corpus=[{text}]"], {"general"}, ""),
    ]:
        found = chain(*laptop, *said)
        assert {run.stage for run in found.runs} == stages, said
        assert found.start.startswith(why), said
        assert bool(found.start) == bool(why), said


def test_at_the_papers_scale_and_with_the_embedded_corpus_a_student_starts_from_a_general_stage():
    assert "general" in by_stage()
    assert "general" in by_stage("scale=base", "task=docs_topic", "corpus=[docs]", "teacher.pretrained=nowhere")


@pytest.mark.parametrize("method", ["bilstm", "mobilebert", "adabert"])
def test_a_start_that_a_method_does_not_have_is_refused(method):
    with pytest.raises(ValueError, match=rf"start=teacher: method={method} has no such start. Choose auto or corpus."):
        chain(f"method={method}", "start=teacher")


def test_a_teacher_that_is_given_serves_the_methods_that_are_compared_too(tmp_path, make_encoder):
    folder = saved(make_encoder(labels=("a", "b")), tmp_path / "model")
    runs = chain(f"teacher.path={folder}", "compare=[{method: bilstm, stage: task}]").runs
    assert [run.method for run in runs] == ["tinybert"] * 3 + ["bilstm"]
    assert runs[-1].networks.teacher.path == folder


def test_an_entry_of_compare_names_a_method_and_a_stage_and_overrides_of_its_own():
    with pytest.raises(ValueError, match=r"compare: .*'lr': 1.* an entry names a method and a stage, and overrides"):
        chain("compare=[{method: bilstm, stage: task, lr: 1}]")
    runs = chain("method=cnn", 'compare=[{method: cnn, stage: task, overrides: ["stages.task.optim.lr=1"]}]').runs
    assert [(run.stage, run.optim.lr) for run in runs] == [("teacher", 2e-4), ("task", 1e-3), ("task", 1)]


def test_the_palette_is_taught_by_one_teacher():
    runs = chain("experiment=which_student", "task=sst2", f"glue={CONF}").runs
    assert [(run.method, run.stage) for run in runs] == [
        ("finetune", "teacher"),
        ("distilbert", "task"),
        ("distilbert", "task"),
        ("tinybert", "intermediate"),
        ("tinybert", "prediction"),
        ("bilstm", "task"),
        ("cnn", "task"),
        ("bow", "task"),
    ]
    assert [run.networks.student.get("num_hidden_layers") for run in runs[1:3]] == [2, 1]
    assert {run.networks.teacher.path for run in runs[1:]} == {runs[0].artifact}
    assert [run.name for run in runs[1:3]] == [
        "distilbert,start=teacher,soft=1,gold=0",
        "distilbert,start=teacher,num_hidden_layers=1,soft=1,gold=0",
    ]


def test_what_is_said_of_a_method_is_said_of_no_other_that_is_compared():
    words = ["method.attention=0", "student.hidden_size=64", "stages.prediction.optim.lr=1", "task.max_length=32"]
    runs = chain(*words, "compare=[{method: distilbert, stage: task}]").runs
    assert runs[-1].artifact == chain("method=distilbert", "task.max_length=32").runs[-1].artifact


def test_a_file_counts_by_its_content_and_not_by_its_name(tmp_path):
    def identity(name, content):
        (tmp_path / name).write_text(content)
        words = ["method=finetune", "stage=teacher", "task=table", "task.text=[text]", "task.label=label"]
        return chain(*words, f"task.files.train={tmp_path / name}").runs[0].identity

    first = identity("a.csv", "text,label\nx,1\n")
    assert identity("b.csv", "text,label\nx,1\n") == first
    assert identity("a.csv", "text,label\nx,2\n") != first


def test_a_model_counts_by_its_files_and_a_corpus_by_its_text(tmp_path, make_encoder):
    one, two = (saved(make_encoder(seed=seed), tmp_path / str(seed)) for seed in (0, 1))
    copied = shutil.copytree(one, tmp_path / "copied")
    text, other = tmp_path / "text.txt", tmp_path / "other.txt"
    text.write_text("one\n")
    other.write_text("two\n")

    def identity(model, corpus):
        return chain("stage=general", f"teacher.pretrained={model}", f"corpus=[{corpus}]").runs[0].identity

    assert identity(one, text) == identity(copied, text)
    assert len({identity(one, text), identity(two, text), identity(one, other)}) == 3
    Path(copied, "README.md").write_text("for people\n")
    assert identity(one, text) == identity(copied, text)


def test_a_local_copy_of_glue_counts_by_the_files_of_the_task(tmp_path):
    for place, rows in (("a", "x\t1\n"), ("b", "x\t1\n"), ("c", "x\t0\n")):
        (tmp_path / place / "SST-2").mkdir(parents=True)
        (tmp_path / place / "SST-2" / "train.tsv").write_text(f"sentence\tlabel\n{rows}")
    found = [by_stage("task=sst2", f"glue={tmp_path / place}")["teacher"].identity for place in "abc"]
    assert found[0] == found[1] != found[2]


def left(run):
    """Its artifact, as far as a plan looks at it."""
    folder = Path(run.artifact)
    folder.mkdir(parents=True)
    known = {name: run[name] for name in ("name", "identity", "setting", "method", "stage", "scale", "seed", "metric")}
    Record(**known, task=None, teacher=None, starts_from={}, command="python train.py").write(folder, {})
    (folder / "metrics.json").write_text("{}")


def test_an_artifact_of_the_same_identity_is_there_already_and_any_other_one_is_left_alone(tmp_path):
    place = f"artifacts={tmp_path}"
    (plain,) = chain("stage=general", place).runs
    left(plain)
    assert finished(chain("stage=general", place).runs[0])
    assert finished(by_stage("experiment=demo", place)["general"])
    (other,) = chain("stage=general", "method.hidden=2", place).runs
    assert not finished(other)
    record = (Path(plain.artifact) / "run.yaml").read_text().replace(plain.identity, "0" * 16)
    (Path(plain.artifact) / "run.yaml").write_text(record)  # as an earlier version's defaults may have left it
    (again,) = chain("stage=general", place).runs
    assert not finished(again)
    assert Path(again.artifact).name == f"tinybert-general-{plain.identity[:6]}"


def test_an_artifact_that_is_given_by_its_folder_is_what_the_chain_would_have_made(tmp_path):
    place = f"artifacts={tmp_path}"
    runs = by_stage(place)
    left(runs["general"])
    given = by_stage(f"student.path={runs['general'].artifact}", place)
    assert given["prediction"].identity == runs["prediction"].identity


def test_a_name_of_ones_own_is_that_of_the_named_stage():
    runs = by_stage("name=mine")
    assert [Path(run.artifact).name for run in runs.values()][:3] == ["teacher", "tinybert-general", "tinybert-intermediate"]
    assert runs["prediction"].name == "mine"
    assert Path(by_stage("name=mine", "method.gold=1")["prediction"].artifact).name.startswith("mine-")
    assert "/" not in by_stage("name=../../x")["prediction"].name


def test_each_seed_makes_the_tasks_stages_again_and_shares_teacher_and_general_student():
    runs = chain("baseline=true", "seeds=3").runs
    made = {}
    for run in runs:
        made.setdefault(run.stage, []).append(run)
    assert {stage: [run.seed for run in group] for stage, group in made.items()} == {
        "teacher": [42],
        "general": [42],
        "intermediate": [42, 43, 44],
        "prediction": [42, 43, 44],
        "baseline_general": [42],
        "baseline": [42, 43, 44],
    }
    students = made["prediction"]
    assert [run.networks.student.path for run in students] == [run.artifact for run in made["intermediate"]]
    assert len({run.setting for run in students}) == 1
    assert len({run.identity for run in students}) == 3
    assert [run.data.seed for run in students] == [42, 43, 44]
    assert [run.name for run in students] == ["tinybert"] * 3
    assert Path(students[1].artifact).name.startswith("tinybert,seed=43-")
    assert students[0].artifact == by_stage()["prediction"].artifact


def test_a_seed_by_hand_and_a_further_seed_never_meet_and_are_of_one_setting():
    """By hand it is the teacher's too."""
    by_hand, further = chain("seed=43").runs, chain("seeds=2").runs
    assert by_hand[-1].seed == further[-1].seed == 43
    assert by_hand[-1].setting == further[-1].setting
    assert not {run.artifact for run in by_hand} & {run.artifact for run in further}


@pytest.mark.parametrize("seeds", ["0", "-1", "some", "1.5"])
def test_a_number_of_seeds_below_one_is_refused(seeds):
    with pytest.raises(ValueError, match=f"seeds={seeds}: give how many seeds"):
        chain(f"seeds={seeds}")


def test_missing_prerequisites_are_refused_where_that_is_asked_for():
    with pytest.raises(ValueError, match="earlier stages are missing: nowhere/demo/docs_topic/teacher"):
        chain("prerequisites=error")
    with pytest.raises(ValueError, match="prerequisites=never: choose run or error"):
        chain("prerequisites=never")


def test_a_hub_name_counts_by_the_commit_in_the_local_cache(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    refs = tmp_path / "models--someone--a-model" / "refs"
    refs.mkdir(parents=True)

    def identity(commit):
        from kd_lightning.run.identity import _revision

        _revision.cache_clear()
        (refs / "main").write_text(commit)
        return chain("stage=general", "teacher.pretrained=someone/a-model").runs[0].identity

    assert identity("a" * 40) == identity("a" * 40) != identity("b" * 40)


def saved(encoder, folder):
    encoder.model.save_pretrained(folder)
    encoder.tokenizer.save_pretrained(folder)
    return str(folder)
