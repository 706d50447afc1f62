"""Finds vLLM, which has an environment of its own because it pins torch and much else."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec

from swe_eval.errors import UserError
from swe_eval.settings import PACKAGE, VllmServing

MADE = PACKAGE.parent / ".venv-vllm" / "bin" / "python"
"""By ``make vllm``."""
_VERSION = (
    "from importlib.util import find_spec; assert find_spec('vllm'), 'no vllm'\n"
    "from importlib.metadata import packages_distributions, version\n"
    "print(version(packages_distributions()['vllm'][0]))"
)


def find_python(serving: VllmServing) -> str:
    """The Python that has vLLM.

    Raises:
        UserError: there is none.
    """
    if serving.python is not None:
        return serving.python
    if find_spec("vllm"):
        return sys.executable
    if MADE.is_file():
        return str(MADE)
    raise UserError(
        "serving=vllm: this Python has no vLLM: make vllm makes an environment for it, serving.python=... names "
        "another one, and serving=transformers does without"
    )


def vllm_version(serving: VllmServing) -> str:
    """Version of the vLLM that would be started.

    Raises:
        UserError: it is not there.
    """
    python = find_python(serving)
    try:
        asked = subprocess.run([python, "-c", _VERSION], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"serving.python={python}: {error}; write the path of a Python that has vLLM") from None
    if asked.returncode:
        raise UserError(f"serving.python={python} has no vLLM; write pip install vllm=={TESTED} there")
    return asked.stdout.strip()


TESTED = "0.32.0"
"""What verdicts, arguments and messages were measured with."""
