"""The validated configuration: what ``conf/`` composes, as one frozen tree, one model per group.

``conf/*.yaml`` holds the values, this file their meaning and the rules between them. Nothing past ``settings_from``
sees Hydra. A field marked ``Free`` may differ when a run is continued; every other field is part of what the run's
numbers mean, and a run directory refuses another value of it (see ``run_dir.py``).
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)

from swe_eval.errors import UserError

PACKAGE = Path(__file__).resolve().parent

BASE = "base"
ROLLOUT, GRADE = "rollout", "grade"

Free = "may differ when a run is continued"
NAME = r"(?!comparison$)(?!.*\.jsonl?$)[^\W_][\w.-]{0,99}"
"""What an arm may be called: it is a folder, and files beside others are named after it."""
AdapterName = Annotated[str, AfterValidator(lambda name: _fits(name))]
Place = Annotated[str, Field(min_length=1)]
"""A path or a hub id; what an unset variable of the shell leaves is none."""
Probability = Annotated[float, Field(gt=0, le=1)]
Size = Annotated[str, AfterValidator(lambda size: _is_size(size))]
"""Of memory or disk, as docker writes it."""
Memory = Annotated[Size, AfterValidator(lambda size: _holds_a_process(size))]


class Group(BaseModel):
    """A config group: frozen, no unknown keys, each field described by the docstring under it."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, protected_namespaces=(), allow_inf_nan=False
    )


class ModelSettings(Group):
    """The base model."""

    name: AdapterName
    """Short name, used in the name of the run."""
    base_model: Place
    """Hub id, or a directory in Hugging Face format."""
    revision: str | None
    """Hub revision; null is the default branch."""
    dtype: Literal["auto", "bfloat16", "float16", "float32"]
    """Type of the weights on the device; auto is the checkpoint's own."""
    max_model_len: PositiveInt | None
    """Context length in tokens; null is the model's own."""
    trust_remote_code: bool
    """Run Python code that comes with the model."""
    tool_call_parser: Literal["hermes", "qwen3_coder", "gigachat3", "none"] | None
    """How the model writes tool calls (Qwen: hermes); null goes by its chat template."""
    reasoning_parser: str | None
    """vLLM's name for how the model writes its thoughts, which are then kept out of the answer; null leaves them in."""
    vllm_env: dict[str, str]
    """Environment variables that vLLM needs for this model."""


class AdapterSettings(Group):
    """One arm of the evaluation: a LoRA adapter, or the bare base model."""

    name: AdapterName
    """Served model id, folder, and row in every table."""
    path: Annotated[Place | None, Free]
    """Directory with adapter_config.json; null is the base model itself. A run knows it by its content."""


class NoLora(Group):
    """``lora=none``: the base model alone."""

    kind: Annotated[Literal["none"], Free]

    @property
    def adapters(self) -> tuple[AdapterSettings, ...]:
        return (AdapterSettings(name=BASE, path=None),)


class _WithAdapters(Group):
    apply: Literal["auto", "runtime", "merge"]
    """runtime serves adapters beside the base model; merge makes one checkpoint of both, with a server of its own; auto
    merges exactly those adapters that the server could not apply whole."""
    proof: Annotated[Literal["none", "effect", "reference"], Free]
    """What log-probabilities must show before anything is rolled out. effect: every arm differs from every other;
    reference: also, each agrees with transformers running the merged adapter (on the CPU, with room for the model in
    memory)."""


class OneLora(_WithAdapters):
    """``lora=adapter|trained|baseline|demo``: one adapter, with or without the base model beside it."""

    kind: Annotated[Literal["one"], Free]
    name: Annotated[AdapterName, Free]
    """Name of the adapter."""
    path: Annotated[Place, Free]
    """Directory with adapter_config.json."""
    with_base: Annotated[bool, Free]
    """Evaluate the bare base model too, as the arm to compare with."""

    @property
    def adapters(self) -> tuple[AdapterSettings, ...]:
        return (*([AdapterSettings(name=BASE, path=None)] if self.with_base else []), _adapter(self.name, self.path))


