"""``dn2-bench``, or ``python -m benchmarks``: find the verb, and turn an error into one line.

The line is followed by an exit code that tells what kind of error it was.
"""

from __future__ import annotations

import sys
import warnings
from importlib import import_module
from pathlib import Path

import click

from benchmarks.contracts import MissingDataError, OutsideError, UsageError
from dn2 import __version__
from dn2.streams import close_streams, open_streams

VERBS = ("ls", "fetch", "plan", "run", "sweep", "compare", "report", "paper", "ui", "register")
FAILED, USAGE, MISSING, INTERRUPTED = 1, 2, 3, 130


class Verbs(click.Group):
    """The verbs, each one file of `benchmarks.commands` that is imported when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Name the verbs, in the order in which a user needs them."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:  # noqa: ARG002
        """Import a verb; None if there is none of that name."""
        if name not in VERBS:
            return None
        verb: click.Command = getattr(import_module(f"benchmarks.commands.{name}"), name)
        return verb


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="dn2-bench", message="%(prog)s %(version)s")
def main() -> None:
    """Benchmark DN2 and its baselines; every run is logged to MLflow.

    Exit codes: 0 success, 1 a failed run or tracking server, 2 wrong usage, 3 missing data or
    weights, 130 interrupted.
    """


def run_main(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit code; an error is a line on stderr."""
    from dn2.encoders import BadWeightsError, MissingWeightsError
    from dn2.files import lend_home

    open_streams()
    lend_home()
    warnings.showwarning = lambda message, *_, **__: click.echo(f"warning: {message}", err=True)
    # What Pillow thinks of a file is said once, in the reason why it is left out.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    try:
        code = main.main(arguments, prog_name=_called(), standalone_mode=False) or 0
    except (KeyboardInterrupt, click.Abort):
        code = _complain(
            "interrupted: finished work is kept, and the same command continues it", INTERRUPTED
        )
    except click.exceptions.NoArgsIsHelpError as error:  # the message is the help
        click.echo(error.format_message(), err=True)
        code = USAGE
    except click.ClickException as error:
        code = _complain(error.format_message(), error.exit_code)
    except UsageError as error:
        code = _complain(error, USAGE)
    except (MissingDataError, MissingWeightsError, BadWeightsError) as error:
        code = _complain(error, MISSING)
    except OutsideError as error:
        code = _complain(error, FAILED)
    except MemoryError as error:
        code = _complain(str(error) or "too little memory: do less at a time", FAILED)
    except ValueError as error:
        from dn2.images import CorruptImageError  # late: --help needs no Pillow

        if not isinstance(error, CorruptImageError):
            raise
        code = _complain(error, FAILED)
    return close_streams(code)


def _called() -> str:
    """Name the program as the user called it."""
    return "dn2-bench" if Path(sys.argv[0]).stem == "dn2-bench" else "python -m benchmarks"


def _complain(error: object, code: int) -> int:
    click.echo(f"error: {error}", err=True)
    return code


if __name__ == "__main__":
    sys.exit(run_main())
