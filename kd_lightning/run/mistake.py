"""What a person gets to read in place of a traceback: one sentence."""

import re
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from difflib import get_close_matches

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from kd_lightning.run.typed import PACKAGE, program

MISTAKES = (ValueError, HydraException, OmegaConfBaseException, yaml.YAMLError)  # a user's; anything else is ours
# A wheel carries it in the package; in a checkout, also where that is installed with -e, it lies beside it.
CONF = PACKAGE / "conf" if (PACKAGE / "conf").is_dir() else PACKAGE.parent / "conf"
CHOICES = ("method=", "scale=", "task=", "student=", "experiment=", "augment=", "logger=")


def composing() -> AbstractContextManager:
    """Hydra over `conf/`: as it runs already, or begun for this."""
    running = GlobalHydra.instance().is_initialized()
    return nullcontext() if running else initialize_config_dir(str(CONF), version_base="1.3")


def sentence(error: BaseException) -> str:
    """What the error says, without the libraries' own layers and advice."""
    while isinstance(error, HydraException) and "override" not in str(error) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        return f"{error.problem_mark.name}, line {error.problem_mark.line + 1}: this is no YAML ({error.problem})."
    text = str(error).strip()
    if named := re.search(r"Could not (?:override|delete from config)\W+([^']+)'", text):
        return unknown(named[1], list(_settings()))
    if named := re.search(r"Could not append to config\. An item is already at '([^']+)'", text):
        return f"+{named[1]}: this setting is there already. Leave the + away."
    if isinstance(error, MissingConfigException) and (named := re.search(r"Could not (?:find|load) '([^']+)'", text)):
        group, _, name = named[1].rpartition("/")
        listed = re.search(r"Available options in '[^']*':\n((?:\t.*\n?)*)", text)
        options = listed[1].split() if listed else []
        return unknown(f"{group}={name}", options, name)
    if "Config group override must be a string or a list" in text:
        given = [word.removesuffix("=null") for word in sys.argv[1:] if word.endswith("=null")]
        return f"{given[0] if given else 'A group'}=null: a choice is never null. Write none where it has one (logger=none)."
    if named := re.search(r"Missing mandatory value: ([\w.]+)", text):
        return f"{named[1]}=... is wanted: nothing is given, and there is no default."
    if isinstance(error, OverrideParseException):
        return f"{text.splitlines()[0]}. A value with , = or blanks in it is quoted for Hydra: 'name=\"a,b\"'."
    return text.splitlines()[0] if isinstance(error, HydraException) and text else text


def unknown(given: str, there: list[str], name: str | None = None) -> str:
    """Of something that does not exist: what may have been meant. name: what of it is compared, all of it by default."""
    near = get_close_matches(name or given, there, 3, 0.75)
    hint = f"Did you mean {' or '.join(near)}?" if near else f"There are {', '.join(there)}." if len(there) < 40 else ""
    hint = hint or f"{' '.join(program())} --cfg job shows them all."
    return f"{given}: there is no such {'choice' if name else 'setting'}. {hint}"


def _settings() -> Iterator[str]:
    """The names of all settings under the choices of the command line."""
    choices = [word for word in sys.argv[1:] if word.startswith(CHOICES) and "," not in word]
    GlobalHydra.instance().clear()
    with composing():
        try:
            cfg = compose("train", choices)
        except HydraException:
            cfg = compose("train")
    raw = OmegaConf.to_container(cfg, resolve=False)

    def names(prefix: str, value: object) -> Iterator[str]:
        for key, inner in value.items() if isinstance(value, dict) else ():
            yield f"{prefix}{key}"
            yield from names(f"{prefix}{key}.", inner)

    return names("", raw)
