"""``python -m benchmarks``: joins the verbs, and turns every error that has a remedy into one line and an exit code."""

from __future__ import annotations

import sys
import warnings

import click

from benchmarks.commands.fetch import fetch
from benchmarks.commands.ls import ls
from benchmarks.commands.paper import paper
from benchmarks.commands.plan import plan
from benchmarks.commands.run import run
from benchmarks.commands.sweep import sweep
from benchmarks.commands.ui import ui
from benchmarks.contracts import MissingDataError, OutsideError, UsageError

FAILED, USAGE, MISSING, INTERRUPTED = 1, 2, 3, 130


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Benchmark DN2 and its rivals; every run is logged to MLflow.

    Exit codes: 0 success, 1 a failed cell or tracking server, 2 wrong usage, 3 missing data or weights, 130 interrupted.
    """


for verb in (ls, fetch, plan, run, sweep, paper, ui):
    main.add_command(verb)


def run_main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    from dn2.encoders import MissingWeightsError

    warnings.showwarning = lambda message, *_, **__: click.echo(f"warning: {message}", err=True)
    try:
        return main.main(arguments, prog_name="python -m benchmarks", standalone_mode=False) or 0
    except (KeyboardInterrupt, click.Abort):
        return _complain(
            "interrupted: what is finished is kept, the same command continues", INTERRUPTED
        )
    except click.ClickException as error:
        return _complain(error.format_message(), error.exit_code)
    except UsageError as error:
        return _complain(error, USAGE)
    except (MissingDataError, MissingWeightsError) as error:
        return _complain(error, MISSING)
    except OutsideError as error:
        return _complain(error, FAILED)


def _complain(error: object, code: int) -> int:
    click.echo(f"error: {error}", err=True)
    return code


if __name__ == "__main__":
    sys.exit(run_main())
