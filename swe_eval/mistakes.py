"""Mistakes on the command line: each in one line that says what to write instead, where Hydra takes many."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra._internal.utils import get_args_parser
from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf import OmegaConf

from swe_eval.errors import UserError
from swe_eval.settings import conf_dir, flatten


def refuse(arguments: Sequence[str], own: Sequence[str] = ()) -> None:
    """Raise UserError for what Hydra would answer with its usage or a traceback, take two options of, or never read.

    Args:
        arguments: what is left of the command line for Hydra.
        own: options of the command itself, which may have been meant.
    """
    given, unknown = get_args_parser().parse_known_args(arguments)
    if unknown:
        option, _, _ = unknown[0].partition("=")
        field = option.strip("-").replace("-", "_")
        fields = sorted(_fields(), key=lambda key: (key.count("."), key))
        near = [f"{key}=..." for key in fields if f".{key}".endswith(f".{field}")]
        near = near or difflib.get_close_matches(option, own) or [f"{key}=..." for key in _close(field)]
        remedy = f"did you mean {near[0]}?" if near else "fields are written FIELD=VALUE, --help lists them"
        raise UserError(f"{unknown[0]}: no such option; {remedy}")
    if given.config_dir and (hidden := _hidden(Path(given.config_dir))):
        raise UserError(f"--config-dir={given.config_dir}: {hidden}: swe_eval's own is read first; rename yours")
    for override in given.overrides:
        group, equals, option = override.partition("=")
        if equals and (conf_dir() / group).is_dir() and re.fullmatch(r"(?i)null|true|false|[\d.]*|\[.*", option):
            raise UserError(_no_option(group, option))


def _hidden(folder: Path) -> str:
    """A file in it that Hydra never comes to, as ``conf/`` has one of this name; empty if there is none."""
    ours = [] if folder.resolve() == conf_dir() else sorted(conf_dir().rglob("*.yaml"))
    names = (str(file.relative_to(conf_dir())) for file in ours)
    return next((name for name in names if (folder / name).is_file()), "")


def explain(error: Exception) -> str:
    """Hydra's message as one line that says what to write instead."""
    text = str(error)
    if found := re.match(r"UserError raised while resolving interpolation: (.+)", text):  # ours, by a resolver
        return found[1]
    if "Could not load 'hydra/launcher/swe_eval_" in text:  # what cluster/config.py registers if it can
        return "hydra/launcher: submitit is not installed; write pip install 'swe_eval[slurm]'"
    if isinstance(error, OverrideParseException):
        return _unread(error.override)
    if found := re.match(r"Ambiguous value for argument '(.+?)=(.+)'", text):
        return f"{found[1]}: several values: write {found[1]}=[{found[2]}] for a list, -m before it for a job each"
    if isinstance(error, MissingConfigException) and (found := re.search(r"Could not find '(.+)/(.+?)'", text)):
        return _no_option(*found.groups())
    if found := re.search(r"Could not override '(.+?)'", text):
        return f"{found[1]}: {_nearest(found[1], getattr(error.__cause__, 'full_key', None) or found[1])}"
    if found := re.search(r"Interpolation key '(.+?)' not found|Missing mandatory value: (\S+)", text):
        key = found[1] or found[2]
        return f"{key}: needs a value: write {key}=..."
    why = f" ({str(error.__cause__).splitlines()[0]})" if error.__cause__ else ""
    return f"command line: {text.strip().splitlines()[0]}{why}"


def _no_option(group: str, option: str) -> str:
    options = {path.stem for path in (conf_dir() / group).glob("*.yaml")}
    options |= {"basic"} if group == "hydra/launcher" else set()  # Hydra's own
    return f"{group}={option}: no such option; write one of {', '.join(sorted(options))}"


def _unread(override: str) -> str:
    """What Hydra's grammar of overrides does not take."""
    field, equals, value = override.partition("=")
    if not equals:
        return f"{override}: no value; write FIELD=VALUE"
    quoted = value.replace('"', r"\"")
    return f"{field}: {value} cannot be read without quotes; write '{field}=\"{quoted}\"'"


def _nearest(field: str, lacking: str) -> str:
    """What was probably meant. ``lacking`` is the first part of the field that the configuration does not have."""
    options, parent = _options(), lacking.rpartition(".")[0]
    if any(isinstance(fields.get(parent), Mapping) for fields in options.values()):
        return f"entries are added with a plus: write +{field if field != parent else f'{field}.KEY'}=..."
    with_it = [each for each, fields in options.items() if any(f"{key}.".startswith(f"{lacking}.") for key in fields)]
    if with_it:
        listed = " or ".join(filter(None, [", ".join(with_it[:-1]), with_it[-1]]))
        return f"is a field of {listed}; write {'one of them' if len(with_it) > 1 else listed}, too"
    near = _close(field)
    return f"no such field; {f'did you mean {near[0]}?' if near else 'python -m swe_eval --help lists the fields'}"


def _close(field: str) -> list[str]:
    return difflib.get_close_matches(field, _fields() - {field.partition(".")[0]}, n=1)


def _fields() -> set[str]:
    """Every field of every option, and the groups."""
    known = {path.name for path in conf_dir().iterdir()}
    for fields in (_fields_in(conf_dir() / "config.yaml"), *_options().values()):
        known |= {key for key, _ in flatten(fields)}
    return known


def _options() -> dict[str, dict[str, Any]]:
    """Fields and their values by option: ``{"lora=ab": {"lora.baseline": "???", ...}, ...}``."""
    found = {}
    for file in sorted(conf_dir().rglob("*/*.yaml")):
        group = file.relative_to(conf_dir()).parent
        if "@package _global_" not in file.read_text():  # an experiment, which has no fields of its own
            prefix = ".".join(group.parts)
            found[f"{group}={file.stem}"] = {f"{prefix}.{key}": value for key, value in _fields_in(file).items()}
    return found


def _fields_in(file: Path) -> dict[str, Any]:
    """Of an option, also those of the options that it is made of."""
    own: dict[str, Any] = OmegaConf.to_container(OmegaConf.load(file), resolve=False)  # type: ignore[assignment]
    fields: dict[str, Any] = {}
    for default in own.pop("defaults", []):
        name, at, package = default.partition("@") if isinstance(default, str) else ("", "", "")
        if (other := file.with_name(f"{name}.yaml")).is_file():
            fields |= {f"{package}.{key}" if at else key: value for key, value in _fields_in(other).items()}
    return fields | own
