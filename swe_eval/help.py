"""What ``--help`` says of the fields: each as one would write it, and beside it its docstring in ``settings.py``."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, get_args

import yaml

from swe_eval.settings import Group, Settings

MEANING = 44
"""Column where the meaning of a field begins."""
NARROWEST, WIDEST = 80, 120
LONGEST = 90
"""Characters of a value; more are cut."""


def describe_fields(tree: Mapping[str, Any], width: int | None = None) -> str:
    """The fields of a composed configuration, whatever their values: ``group.field=value``, and what it means.

    Args:
        tree: interpolations in it stay as they are.
        width: of a line, in characters; by default the terminal's.
    """
    width = width or min(max(shutil.get_terminal_size((WIDEST, 0)).columns, NARROWEST), WIDEST)
    ordered = {name: tree[name] for name in Settings.model_fields if name in tree}
    return "\n".join(_describe(ordered, Settings, "", width))


def _describe(tree: Mapping[str, Any], group: type[Group], prefix: str, width: int) -> Iterator[str]:
    for name, value in tree.items():
        field = group.model_fields.get(name)
        if field is None or name == "kind":
            continue
        if inner := _group_of(field.annotation, value):
            meaning = _plain(inner.__doc__)
            title = meaning if meaning.startswith(f"{name}=") else f"{prefix}{name}: {meaning}"
            yield from ("", *textwrap.wrap(title, width))
            yield from _describe(value, inner, f"{prefix}{name}.", width)
        else:
            yield from _row(f"  {prefix}{name}={_written(value)}", _plain(field.description), width)


def _group_of(annotation: Any, value: Any) -> type[Group] | None:
    """The model of a group; of several, the one whose kind it is. None for a field."""
    for model in get_args(annotation) or (annotation,):
        if isinstance(value, Mapping) and isinstance(model, type) and issubclass(model, Group):
            kind = model.model_fields.get("kind")
            if kind is None or value.get("kind") in get_args(kind.annotation):
                return model
    return None


def _row(field: str, meaning: str, width: int) -> Iterator[str]:
    lines = textwrap.wrap(meaning, width - MEANING)
    if len(field) < MEANING - 1:
        yield f"{field:{MEANING}}{lines.pop(0) if lines else ''}".rstrip()
    else:
        yield field
    yield from (" " * MEANING + line for line in lines)


def _written(value: Any) -> str:
    text = value if isinstance(value, str) else yaml.safe_dump(value, default_flow_style=True, width=10 * WIDEST)
    text = " ".join(text.removesuffix("...\n").split())
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def _plain(docstring: str | None) -> str:
    return " ".join((docstring or "").replace("``", "").split())
