"""Whose fault it is, as types: the user's input, our machinery, and never by accident the model's."""


class SweEvalError(Exception):
    """Everything this package raises on purpose."""


class UserError(SweEvalError):
    """Input that cannot work. One line: the field, what is wrong, what to write instead. Exit code 2."""


class InUse(UserError):
    """Another process is at work in the run directory."""


class InfraError(SweEvalError):
    """Our side failed: the trial is recorded as ``infra``, never scored, and owed to the next run."""


class SandboxError(InfraError):
    """A sandbox could not start, died, or lost its engine."""


class ServingError(InfraError):
    """The model server did not start, died, or does not answer."""


class OutOfTime(SweEvalError):
    """Trials are owed, and SLURM leaves this job too little time to begin one."""

    exit_code = 75
    """EX_TEMPFAIL of sysexits.h: the same command later may well do it."""
