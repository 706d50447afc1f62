"""What an adapter's two files say: the configuration, validated, and the tensors in pairs, by their headers."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, PositiveFloat, PositiveInt, ValidationError, field_validator

from swe_eval.adapters.tensors import Damaged, Tensor, read_header
from swe_eval.errors import ServingError
from swe_eval.settings import AdapterSettings

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
_PAIRED = re.compile(rf"{re.escape(PREFIX)}(?P<module>.+)\.lora_(?P<side>[AB])\.weight")


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with an adapter."""

    kind: str
    """Short, for programs: ``wrong base``."""
    text: str
    """For people: file, tensor, what is wrong, what to do; one line."""
    severity: Literal["problem", "warning"] = "problem"


class Unreadable(Exception):
    """An adapter whose files cannot be understood."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("; ".join(problem.text for problem in problems))
        self.problems = problems


class LoraConfig(BaseModel):
    """``adapter_config.json``: the fields that say what the weights mean. Others are kept in ``model_extra``."""

    model_config = ConfigDict(extra="allow", frozen=True)

    peft_type: Literal["LORA"]
    r: PositiveInt
    lora_alpha: PositiveFloat
    target_modules: str | list[str] | None = None
    target_parameters: list[str] | None = None
    exclude_modules: str | list[str] | None = None
    layers_to_transform: int | list[int] | None = None
    layers_pattern: str | list[str] | None = None
    rank_pattern: dict[str, PositiveInt] | None = None
    alpha_pattern: dict[str, PositiveFloat] | None = None
    use_rslora: bool = False
    lora_dropout: float = 0
    init_lora_weights: bool | str | None = True
    base_model_name_or_path: str | None = None

    @field_validator("target_modules", "exclude_modules", "rank_pattern", "alpha_pattern")
    @classmethod
    def _patterns_compile(cls, value: Any) -> Any:
        for pattern in [value] if isinstance(value, str) else value if isinstance(value, dict) else ():
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is no regular expression ({error})") from None
        return value

    @property
    def largest_rank(self) -> int:
        """Of all that it names, whether there is a pair of that rank or not."""
        return max([self.r, *(self.rank_pattern or {}).values()])

    def rank(self, key: str) -> int:
        """Rank of the pair at a module, or a parameter of a module."""
        return int(_by_pattern(self.rank_pattern, key, self.r))

    def alpha(self, key: str) -> float:
        """See ``rank``."""
        return _by_pattern(self.alpha_pattern, key, self.lora_alpha)

    def scale(self, key: str) -> float:
        """What B @ A is multiplied by."""
        rank = self.rank(key)
        return self.alpha(key) / (math.sqrt(rank) if self.use_rslora else rank)


@dataclass(frozen=True)
class Pair:
    """The two matrices of one module; one of them is None when the file lacks it."""

    module: str
    a: Tensor | None = None
    b: Tensor | None = None

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return tuple(filter(None, (self.a, self.b)))


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter, its values unread."""

    folder: Path
    config: LoraConfig
    pairs: Mapping[str, Pair]
    """By module, ``base_model.model.`` taken off."""
    strays: tuple[Tensor, ...]
    """Tensors of other names."""


def read_adapter(folder: Path) -> Adapter:
    """Read configuration and header.

    Raises:
        Unreadable: with everything that is wrong with the files.
    """
    found = [*_file_problems(folder)]
    config = weights = None
    if not any(problem.kind == "no config" for problem in found):
        config = _read_config(folder / CONFIG, found)
    if (folder / WEIGHTS).is_file():
        weights = _read_weights(folder / WEIGHTS, found)
    if found or config is None or weights is None:
        raise Unreadable(found)
    return Adapter(folder, config, _pairs(weights), tuple(t for t in weights.values() if not _PAIRED.fullmatch(t.name)))


