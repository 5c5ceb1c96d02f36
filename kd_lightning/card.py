"""An artifact's model card, written anew, and the artifact on the hub:

    python -m kd_lightning.card <artifacts> [--push <name>]

Of several artifacts, or of the folder of a sweep, it is the one with the best deciding metric, where all are of one task. The
card then has the interval of that metric (a bootstrap over the validation rows). What you have written into the card's
license, language and base model stays.

Nothing leaves the machine without --push. With it go the model, its tokenizer, its card, its metrics and what
kd_lightning.export left; run.yaml, which holds paths of this machine, and the rows' predictions stay here.
"""

import argparse
import sys
from pathlib import Path

from httpx import HTTPError
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
from transformers.utils.logging import disable_progress_bar

from kd_lightning.compare import find
from kd_lightning.run import card, reading
from kd_lightning.run.artifact import facts
from kd_lightning.run.results import collect
from kd_lightning.run.shown import printable

STAYS = ("run.yaml", "manifest.json", "predictions.parquet", "table.csv", ".*")


def best(paths: list[str]) -> Path:
    """The artifact with the best deciding metric among these and those below these folders."""
    if len(paths) == 1 and (Path(paths[0]) / "run.yaml").is_file():
        return Path(paths[0])
    results = find(paths)
    if len(kinds := sorted({f"{result.record.task.name} ({result.record.scale})" for result in results})) > 1:
        raise ValueError(f"{', '.join(paths)}: these are of several tasks, {', '.join(kinds)}. Name those of one.")
    scores = [
        (metrics[result.record.metric], folder)
        for result in results
        for folder, metrics in zip(result.folders, result.metrics, strict=True)
        if result.record.stage != "teacher"
    ]
    if not scores:
        raise ValueError(f"{', '.join(paths)}: no student is there, only teachers. Name a teacher's own folder to take it.")
    return max(scores)[1]


def renew(folder: Path) -> None:
    """Write the card, with the interval."""
    (result,) = collect([folder])
    model = reading.model(folder)
    length = result.record.task.max_length if result.record.task else model.config.max_position_embeddings
    card.write(folder, result, model, facts(folder, model, length), interval=True)


def push(folder: Path, name: str, private: bool) -> str:
    """Make the repository, if there is none, and write the files; returns where they are."""
    api = HfApi()
    try:
        where = api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(repo_id=where.repo_id, folder_path=folder, ignore_patterns=list(STAYS), commit_message="Upload model")
    except (HfHubHTTPError, HFValidationError, OfflineModeIsEnabled, HTTPError, OSError) as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"--push {name}: the hub did not take it ({said[:300]}). Run hf auth login, or give another name."
        ) from error
    return str(where)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m kd_lightning.card", description="A model card, and the hub.")
    parser.add_argument("artifacts", nargs="+", help="a folder that a stage left; of several, or of a sweep's, the best")
    parser.add_argument("--push", metavar="NAME", help="upload it to the hub under this name, e.g. me/my-student")
    parser.add_argument("--private", action="store_true", help="with --push: for nobody else")
    chosen = parser.parse_args()
    disable_progress_bar()
    try:
        folder = best(chosen.artifacts)
        renew(folder)
        print(printable(f"{folder / card.FILE} is written."))
        if chosen.push:
            print(printable(f"Uploaded: {push(folder, chosen.push, chosen.private)}"))
    except (ValueError, OSError) as error:
        sys.exit(printable(f"card: {error}"))


if __name__ == "__main__":
    main()