class PairLora(_WithAdapters):
    """``lora=ab``: two arms on one server."""

    kind: Annotated[Literal["ab"], Free]
    baseline: Annotated[Place | None, Free]
    """Directory of adapter A; null is the base model itself."""
    trained: Annotated[Place, Free]
    """Directory of adapter B."""

    @property
    def adapters(self) -> tuple[AdapterSettings, ...]:
        return (_adapter("baseline", self.baseline), _adapter("trained", self.trained))


class ManyLora(_WithAdapters):
    """``lora=list``: any number of arms; the first is the one that the others are compared with."""

    kind: Annotated[Literal["list"], Free]
    adapters: Annotated[tuple[AdapterSettings, ...], Free]
    """``[{name: ..., path: ...}, ...]``; a path of null is the base model."""


class CheckpointsLora(_WithAdapters):
    """``lora=checkpoints``: what a training run has written so far, each checkpoint an arm."""

    kind: Annotated[Literal["checkpoints"], Free]
    run: Annotated[str | tuple[str, ...], Free]
    """Directory with ``checkpoint-<step>`` directories, a list of such, or a glob; arms are named ``<run>-<step>``."""
    every: Annotated[PositiveInt, Free]
    """Take each n-th checkpoint, counted from the last one."""
    first: Annotated[NonNegativeInt | None, Free]
    """First step to take; null is the earliest."""
    last: Annotated[NonNegativeInt | None, Free]
    """Last step to take; null is the latest."""
    with_base: Annotated[bool, Free]
    """Evaluate the bare base model too, as the arm to compare with."""
    per_job: Annotated[PositiveInt, Free]
    """Arms that share a job and its server in a sweep (``experiment=checkpoints``); a single run has all of them."""
    only: Annotated[tuple[str, ...] | None, Free]
    """Names of the arms to take, whatever ``every``, ``first`` and ``last`` say; a sweep sets it for each job."""
    adapters: Annotated[tuple[AdapterSettings, ...], Free]
    """Found in ``run``."""


LoraSettings = Annotated[NoLora | OneLora | PairLora | ManyLora | CheckpointsLora, Field(discriminator="kind")]


class OwnServing(Group):
    """A server that we start, base and adapters in one copy of the weights."""

    host: Annotated[str, Free]
    """Address to listen on."""
    port: Annotated[int | None, Field(ge=1, le=65535), Free]
    """Port to listen on; null takes a free one."""
    api_key: Annotated[SecretStr | None, AfterValidator(lambda key: _is_key(key)), Free]
    """Bearer key that clients must send; null makes a random one."""
    startup_timeout: Annotated[PositiveFloat, Free]
    """Seconds within which every adapter must answer."""
    gpu_memory_utilization: Annotated[Probability, Free]
    """Fraction of a GPU's memory for weights, adapters and KV cache."""

    def key(self) -> str:
        """``api_key``, or a random one."""
        return (self.api_key and self.api_key.get_secret_value()) or secrets.token_urlsafe()


class TransformersServing(OwnServing):
    """``serving=transformers``: our own server in its own process, base and adapters in one copy of the weights."""

    kind: Literal["transformers"]
    device: Literal["auto", "cpu", "cuda"]
    """Where the model runs; auto takes CUDA if it is there."""
    prefix_cache_gb: Annotated[NonNegativeFloat | None, Free]
    """Device memory for what conversations have read already, in GB (10^9 bytes); null is a share of what is free."""

    @property
    def min_devices(self) -> int:
        """GPUs that a server of this kind takes."""
        return 1


