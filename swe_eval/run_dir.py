"""The run directory: every path of a run, what is done and what is owed, and whose run it is.

It is the interface between the stages and the unit of resumption. Every file in it appears whole or not at all; a
rollout is done when its prediction is there, a grading when its report is there. ``predictions/*.jsonl``,
``results/``, ``report.*`` and ``trajectories.*`` are derived and can be deleted.
"""

from __future__ import annotations

import fcntl
import fnmatch
import hashlib
import json
import os
import re
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, Any

from swe_eval.errors import InUse, UserError

PART = ".swe_eval-part"
"""Ending of a file that is being written."""
ABANDONED = 3600.0
"""Seconds since the last byte of such a file, after which nobody is writing it any more."""


OUTCOMES = ("resolved", "unresolved", "empty_patch", "infra")
"""What a trial can come to; ``infra`` is ours, and owed."""
ARM = "adapters."
"""Begins the keys of a run's identity that are the content of one arm."""
BASE_MODEL = "model.content"
"""The key of the base model's content, if it is known."""
RESULTS = ("trajectories", "predictions", "evaluation")
"""The folders that hold what a run did."""
_FILE_NAME = re.compile(r"[^\W_][\w.-]*")


@dataclass(frozen=True)
class Trial:
    """One (adapter, instance, sample) to be run."""

    adapter: str
    instance_id: str
    sample: int = 1
    samples: int = 1

    @property
    def arm(self) -> str:
        """The adapter's name, with ``.s1``, ``.s2``, ... when there are several samples per instance."""
        return self.adapter if self.samples == 1 else f"{self.adapter}.s{self.sample}"

    @classmethod
    def of_arm(cls, arm: str, instance_id: str, samples: int) -> Trial:
        """The trial that has this arm."""
        if samples == 1:
            return cls(arm, instance_id)
        adapter, _, sample = arm.rpartition(".s")
        return cls(adapter, instance_id, int(sample), samples)

    def __str__(self) -> str:
        return f"{self.arm} {self.instance_id}"


