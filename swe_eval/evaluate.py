"""The pipeline: serve, roll out, grade, report."""

from __future__ import annotations

import logging
import resource
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from importlib import import_module
from types import MappingProxyType
from typing import Any

import yaml
from rich.console import Console

from swe_eval import adapters, tracking
from swe_eval.benchmark import instances
from swe_eval.benchmark.instances import Benchmark
from swe_eval.cluster import slurm
from swe_eval.cluster.walltime import Walltime
from swe_eval.errors import OutOfTime, UserError
from swe_eval.plan import Work, identify, pairs, plan, refuse_new_weights, what_is_owed
from swe_eval.preconditions import check_template
from swe_eval.progress import Progress
from swe_eval.provenance import provenance
from swe_eval.run_dir import RunDir, Trial, now, read_json, write_json, write_text
from swe_eval.sandbox.sandbox import Sandboxes, connect, sandboxes
from swe_eval.scheduling import admission
from swe_eval.scheduling.gate import Gate
from swe_eval.scheduling.order import earlier_seconds, longest_first
from swe_eval.scheduling.schedule import Schedule
from swe_eval.serving.parts import Round, arms_of, preflight, rounds, serve, takes_turns
from swe_eval.serving.proof import Prover, keep_proof
from swe_eval.serving.server import Server
from swe_eval.settings import GRADE, ROLLOUT, Settings

OPEN_FILES = 65_536


def evaluate(settings: Settings) -> int:
    """Evaluate every adapter on every selected instance; continue what an earlier call left.

    Returns:
        0 when every trial has what ``stages`` asked for (graded: its verdict), 1 when some are owed to the next run of
        the same command.

    Raises:
        UserError: before anything is started; also if there is nothing to grade, and grading alone was asked for.
        OutOfTime: this is a SLURM job whose time is over before all trials could begin; those that did have ended.
    """
    if line := tracking.check(settings):
        print(f"swe_eval: {line}", file=sys.stderr)
    if ROLLOUT in settings.stages:
        _check_model(settings)
    benchmark = instances.load(settings.benchmark)
    run = RunDir(settings.output_dir)
    ordered = longest_first(benchmark.instances, earlier_seconds(run, benchmark.fingerprint))
    trials = plan(settings, ordered)
    if ROLLOUT not in settings.stages and not any(map(run.is_rolled_out, trials)):
        raise UserError(f"stages=[grade]: nothing is rolled out in {run.root}; write stages=[rollout,grade]")
    _check_machine(settings, what_is_owed(settings, run, trials), run)
    identity = identify(settings, benchmark)
    _allow_open_files()
    with run.claimed(identity):
        record(run, settings, identity, trials, pairs(settings), benchmark.difficulties)
        walltime = _walltime(settings, run)
        try:
            roll_out_and_grade(settings, benchmark, run, trials, walltime)
        finally:  # what is there is worth showing, whatever ended the run
            owed = _conclude(settings, run, trials)
        if GRADE in settings.stages:
            tracking.track(settings, run)
    if owed and walltime.is_over:
        raise OutOfTime(f"out of this job's time: {owed} of {len(trials)} trials are owed; the same command continues")
    return 1 if owed else 0


def _check_model(settings: Settings) -> None:
    for warning in adapters.check(settings):
        print(f"swe_eval: {warning}", file=sys.stderr)
    if problems := [found.text for found in check_template(settings) if found.state == "problem"]:
        raise UserError("\n".join(problems))


def _check_machine(settings: Settings, work: Work, run: RunDir) -> None:
    """Raise UserError, before there is a run directory, if what the work needs is not here."""
    if work.to_roll_out:
        preflight(settings)
    if work.to_roll_out or work.to_grade:
        connect(settings.sandbox, run.id)


def _allow_open_files() -> None:
    """As many as are ours to allow: an agent takes six, and a shell allows 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))


def _walltime(settings: Settings, run: RunDir) -> Walltime:
    """Of this SLURM job, if it is one; what earlier jobs' rollouts took says nothing of gradings alone."""
    earlier = read_json(run.run_json).get("seconds", {}) if ROLLOUT in settings.stages else {}
    return Walltime(slurm.end_of_this_job, earlier.values())


def _conclude(settings: Settings, run: RunDir, trials: Sequence[Trial]) -> int:
    from swe_eval.report.report import conclude, conclude_rollouts  # late: see roll_out_and_grade

    if ROLLOUT not in settings.stages:
        return conclude(run, trials, pairs(settings), "stages=[rollout,grade]")
    if GRADE in settings.stages:
        return conclude(run, trials, pairs(settings))
    return conclude_rollouts(run, trials)