def content_hash(adapter: AdapterSettings) -> str:
    """SHA-256 over the adapter's configuration and weights (``base`` for the bare base model): its identity.

    One that is not on this machine, or of other files (``serving=external``), is known by its path alone.
    """
    if adapter.path is None:
        return "base"
    files = [Path(adapter.path) / name for name in (CONFIG, WEIGHTS)]
    if not all(map(Path.is_file, files)):
        return f"path:{adapter.path}"
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as content:
            while block := content.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def refuse_changed(adapter: AdapterSettings, content: str) -> None:
    """Raise ServingError if the adapter on the disk is no longer of this content; see ``content_hash``."""
    with suppress(OSError):
        if content_hash(adapter) == content:
            return
    raise ServingError(
        f"lora: {adapter.name}: {adapter.path} was changed while the run went on; put the old files back"
    )


def _by_pattern(patterns: Mapping[str, float] | None, key: str, default: float) -> float:
    """PEFT's rule (``get_pattern_key``): the first pattern that matches the end of the name."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", key):
            return value
    return default


def _file_problems(folder: Path) -> Iterator[Problem]:
    if not (folder / CONFIG).is_file():
        yield Problem("no config", f"no {CONFIG} in {folder}; {_where_instead(folder)}")
    elif not (folder / WEIGHTS).is_file():
        if (folder / "adapter_model.bin").is_file():
            yield Problem(
                "pickled",
                f"{folder / 'adapter_model.bin'} is a pickle, which can run code when it is read; convert it where it "
                f"is trusted: safetensors.torch.save_file(torch.load('adapter_model.bin', weights_only=True), "
                f"'{WEIGHTS}')",
            )
        else:
            yield Problem("no weights", f"no {WEIGHTS} in {folder}; save the adapter again with save_pretrained")


def _where_instead(folder: Path) -> str:
    if (folder / "config.json").is_file():
        return f"it is a whole model: write model=hf model.base_model={folder} lora=none"
    nested = sorted(folder.glob(f"*/{CONFIG}")) + sorted(folder.glob(f"*/*/{CONFIG}"))
    return f"did you mean {nested[0].parent}?" if nested else "write the path of an adapter"


def _read_config(file: Path, found: list[Problem]) -> LoraConfig | None:
    try:
        parsed: Any = json.loads(file.read_text())
        return LoraConfig.model_validate(parsed)
    except ValidationError as error:
        for item in error.errors():
            field = ".".join(map(str, item["loc"][:1])) or "the whole"
            found.append(_config_problem(file, field, item))
    except ValueError as error:
        found.append(Problem("bad config", f"{file} is not JSON ({error}); save the adapter again"))
    return None


def _config_problem(file: Path, field: str, item: Any) -> Problem:
    if item["type"] == "missing":
        return Problem("bad config", f"{file} has no {field}; save the adapter again with save_pretrained")
    text = item["msg"].removeprefix("Value error, ")
    if field == "peft_type":
        return Problem("not LoRA", f"{file}: peft_type is {item['input']!r}; only LORA adapters can be evaluated")
    return Problem("bad config", f"{file}: {field} is {item['input']!r}: {text}; correct what wrote it")


def _read_weights(file: Path, found: list[Problem]) -> dict[str, Tensor] | None:
    try:
        weights = read_header(file).tensors
    except Damaged as error:
        found.append(Problem("damaged", f"{file} is cut off or damaged ({error}); copy it again"))
        return None
    if not weights:
        found.append(Problem("empty", f"{file} holds no tensors; save the adapter again with save_pretrained"))
    return weights


def _pairs(weights: Mapping[str, Tensor]) -> dict[str, Pair]:
    sides: dict[str, dict[str, Tensor]] = {}
    for tensor in weights.values():
        if found := _PAIRED.fullmatch(tensor.name):
            sides.setdefault(found["module"], {})[found["side"].lower()] = tensor
    return {module: Pair(module, **both) for module, both in sides.items()}
