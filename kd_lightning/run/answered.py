"""Files of answers in place of a teacher's network, where the command line names some."""

from omegaconf import DictConfig, OmegaConf, open_dict

BY = "${answered}"  # of the configuration: what teaches then


def by_answers(cfg: DictConfig) -> None:
    """Let each stage that learns from stage teacher learn from `teacher.answers` instead, if there are any."""
    teacher = cfg.teacher
    for word in ("weights", "kind"):
        if teacher.answers is None and teacher[word] is not None:
            raise ValueError(f"teacher.{word}={teacher[word]}: it is said of teacher.answers, and none are named.")
    if teacher.answers is None:
        return
    for word in ("answers", "weights"):
        if not OmegaConf.is_list(teacher[word]) and teacher[word] is not None:
            teacher[word] = [teacher[word]]
    for name in (name for name in cfg.stages if not OmegaConf.is_interpolation(cfg.stages, name)):
        stage = cfg.stages[name]
        if "teacher" not in stage.starts_from:
            continue
        if stage.data.get("augment") is not None:
            raise ValueError(f"stages.{name}: nobody has answered the rows that augmentation makes. Write augment=none.")
        with open_dict(stage):
            stage.starts_from = [who for who in stage.starts_from if who != "teacher"]
            stage.stored = False  # they are stored as they are
            stage.networks.teacher = BY
            stage.networks.answers = None


def files(stage: DictConfig) -> list[str]:
    """The files that answer in a stage."""
    return list((stage.networks.get("teacher") or {}).get("files", []))