class VllmServing(OwnServing):
    """``serving=vllm``: vLLM in its own environment, base and adapters in one copy of the weights."""

    kind: Literal["vllm"]
    python: Annotated[str | None, Free]
    """The Python that has vLLM; null is this one if it does, else what ``make vllm`` made."""
    command: Annotated[str | None, Free]
    """What to run instead of ``<python> -m vllm.entrypoints.openai.api_server``, say in a container; it must pass on
    the arguments, VLLM_API_KEY and SIGTERM."""
    max_num_seqs: Annotated[PositiveInt | None, Free]
    """Requests decoded at once; null is vLLM's own number."""
    max_loras: Annotated[PositiveInt | None, Free]
    """Adapters held at once, each with room for the largest rank; null is all, but at most 8. More arms take turns."""
    tensor_parallel_size: Annotated[PositiveInt | None, Free]
    """GPUs that share one copy of the weights; null is all that the server has."""
    data_parallel_size: Annotated[PositiveInt, Free]
    """Copies of the weights. With more than one, a turn may reach a copy that has not read the turns before it."""
    args: tuple[str, ...]
    """Further arguments for vLLM; they win over ours."""
    env: dict[str, str]
    """Further environment variables for vLLM."""

    @property
    def slots(self) -> int:
        """Adapters held at once."""
        return self.max_loras or 8

    def gpus_per_copy(self, visible: int) -> int:
        """GPUs that share one copy of the weights, of so many that the server has."""
        return self.tensor_parallel_size or max(1, visible // self.data_parallel_size)

    @property
    def min_devices(self) -> int:
        """GPUs that a server of this kind takes at least."""
        return (self.tensor_parallel_size or 1) * self.data_parallel_size


class ExternalServing(Group):
    """``serving=external``: an OpenAI-compatible endpoint that already runs."""

    kind: Literal["external"]
    base_url: Annotated[str, Field(pattern=r"^https?://[^@]+$"), AfterValidator(lambda url: _is_url(url)), Free]
    """URL up to and including ``/v1``, without a password (use ``api_key_env``)."""
    api_key_env: Annotated[str | None, Free]
    """Name of the environment variable that holds the key; null if none is needed."""
    models: dict[str, str]
    """The endpoint's model id by adapter name, where the two differ."""
    startup_timeout: Annotated[PositiveFloat, Free]
    """Seconds within which every adapter must answer."""


ServingSettings = Annotated[TransformersServing | VllmServing | ExternalServing, Field(discriminator="kind")]


class QuantizationSettings(Group):
    """``quantization=none|8bit|4bit|fp8``: how the base model's weights are stored.

    none keeps them as they are; our own server has 8bit (LLM.int8()) and 4bit (NF4), vLLM has fp8.
    """

    kind: Literal["none", "8bit", "4bit", "fp8"]
    """none keeps the weights as they are; 8bit is LLM.int8(), 4bit is NF4, both by bitsandbytes and our own server;
    fp8 is vLLM's."""


class BenchmarkSettings(Group):
    """Which instances are run."""

    name: AdapterName
    """Short name, used in the name of the run."""
    dataset: Annotated[str, Free]
    """Hub id, a .json/.jsonl/.parquet file, a directory with <split>.parquet, or a swebench task repo."""
    split: str
    """Split of the dataset; a file has none."""
    revision: Annotated[str | None, Free]
    """Revision of a hub dataset; null is the newest. A run knows its dataset by the rows."""
    instance_ids: Annotated[tuple[str, ...] | None, Field(min_length=1), Free]
    """Only these instances; null is all."""
    filter: Annotated[str | None, AfterValidator(lambda pattern: _is_regex(pattern)), Free]
    """Of these, those whose instance_id matches this regular expression from its start."""
    slice: Annotated[str | None, AfterValidator(lambda text: _is_slice(text)), Free]
    """Of these, a part, as Python slices a list: 0:50, -20:, ::2."""
    sample: Annotated[PositiveInt | None, Free]
    """Of these, so many drawn at random; a larger sample contains the smaller one."""
    sample_seed: Annotated[int, Free]
    """Seed of that draw; by default the run's."""
    max_instances: Annotated[PositiveInt | None, Free]
    """Of these, the first so many; null is all."""
    shard: Annotated[str | None, AfterValidator(lambda shard: _is_shard(shard)), Free]
    """Of these, one part of several: 1/4, 2/4, ... Each part is a run of its own, and no instance is in two."""
    grading_timeout: PositiveFloat
    """Seconds that the tests of one instance may take (1800 in the official harness)."""

    @property
    def is_bundled(self) -> bool:
        """Whether the tasks are ours: only those may run without isolation."""
        return Path(self.dataset).resolve().is_relative_to(PACKAGE)


class AgentSettings(Group):
    """mini-swe-agent's own configuration with our settings on top."""

    mini_config: Literal["swebench", "swebench_backticks"]
    """mini-swe-agent's own benchmark config; it has every template that is null here."""
    actions: Literal["toolcall", "textbased"]
    """How the model gives a command: a tool call, or a block of triple backticks."""
    system_template: str | None
    """First message (Jinja); null is mini_config's."""
    instance_template: str | None
    """Second message (Jinja, ``{{task}}``); null is mini_config's."""
    observation_template: str | None
    """What the model sees of a command's result (Jinja); null is mini_config's."""
    format_error_template: str | None
    """What the model sees when its answer has no command (Jinja); null is mini_config's."""
    max_turns: PositiveInt
    """Model calls per trial; after the last, it ends with LimitsExceeded."""
    max_tokens: PositiveInt
    """Tokens per answer."""
    temperature: Annotated[float, Field(ge=0)]
    """Sampling temperature; 0 is greedy."""
    top_p: Probability
    """Nucleus sampling; 1 takes every token into account."""
    command_timeout: PositiveFloat
    """Seconds per command."""
    wall_time_limit: PositiveFloat
    """Seconds per trial; after that, it ends with TimeExceeded."""
    samples: PositiveInt
    """Trials per adapter and instance."""
    rescue: bool
    """Grade the changes to tracked files of an agent that stops without submitting (labelled ``rescued``)."""
    model_retries: Annotated[PositiveInt, Free]
    """Attempts per model call when the endpoint fails."""


class EngineSandbox(Group):
    """A container per rollout and one per grading, of an engine that takes docker's arguments."""

    executable: Annotated[str, Free]
    """The engine's command, or one that takes the same arguments."""
    network: str
    """Network of the agent's container; none keeps it from looking up the fix."""
    grading_network: str
    """Network of the container that runs the tests; the official harness has one."""
    memory: Memory
    """Memory per container, as docker writes it; none of it is swapped."""
    pids_limit: PositiveInt
    """Processes per container."""
    cpus: PositiveFloat | None
    """CPUs per container; null is all."""
    start_timeout: Annotated[PositiveFloat, Free]
    """Seconds to get an image and start a container of it."""
    min_free_gb: Annotated[NonNegativeFloat, Free]
    """GB (10^9 bytes) to keep free where the engine has its images; those that runs pulled make room."""
    build_args: Annotated[dict[str, str], Free, Field(exclude=True)]
    """Build arguments for images that a task repo builds itself. They may be secret, and are written to no file."""


class DockerSandbox(EngineSandbox):
    """``sandbox=docker``: one container per rollout and one per grading."""

    kind: Literal["docker"]


class PodmanSandbox(EngineSandbox):
    """``sandbox=podman``: as docker, without a daemon and without root."""

    kind: Literal["podman"]


class StoreSandbox(Group):
    """A sandbox of an image that lies unpacked in our own store: no engine, no root."""

    source: Annotated[str, Free]
    """Where missing images come from, before their name: ``docker://`` is their registry, ``docker://mirror.site/`` a
    mirror; anything else skopeo reads: ``docker-daemon:``, ``containers-storage:``, ``docker-archive:/file.tar:``."""
    store: Annotated[Path | None, Free]
    """Directory of the unpacked images, on a local disk or on one that nodes share; null is in the user's cache."""
    scratch: Annotated[Path | None, Free]
    """Directory on a local disk for what sandboxes write; null is the one for temporary files (``TMPDIR``)."""
    grading_network: Literal["host", "none"]
    """Network of the tests: this machine's, as in the official harness, or none. The agent never has one."""
    memory: Memory
    """Memory per sandbox, as docker writes it; a watchdog kills the largest process when all together take more."""
    pids_limit: PositiveInt
    """Processes per sandbox."""
    disk: Size
    """What a sandbox may write; past it, everything in it is killed."""
    start_timeout: Annotated[PositiveFloat, Free]
    """Seconds to get an image and start a sandbox of it."""
    min_free_gb: Annotated[NonNegativeFloat, Free]
    """GB (10^9 bytes) to keep free where the store is; images that no run needs make room."""


class BubblewrapSandbox(StoreSandbox):
    """``sandbox=bubblewrap``: namespaces of this machine's kernel, nothing installed but bubblewrap."""

    kind: Literal["bubblewrap"]


class ApptainerSandbox(StoreSandbox):
    """``sandbox=apptainer``: as bubblewrap, with Apptainer in its place."""

    kind: Literal["apptainer"]


class LocalSandbox(Group):
    """``sandbox=local``: a temporary directory on this machine, without isolation; for the bundled demo only."""

    kind: Literal["local"]


class AutoSandbox(Group):
    """``sandbox=auto``: the first of these that works on this machine."""

    kind: Literal["auto"]
    docker: DockerSandbox
    """Tried first."""
    podman: PodmanSandbox
    """Tried next."""
    bubblewrap: BubblewrapSandbox
    """Tried after these."""
    apptainer: ApptainerSandbox
    """Tried last."""

    @property
    def in_order(self) -> tuple[DockerSandbox | PodmanSandbox | BubblewrapSandbox | ApptainerSandbox, ...]:
        """As they are tried."""
        return self.docker, self.podman, self.bubblewrap, self.apptainer


SandboxSettings = Annotated[
    DockerSandbox | PodmanSandbox | BubblewrapSandbox | ApptainerSandbox | AutoSandbox | LocalSandbox,
    Field(discriminator="kind"),
]


class NoTracking(Group):
    """``tracking=none``: the figures stay in the run directory."""

    kind: Literal["none"]


class WandbTracking(Group):
    """``tracking=wandb``: the report's figures go to Weights & Biases when a run ends."""

    kind: Literal["wandb"]
    project: str
    """Project that the run belongs to."""
    entity: str | None
    """User or team; null is the owner of the key."""
    mode: Literal["online", "offline"]
    """offline keeps the figures in the run directory, for a later wandb sync."""


class MlflowTracking(Group):
    """``tracking=mlflow``: the report's figures go to MLflow when a run ends."""

    kind: Literal["mlflow"]
    uri: str | None
    """Tracking server, or a store (sqlite:////data/mlflow.db); null is MLFLOW_TRACKING_URI, or mlflow's default."""
    experiment: str
    """Experiment that the run belongs to; created if it does not exist."""


TrackingSettings = Annotated[NoTracking | WandbTracking | MlflowTracking, Field(discriminator="kind")]


class Settings(Group):
    """One evaluation."""

    name: Annotated[str, AfterValidator(lambda name: _is_below(name)), Free]
    """Name of the run, and of its directory; a slash makes a directory of several."""
    output_dir: Annotated[Path, AfterValidator(lambda path: _is_named(path)), Free]
    """The run directory; the same directory continues the run in it."""
    seed: NonNegativeInt
    """Seeds the sampling of every trial."""
    stages: Annotated[tuple[Literal["rollout", "grade"], ...], AfterValidator(lambda stages: _is_some(stages)), Free]
    """rollout leaves predictions, grade their verdicts. grade alone starts no server: it grades the predictions that
    have no verdict yet, or, where all of them have one, all again."""
    workers: Annotated[int | Literal["auto"], BeforeValidator(lambda given: _is_auto_or_positive(given)), Free]
    """Rollouts at once; auto runs as many as the server has memory for, or four where it does not tell."""
    grade_workers: Annotated[PositiveInt, Free]
    """Gradings at once."""
    model: ModelSettings
    lora: LoraSettings
    serving: ServingSettings
    quantization: QuantizationSettings
    benchmark: BenchmarkSettings
    agent: AgentSettings
    sandbox: SandboxSettings
    tracking: Annotated[TrackingSettings, Free]
    """Where the report's figures go when a run ends; a tracker that fails costs a line."""

    @property
    def adapters(self) -> tuple[AdapterSettings, ...]:
        """The arms, the reference first."""
        return self.lora.adapters

    @field_validator("lora")
    @classmethod
    def _names_are_unique(cls, lora: Any) -> Any:
        names = [adapter.name for adapter in lora.adapters]
        if not names:
            raise ValueError("no adapter is named: write lora=none for the base model alone")
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two adapters are named {twice[0]!r}: give each its own name")
        return lora

    @model_validator(mode="after")
    def _combination_exists(self) -> Settings:
        for wrong, line in self._impossible():
            if wrong:
                raise ValueError(line)
        return self

    def _impossible(self) -> Iterator[tuple[bool, str]]:
        yield (
            self.quantization.kind != "none" and self.serving.kind == "external",
            f"quantization={self.quantization.kind}: serving=external is a server that already runs; quantize it "
            "there and write quantization=none",
        )
        yield (
            self.quantization.kind in ("8bit", "4bit") and self.serving.kind == "vllm",
            f"quantization={self.quantization.kind}: bitsandbytes left vLLM in 0.28; write quantization=fp8, or "
            "serving=transformers",
        )
        yield (
            self.quantization.kind == "fp8" and self.serving.kind == "transformers",
            "quantization=fp8: serving=transformers has 8bit and 4bit; write one of them, or serving=vllm",
        )
        yield (
            self.agent.actions == "toolcall" and self.serving.kind == "vllm" and self.model.tool_call_parser is None,
            "agent.actions=toolcall: vLLM must be told how the model writes tool calls; write "
            "model.tool_call_parser=..., or agent=textbased",
        )
        yield (
            self.model.reasoning_parser is not None and self.serving.kind == "transformers",
            f"model.reasoning_parser={self.model.reasoning_parser}: serving=transformers leaves thoughts in "
            "the answer; write null, or serving=vllm",
        )
        merges = self.lora.kind != "none" and self.lora.apply == "merge"
        yield (
            merges and self.serving.kind == "external",
            "lora.apply=merge: serving=external is a server that already runs; have it serve what python -m "
            "swe_eval.merging merge makes, and write lora.apply=runtime",
        )
        yield (
            self.quantization.kind != "none" and self.lora.kind != "none" and self.lora.proof == "reference",
            f"lora.proof=reference: quantization={self.quantization.kind} rounds the weights that the reference has; "
            "write lora.proof=effect, or quantization=none",
        )
        yield (
            self.sandbox.kind == "local" and not self.benchmark.is_bundled,
            f"sandbox=local: benchmark={self.benchmark.name} would run foreign code on this machine without "
            "isolation; write sandbox=auto",
        )
        yield (
            self.agent.actions == "toolcall" and self.model.tool_call_parser == "none",
            "agent.actions=toolcall: model.tool_call_parser=none leaves tool calls unread; write another, or "
            "agent=textbased",
        )
        yield (
            self.model.max_model_len is not None and self.agent.max_tokens >= self.model.max_model_len,
            f"agent.max_tokens={self.agent.max_tokens}: no room for a prompt in model.max_model_len="
            f"{self.model.max_model_len}; write a smaller agent.max_tokens",
        )


def conf_dir() -> Path:
    """``conf/``: inside an installed wheel, beside the package in a checkout."""
    inside = PACKAGE / "conf"
    return inside if inside.is_dir() else PACKAGE.parent / "conf"


def settings_from(composed: Mapping[str, Any]) -> Settings:
    """Validate a resolved configuration.

    Raises:
        UserError: one line per wrong field: its path, what is wrong, what was given.
    """
    if missing := [path for path, value in flatten(composed) if value == "???"]:
        raise UserError("\n".join(f"{path}: needs a value: write {path}=..." for path in missing))
    try:
        return Settings.model_validate(composed)
    except ValidationError as error:
        raise UserError("\n".join(_line(item) for item in error.errors())) from None


def result_settings(settings: Settings) -> dict[str, Any]:
    """The fields that a run's numbers depend on, as ``{"agent.max_turns": 30, ...}``."""
    return dict(flatten(_without_free(settings)))


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """``{"a": {"b": 1}}`` as ``("a.b", 1)``."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _fits(name: str) -> str:
    if not re.fullmatch(NAME, name):
        raise ValueError(f"{name!r} cannot be a file name here; write letters, digits, '.', '_' and '-'")
    return name


def is_header(text: str) -> bool:
    """Whether HTTP can send it."""
    return text.isascii() and text.isprintable()


def _is_key(key: SecretStr | None) -> SecretStr | None:
    if key and not is_header(key.get_secret_value()):
        raise ValueError("has characters that HTTP cannot send; write letters and digits")
    return key


def _is_url(url: str) -> str:
    try:
        urlsplit(url).port  # noqa: B018 - it raises
    except ValueError as error:
        raise ValueError(f"{url!r} is no address ({error}); write http://HOST:PORT/v1") from None
    return url


def _is_some(stages: tuple[str, ...]) -> tuple[str, ...]:
    if not stages:
        raise ValueError("is empty; write [rollout,grade], or one of them")
    return stages


def _is_regex(pattern: str | None) -> str | None:
    try:
        re.compile(pattern or "")
    except re.error as error:
        raise ValueError(f"{pattern!r} is not a regular expression ({error})") from None
    return pattern


def _is_slice(text: str | None) -> str | None:
    if not re.fullmatch(r"(-?\d+)?:(-?\d+)?(:(?!-?0+$)(-?\d+)?)?", text or ":"):
        raise ValueError(f"{text!r} is no slice; write START:STOP as Python does: 0:50, -20: or ::2")
    return text


def _is_shard(shard: str | None) -> str | None:
    found = re.fullmatch(r"(\d+)/(\d+)", shard or "1/1")
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise ValueError(f"{shard!r} is no part of a whole; write 1/4, 2/4, 3/4 or 4/4")
    return shard


def nbytes(size: str) -> int:
    """``1g`` is 2^30."""
    number, unit = re.fullmatch(r"([\d.]+)([bkmg]?)b?", size.lower()).groups()  # type: ignore[union-attr]
    return int(float(number) * 1024 ** "bkmg".index(unit or "b"))


def _is_size(size: str) -> str:
    if not re.fullmatch(r"\d+(\.\d+)?[bkmg]?b?", size.lower()):
        raise ValueError(f"{size!r} is no size; write 8g, or 512m")
    return size


def _holds_a_process(size: str) -> str:
    if nbytes(size) < 6 * 2**20:  # Docker's limit
        raise ValueError(f"{size!r} is too little for a container; write 8g, or 512m")
    return size


def _is_below(name: str) -> str:
    if {"", ".", ".."} & set(name.split("/")):
        raise ValueError(f"{name!r} names no directory below outputs; write a name, or output_dir=... to go elsewhere")
    return name


def _is_named(path: Path) -> Path:
    if path == Path():
        raise ValueError("is empty; write the directory of the run")
    return path


def _is_auto_or_positive(workers: Any) -> Any:
    if workers == "auto" or (type(workers) is int and workers > 0):
        return workers
    raise ValueError(f"write auto, or how many rollouts at once, not {workers!r}")


def _adapter(name: str, path: str | None) -> AdapterSettings:
    return AdapterSettings(name=name, path=path)


def _without_free(group: Group) -> dict[str, Any]:
    kept = {}
    for name, field in type(group).model_fields.items():
        value = getattr(group, name)
        if Free not in field.metadata:
            kept[name] = _without_free(value) if isinstance(value, Group) else group.model_dump(mode="json")[name]
    return kept


def _line(error: Any) -> str:
    path = ".".join(str(part) for part in error["loc"] if part not in _KINDS)
    text = error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        text = "unknown key; take it out"
    elif error["type"] == "missing":
        text = "needs a value"
    elif error["type"] == "path_type":
        text = f"should be a path, not {error['input']!r}"
    elif error["type"] == "tuple_type":
        text = f"is a list; write [{error['input']}]"
    elif error["type"] != "value_error":
        text = f"{text[0].lower()}{text[1:]}, not {error['input']!r}"
    return f"{path}: {text}" if path else text


# pydantic puts the discriminator's value into the path of an error: lora.one.path
_KINDS = {
    get_args(group.model_fields["kind"].annotation)[0]
    for union in (LoraSettings, ServingSettings, SandboxSettings, TrackingSettings)
    for group in get_args(get_args(union)[0])
}
