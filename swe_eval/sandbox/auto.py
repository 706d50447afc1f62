"""``sandbox=auto``: the first backend that works on this machine."""

from __future__ import annotations

from swe_eval.errors import UserError
from swe_eval.sandbox.sandbox import Sandboxes, connect
from swe_eval.settings import AutoSandbox


def first_that_works(settings: AutoSandbox, run_id: str) -> Sandboxes:
    """It says which it is, and why not those before it.

    Raises:
        UserError: none works; each with what it lacks, on a line of its own.
    """
    why_not: list[str] = []
    for option in settings.in_order:
        try:
            found = connect(option, run_id)
        except UserError as error:
            why_not.append(str(error))
        else:
            found.chosen = "; not ".join([f"sandbox=auto: {option.kind}", *why_not])
            return found
    raise UserError("\n".join(["sandbox=auto: no sandbox works on this machine:", *why_not]))