class RunDir:
    """Names instead of path formatting."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()

    @property
    def id(self) -> str:
        """Label of this run's containers and temporary files, the same each time it is continued."""
        return hashlib.sha256(str(self.root).encode()).hexdigest()[:12]

    @property
    def run_json(self) -> Path:
        return self.root / "run.json"

    @property
    def config_yaml(self) -> Path:
        return self.root / "config.yaml"

    @property
    def comparison(self) -> Path:
        return self.root / "results" / "comparison.json"

    @property
    def trials_jsonl(self) -> Path:
        return self.root / "results" / "trials.jsonl"

    def log(self, name: str) -> Path:
        return self.root / "logs" / name

    def trajectory(self, trial: Trial) -> Path:
        return self.root / "trajectories" / trial.arm / f"{trial.instance_id}.traj.json"

    def prediction(self, trial: Trial) -> Path:
        return self.root / "predictions" / trial.arm / f"{trial.instance_id}.diff"

    def predictions_jsonl(self, arm: str) -> Path:
        return self.root / "predictions" / f"{arm}.jsonl"

    def evaluation(self, trial: Trial) -> Path:
        return self.root / "evaluation" / trial.arm / trial.instance_id

    def report(self, trial: Trial) -> Path:
        return self.evaluation(trial) / "report.json"

    def results(self, arm: str) -> Path:
        return self.root / "results" / f"{arm}.json"

    def is_rolled_out(self, trial: Trial) -> bool:
        return self.prediction(trial).is_file()

    def is_graded(self, trial: Trial) -> bool:
        return self.outcome(trial) is not None

    def outcome(self, trial: Trial) -> str | None:
        """The graded trial's outcome; None if it is owed."""
        return self.read_report(trial).get("outcome")

    def read_report(self, trial: Trial) -> dict[str, Any]:
        """swebench's report of a graded trial, with our ``outcome``; empty if it is owed, or the file is damaged."""
        return _report_in(self.report(trial), trial) if self.is_rolled_out(trial) else {}

    def set_verdict_aside(self, trial: Trial) -> None:
        """Make the trial's grading owed again; what the verdict was is kept."""
        with suppress(FileNotFoundError):
            self.report(trial).replace(self._previous_report(trial))

    def previous_outcome(self, trial: Trial) -> str | None:
        """The outcome that was set aside last; None if none was."""
        return _report_in(self._previous_report(trial), trial).get("outcome")

    def _previous_report(self, trial: Trial) -> Path:
        return self.evaluation(trial) / "report.previous.json"

    def read_patch(self, trial: Trial) -> str:
        """The ``model_patch``; bytes that are not UTF-8 come as surrogates (see ``write_text``)."""
        return self.prediction(trial).read_bytes().decode("utf-8", "surrogateescape")

    def predictions(self, arm: str, trials: Iterable[Trial]) -> Iterator[dict[str, str]]:
        """The arm's, as far as they are there, as the official harness has them."""
        for trial in trials:
            if trial.arm == arm and self.is_rolled_out(trial):
                patch = self.read_patch(trial)
                yield {"instance_id": trial.instance_id, "model_name_or_path": arm, "model_patch": patch}

    def write_predictions_jsonl(self, arm: str, trials: Iterable[Trial]) -> None:
        """The file that the official harness reads, from the ``.diff`` files."""
        write_jsonl(self.predictions_jsonl(arm), self.predictions(arm, trials))

    def record_infra(self, trial: Trial, stage: str, error: BaseException) -> None:
        """Add a line to ``logs/infra.jsonl``: what kept a trial from its verdict, and that it was not the model."""
        line = {
            "time": now(),
            "adapter": trial.arm,
            "instance_id": trial.instance_id,
            "stage": stage,
            "error": type(error).__name__,
            "message": str(error),
        }
        path = self.log("infra.jsonl")
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def told_infra(self) -> set[tuple[str, str]]:
        """Arm and instance of every trial that ``logs/infra.jsonl`` tells of, whatever became of it since."""
        try:
            lines = self.log("infra.jsonl").read_text().splitlines()
            told = [json.loads(line) for line in lines if line.endswith("}")]
            return {(line["adapter"], line["instance_id"]) for line in told}
        except (OSError, ValueError, KeyError):
            return set()

    @contextmanager
    def claimed(self, identity: Mapping[str, Any]) -> Iterator[None]:
        """Own the directory for the length of a run, and make sure that it is this configuration's.

        Args:
            identity: everything that the numbers depend on, flat: ``{"agent.max_turns": 30, ...}``.

        Raises:
            InUse: another process is at work in it.
            UserError: it holds the results of another configuration.
        """
        with self._lock_file() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InUse(f"output_dir={self.root}: in use by another process; wait, or write name=...") from None
            except OSError as error:  # Lustre mounted without -o flock
                why = f"its file system locks no files ({error.strerror})"
                raise UserError(f"output_dir={self.root}: {why}; write output_dir=... on another one") from None
            self.refuse_other(identity)
            _remove_torn(self.root)
            yield

    def recorded(self) -> dict[str, Any]:
        """What ``run.json`` says, to be written again with more in it: an OSError is not taken for an empty one."""
        return _object_in(self.run_json) if self.run_json.exists() else {}

    def refuse_other(self, identity: Mapping[str, Any]) -> None:
        """Raise UserError, naming the keys that differ, if the directory holds a run of another configuration."""
        before = read_json(self.run_json).get("identity")
        if before is None:
            if any((self.root / folder).exists() for folder in RESULTS):
                raise UserError(f"output_dir={self.root}: holds results, and no run.json to say whose; write name=...")
            return
        differing = sorted(key for key in before.keys() | identity.keys() if before.get(key) != identity.get(key))
        # an arm may come or go: its trials are its own
        both, may_lack = before.keys() & identity.keys(), (ARM, BASE_MODEL)
        differing = [key for key in differing if not key.startswith(may_lack) or key in both]
        if differing:
            lines = [f"{key}: {before.get(key)!r} there, {identity.get(key)!r} now" for key in differing]
            raise UserError(
                "\n".join([f"output_dir={self.root}: holds a run of another configuration; write name=...", *lines])
            )

    def _lock_file(self) -> IO[str]:
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            return (self.root / ".lock").open("w")
        except OSError as error:
            raise UserError(f"output_dir={self.root}: {error.strerror}; write output_dir=...") from None


def _remove_torn(root: Path) -> None:
    """Remove what writers that were killed left; a report, which does not own the directory, may be writing now."""
    for folder, _, names in os.walk(root):  # Path.rglob raises where a folder vanishes
        for name in fnmatch.filter(names, f".*{PART}"):
            part = Path(folder, name)
            with suppress(FileNotFoundError):
                if time.time() - part.stat().st_mtime > ABANDONED:
                    part.unlink()


def _report_in(file: Path, trial: Trial) -> dict[str, Any]:
    report = read_json(file).get(trial.instance_id)
    return report if isinstance(report, dict) and report.get("outcome") in OUTCOMES else {}


def can_be_file_name(name: str) -> bool:
    """Whether files and folders may be called so, as they are after instances and arms."""
    return bool(_FILE_NAME.fullmatch(name))


def model_in_words(name: str) -> str:
    """The name of an arm as it is; the path or hub id of a base model that is served beside them is none."""
    return name if can_be_file_name(name) else "the base model"


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file; empty if there is none, or the file is damaged."""
    try:
        return _object_in(path)
    except OSError:
        return {}


def _object_in(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def now() -> str:
    """UTC, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def write_text(path: Path, text: str) -> None:
    """``write_bytes`` of text; surrogates are bytes that are not UTF-8."""
    write_bytes(path, text.encode("utf-8", "surrogateescape"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file that is seen whole or not at all: aside, fsync, rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=PART)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:  # a full disk, which does not say of which file
        os.unlink(part)
        raise OSError(error.errno, error.strerror, str(path)) from error
    os.chmod(part, 0o644)  # mkstemp makes it private; a shared run directory is read by others
    os.replace(part, path)


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """``write_text`` of a line of JSON for each row."""
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def write_json(path: Path, value: Any) -> None:
    """``write_text`` of indented JSON."""
    write_text(path, json.dumps(value, indent=2) + "\n")
