"""``python -m swe_eval.doctor``: every precondition of a run checked, nothing started, nothing written."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from swe_eval import command, tracking
from swe_eval.adapters import BACKENDS, MUST_MERGE, Examined, examine, model_folder, read_base, refusals
from swe_eval.benchmark import instances
from swe_eval.benchmark.instances import Benchmark
from swe_eval.errors import ServingError, UserError
from swe_eval.preconditions import Finding, check_chat, check_machine, check_slurm
from swe_eval.run_dir import RunDir
from swe_eval.sandbox.node import describe
from swe_eval.sandbox.sandbox import connect
from swe_eval.settings import ROLLOUT, ModelSettings, Settings

PACKAGES = {"transformers": ("torch", "transformers", "peft", "accelerate", "fastapi", "uvicorn")}
"""What must be importable where the server runs, by ``serving.kind``."""
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "tiktoken.model")
NOT_THIS_BASE = {"wrong base", "unknown module", "beyond the model"}


def main() -> None:
    """Console entry point."""
    command.run(_doctor)


def _doctor(settings: Settings) -> int:
    console = Console(highlight=False, soft_wrap=True)
    findings = [_guarded(lambda: _model(settings.model))]
    has_model = not _has_problem(findings)
    examined = examine(settings.adapters, settings.model) if has_model else []
    if examined:
        console.print(adapter_table(examined))
    findings += [finding for each in examined for finding in _adapter(each, settings)]
    findings += [_guarded(lambda: _tracking(settings))] if settings.tracking.kind != "none" else []
    findings += [_guarded(lambda: _server(settings))] if ROLLOUT in settings.stages else []
    findings += check_machine(settings) if has_model else []
    findings += [*check_slurm(), *_sandbox(settings)]
    findings += _benchmark_and_run(settings, has_model, with_run=not _has_problem(findings))
    for finding in findings:
        first, *rest = finding.text.splitlines()
        console.print(f"{finding.state:8} {escape(first)}")
        for line in rest:
            console.print(f"{'':8} {escape(line)}")
    return command.BAD_INPUT if _has_problem(findings) else command.OK


def adapter_table(examined: Iterable[Examined]) -> Table:
    """A row per adapter: what it is, and what each backend can do with it."""
    table = Table("adapter", "rank", "targets", "MiB", "base", box=SIMPLE)
    for backend in BACKENDS:
        table.add_column(backend, no_wrap=True)
    for each in examined:
        ranks = sorted({each.ranks[0], each.ranks[-1]}) if each.ranks else []
        cells = [each.name, "-".join(map(str, ranks)) or "?", ", ".join(each.targets) or "?"]
        verdicts = [each.verdicts[backend].kind for backend in BACKENDS]
        table.add_row(*cells, f"{each.size / 2**20:.1f}", _base(each), *verdicts)
    return table


def _guarded(call: Callable[[], Finding]) -> Finding:
    try:
        return call()
    except (UserError, ServingError) as error:
        return Finding("problem", str(error))


def _has_problem(findings: Iterable[Finding]) -> bool:
    return any(finding.state == "problem" for finding in findings)


def _model(model: ModelSettings) -> Finding:
    base, folder = read_base(model), model_folder(model)
    if folder and not any((folder / name).is_file() for name in TOKENIZERS):
        return Finding("problem", f"model.base_model={folder}: no tokenizer in it; copy the whole model")
    if folder is None and os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        text = f"model.base_model={model.base_model} is not on this machine, and HF_HUB_OFFLINE keeps it from coming"
        return Finding("problem", f"{text}; download it, write its directory, or unset HF_HUB_OFFLINE")
    if base.unknown:
        return Finding("warning", f"model.base_model: {base.unknown}: adapters cannot be compared with it")
    return Finding("ok", f"model.base_model={model.base_model}: {len(base.linear)} modules that LoRA can change")


def _base(examined: Examined) -> str:
    kinds = {problem.kind for problem in examined.problems}
    if examined.adapter is None or "base unknown" in kinds:
        return "unchecked"
    if kinds & NOT_THIS_BASE:
        return "another"
    return "fits, other name" if "other base" in kinds else "fits"


def _adapter(examined: Examined, settings: Settings) -> Iterator[Finding]:
    backend = settings.serving.kind
    if backend not in BACKENDS:
        yield Finding(
            "warning", f"lora: {examined.name}: whether serving={backend} applies it exactly is not known here"
        )
        return
    problems = refusals(examined, settings)
    yield from (Finding("problem", line) for line in problems)
    yield from (Finding("warning", f"lora: {examined.name}: {line}") for line in examined.warnings)
    if not problems:
        merged = "will be merged: " if examined.verdicts[backend].kind == MUST_MERGE else ""
        yield Finding("ok", f"lora: {examined.name}: {merged}serving={backend} applies all of it")


def _tracking(settings: Settings) -> Finding:
    line = tracking.check(settings)
    return Finding("warning" if line else "ok", line or f"tracking={settings.tracking.kind}: it is installed")


def _server(settings: Settings) -> Finding:
    from swe_eval.serving.external import unlisted
    from swe_eval.serving.parts import preflight

    kind, program = settings.serving.kind, preflight(settings)
    if kind == "vllm":
        return Finding("ok", f"serving=vllm: {program}")
    if settings.serving.kind == "external":
        line = unlisted(settings)
        listed = f"{settings.serving.base_url.rstrip('/')} lists every model that is asked for"
        return Finding("warning" if line else "ok", f"serving=external: {line or listed}")
    wanted = [*PACKAGES[kind], *(["bitsandbytes"] if settings.quantization.kind != "none" else [])]
    if missing := [name for name in wanted if find_spec(name) is None]:
        remedy = "write pip install 'swe_eval[serve]'"
        return Finding("problem", f"serving={kind}: not installed: {', '.join(missing)}; {remedy}")
    return Finding("ok", f"serving={kind}: {len(wanted)} packages that it needs are installed")


def _sandbox(settings: Settings) -> Iterator[Finding]:
    """The backend that was chosen; if it does not work, what the machine offers, and what else would."""
    try:
        backend = connect(settings.sandbox, "doctor")
    except UserError as error:
        yield Finding("problem", str(error))
        yield Finding("warning", f"this machine: {', '.join(describe(Path(tempfile.gettempdir())))}")
        yield from _another_sandbox(settings)
    else:
        yield Finding("ok", backend.chosen or f"sandbox={settings.sandbox.kind}: works")


def _another_sandbox(settings: Settings) -> Iterator[Finding]:
    if settings.sandbox.kind in ("auto", "local"):  # all of them have been tried, or none would do
        return
    auto = command.settings_of("sandbox=auto").sandbox
    assert auto.kind == "auto"
    for option in auto.in_order:
        with suppress(UserError):
            if option.kind != settings.sandbox.kind:
                connect(option, "doctor")
                yield Finding("ok", f"sandbox={option.kind} would work")


def _benchmark_and_run(settings: Settings, has_model: bool, with_run: bool) -> list[Finding]:
    from swe_eval.plan import identify  # late: it brings all that a run needs

    try:
        benchmark = instances.load(settings.benchmark)
    except UserError as error:
        return [Finding("problem", str(error))]
    selected = {instance.instance_id: instance for instance in benchmark.instances}
    found = [Finding("ok", f"benchmark={settings.benchmark.name}: {len(selected)} instances selected")]
    found += check_chat(settings, selected) if has_model else []
    found += _images(settings, benchmark)
    if with_run:  # without sound adapters a run has no identity
        found.append(_guarded(lambda: _run(settings, identify(settings, benchmark))))
    return found


def _images(settings: Settings, benchmark: Benchmark) -> Iterator[Finding]:
    with suppress(UserError):  # that the engine does not answer is said already
        if planned := connect(settings.sandbox, "doctor").plan(benchmark.instances):
            yield Finding("ok", planned)


def _run(settings: Settings, identity: dict[str, object]) -> Finding:
    run = RunDir(settings.output_dir)
    run.refuse_other(identity)
    if not run.run_json.is_file():
        return Finding("ok", f"output_dir={run.root}: a new run")
    rolled_out = sum(1 for _ in run.root.glob("predictions/*/*.diff"))
    graded = sum(1 for _ in run.root.glob("evaluation/*/*/report.json"))
    return Finding("ok", f"output_dir={run.root}: continues the run in it ({rolled_out} rolled out, {graded} graded)")


if __name__ == "__main__":
    main()
