"""``python -m swe_eval``: compose, validate, evaluate."""

from swe_eval import command
from swe_eval.settings import Settings


def main() -> None:
    """Console entry point."""
    command.run(evaluated)


def evaluated(settings: Settings) -> int:
    """The exit code of an evaluation."""
    from swe_eval.evaluate import evaluate  # late: --help and mistakes in the command line answer in a second

    return evaluate(settings)


if __name__ == "__main__":
    main()