def record(
    run: RunDir,
    settings: Settings,
    identity: dict[str, Any],
    trials: Sequence[Trial],
    comparisons: Sequence[tuple[str, str]] = (),
    difficulties: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Write ``config.yaml`` and ``run.json``: what produced this each time it was continued, and what belongs to it."""
    kept = run.recorded()
    by_arm: dict[str, list[str]] = {}
    for trial in trials:
        by_arm.setdefault(trial.arm, []).append(trial.instance_id)
    calls = [*kept.get("invocations", []), {"started": now()} | provenance()]
    said = {
        "identity": kept.get("identity", {}) | identity,
        "invocations": calls,
        "trials": by_arm,
        "comparisons": comparisons,
        "difficulties": kept.get("difficulties", {}) | difficulties,
    }
    write_json(run.run_json, kept | said)
    write_text(run.config_yaml, yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False))


def roll_out_and_grade(
    settings: Settings, benchmark: Benchmark, run: RunDir, trials: Sequence[Trial], walltime: Walltime
) -> None:
    """Do every stage of every trial that is owed; a server is started only if a rollout is."""
    from swe_eval.stages import Stages  # late: it brings litellm, and mistakes are answered in a second

    work = what_is_owed(settings, run, trials)
    progress = Progress(trials, work.done, Console())
    if work.to_roll_out or work.to_grade:
        progress.say(str(work))
    by_id = {instance.instance_id: instance for instance in benchmark.instances}
    prover, to_grade = Prover(settings), work.to_grade
    # scipy takes half a second to import: better now, while the model thinks, than when all wait for the report
    threading.Thread(target=import_module, args=("swe_eval.report.report",), daemon=True).start()
    with (
        _logs(run),
        sandboxes(settings, run.id) as backend,
        backend.expecting([by_id[trial.instance_id] for trial in work.in_order], progress.say),
        _digests_kept(run, backend),
    ):
        for trial in to_grade:
            run.set_verdict_aside(trial)
        for together in _needed(rounds(settings) if work.to_roll_out else [], work.to_roll_out, progress.say):
            rolling = [trial for trial in work.to_roll_out if trial.adapter in {arm.name for arm in arms_of(together)}]
            gate = Gate(admission.most_agents(settings.workers), pauses=not takes_turns(together))
            schedule = Schedule(gate, settings.grade_workers, walltime)
            with (
                _server(together, prover, run, progress.say) as server,
                _admission(settings, run, progress.say, server, gate),
                progress.shown(),
            ):
                stages = Stages(settings, by_id, run, backend, server, progress, schedule.is_stopping)
                schedule.run(rolling, to_grade, stages.roll_out, stages.grade, on_interrupt=backend.remove_all)
            to_grade = []


def _needed(planned: Sequence[Round], to_roll_out: Sequence[Trial], say: Callable[[str], None]) -> list[Round]:
    """The rounds with something to roll out, in words if there are several servers; an empty one if there are none."""
    names = {trial.adapter for trial in to_roll_out}
    needed = [together for together in planned if names & {arm.name for arm in arms_of(together)}]
    if sum(map(len, needed)) > 1:
        servers = ["; ".join(", ".join(arm.name for arm in part.adapters) for part in each) for each in needed]
        say(f"adapters that must be merged have servers of their own: {', then '.join(servers)}")
    return needed or [[]]


@contextmanager
def _server(together: Round, prover: Prover, run: RunDir, say: Callable[[str], None]) -> Iterator[Server | None]:
    from swe_eval.mini import write_registry  # late: see roll_out_and_grade

    if not together:
        yield None
        return
    with serve(together, run.log("server.log"), say) as server:
        refuse_new_weights(run, arms_of(together))  # a server starts minutes after the run, or hours
        if proof := prover.prove(server):
            keep_proof(run, proof)
        write_registry(run.log("litellm_registry.json"), server.endpoints)
        yield server


def _admission(
    settings: Settings, run: RunDir, say: Callable[[str], None], server: Server | None, gate: Gate
) -> AbstractContextManager[None]:
    if not server:
        return nullcontext()
    log = run.log("load.jsonl")
    return admission.steered(lambda: list(server.endpoints.values()), gate, settings.workers, log, say, admission.POLL)


@contextmanager
def _digests_kept(run: RunDir, backend: Sandboxes) -> Iterator[None]:
    try:
        yield
    finally:
        kept = run.recorded()
        write_json(run.run_json, kept | {"images": kept.get("images", {}) | backend.digests})


@contextmanager
def _logs(run: RunDir) -> Iterator[None]:
    """Send what libraries log to ``logs/agent.log``, and our own log to ``logs/evaluation.log``, not to the screen."""
    logging.raiseExceptions = False  # a line that a full disk does not take would be a traceback on the screen
    files = {"agent.log": ("agent", "litellm_model", "minisweagent", "LiteLLM"), "evaluation.log": ("swe_eval",)}
    with ExitStack() as stack:
        for name, loggers in files.items():
            run.log(name).parent.mkdir(parents=True, exist_ok=True)
            handler = logging.FileHandler(run.log(name), delay=True)
            handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
            stack.callback(handler.close)
            for logger in map(logging.getLogger, loggers):
                logger.handlers, logger.propagate = [handler], False
        yield
