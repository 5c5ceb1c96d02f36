"""The view of the runs in W&B is built, and not sent."""

import sys

import pytest

from kd_lightning import workspace


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # wandb-workspaces' own, about pydantic
def test_the_view_has_a_section_for_each_question_and_names_what_is_logged():
    pytest.importorskip("wandb_workspaces", reason="pip install -e '.[workspace]'")
    view = workspace.build("me", "ours", "f1", ["distiller.prediction"])._to_model()
    assert (view.entity, view.project) == ("me", "ours")
    sections = {section.name: section for section in view.spec.section.panel_bank_config.sections}
    assert [name for name, section in sections.items() if section.panels] == [
        "Quality",
        "Losses",
        "Calibration",
        "Speed",
        "Sweep",
    ]
    said = {name: section.model_dump_json(by_alias=True) for name, section in sections.items()}
    for name, keys in {
        "Quality": ["val/student/f1", "val/teacher/f1", "val/retention", "val/agreement", "end/table", "val/rows"],
        "Losses": ["train/loss", "train/loss/.*", "train/share/.*"],
        "Calibration": ["val/student/ece", "val/teacher/ece", "val/student/reliability", "val/teacher/confusion_table"],
        "Speed": ["train/tokens_per_second", "train/mfu", "train/lr", "train/gradient_norm", "end/milliseconds"],
        "Sweep": ["config:distiller.value.prediction", "val/student/f1"],
    }.items():
        assert not [key for key in keys if f'"{key}"' not in said[name] and f":{key}" not in said[name]], name


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    with pytest.raises(ValueError, match=r"wandb-workspaces is not installed: pip install -e '\.\[workspace\]'"):
        workspace.build("me", "ours", "f1", [])
