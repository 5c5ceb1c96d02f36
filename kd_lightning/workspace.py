"""A view of the runs in W&B, with panels for what `logger=wandb` sends: `python -m kd_lightning.workspace --entity me`.

It needs an account, and `pip install -e '.[workspace]'`. Each time it makes one more view, beside those that are there.
"""

import argparse
import sys
from typing import Any

STEP = "trainer/global_step"


def build(entity: str, project: str, metric: str, parameters: list[str]) -> Any:
    """The view, not yet sent: quality (student beside teacher), losses, calibration, speed, sweep.

    metric: of the task. parameters: the settings that a sweep is over, as a run's config has them, e.g. distiller.prediction.
    """
    try:
        import wandb_workspaces.reports.v2 as panel
        import wandb_workspaces.workspaces as view
    except ModuleNotFoundError as error:
        raise ValueError("wandb-workspaces is not installed: pip install -e '.[workspace]'.") from error

    def lines(title: str, *keys: str) -> Any:
        return panel.LinePlot(title=title, x=STEP, y=list(keys))

    def all_of(title: str, pattern: str, style: str = "line") -> Any:
        return panel.LinePlot(title=title, x=STEP, metric_regex=pattern, plot_type=style)

    def tables(*keys: str) -> list[Any]:
        return [panel.WeavePanelSummaryTable(table_name=key) for key in keys]

    student, teacher = f"val/student/{metric}", f"val/teacher/{metric}"
    both = ("student", "teacher")
    columns = [panel.Config(name) for name in parameters]
    columns += [panel.SummaryMetric(name) for name in ("end/milliseconds", student)]
    sections = {
        "Quality": [
            lines(f"{metric}: student beside teacher", student, teacher),
            lines("Retention and agreement", "val/retention", "val/agreement"),
            *tables("end/table", "val/rows"),
        ],
        "Losses": [
            lines("Objective", "train/loss", "val/loss"),
            all_of("Terms", "train/loss/.*"),
            all_of("Each term's share", "train/share/.*", "stacked-area"),
        ],
        "Calibration": [
            panel.BarPlot(title="Expected calibration error", metrics=[f"val/{who}/ece" for who in both]),
            *tables(*(f"val/{who}/{what}" for what in ("reliability", "confusion_table") for who in both)),
        ],
        "Speed": [
            lines("Tokens a second", "train/tokens_per_second"),
            lines("Share of the GPU's peak", "train/mfu"),
            lines("Learning rate", "train/lr"),
            lines("Gradient norm", "train/gradient_norm"),
            panel.ScatterPlot(
                title="Score against latency", x=panel.SummaryMetric("end/milliseconds"), y=panel.SummaryMetric(student)
            ),
        ],
        "Sweep": [
            panel.ParallelCoordinatesPlot(columns=[panel.ParallelCoordinatesPlotColumn(metric=column) for column in columns]),
            panel.ParameterImportancePlot(with_respect_to=student),
        ],
    }
    made = [view.Section(name=name, panels=panels, is_open=True) for name, panels in sections.items()]
    return view.Workspace(entity=entity, project=project, name="kd-lightning", sections=made)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m kd_lightning.workspace", description="A view of the runs in W&B.")
    parser.add_argument("--entity", required=True, help="whose project it is: your name at W&B, or a team's")
    parser.add_argument("--project", default="kd-lightning")
    parser.add_argument("--metric", default="accuracy", help="of the task, as in val/student/<metric>")
    parser.add_argument(
        "parameters", nargs="*", metavar="SETTING", help="what a sweep is over, as in a run's config: distiller.prediction"
    )
    chosen = parser.parse_args()
    try:
        made = build(chosen.entity, chosen.project, chosen.metric, chosen.parameters)
        from wandb.errors import Error

        try:
            made.save()
        except (Error, OSError) as error:
            raise ValueError(f"W&B cannot be reached ({str(error).splitlines()[0]}). Is WANDB_API_KEY set?") from error
    except ValueError as error:
        sys.exit(f"workspace: {error}")


if __name__ == "__main__":
    main()
