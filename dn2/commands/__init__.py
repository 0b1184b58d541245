"""The command line ``dn2``: joins the verbs, and turns every error with a remedy into one line.

Each verb is a file. Exit codes: 0 success, 1 failure, 2 wrong usage, 3 missing or damaged weights,
130 interrupted.
"""

from __future__ import annotations

import warnings

import click

from dn2 import __version__
from dn2.commands.change import add, remove
from dn2.commands.encode import encode
from dn2.commands.explain import explain
from dn2.commands.export import export
from dn2.commands.fit import fit
from dn2.commands.info import info
from dn2.commands.score import score
from dn2.commands.serve import serve
from dn2.encoders import BadWeightsError, MissingWeightsError
from dn2.files import lend_home, printable
from dn2.streams import close_streams, open_streams

FAILED, USAGE, MISSING, INTERRUPTED = 1, 2, 3, 130


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="dn2", message="%(prog)s %(version)s")
def main() -> None:
    """Find anomalous images by their distance to normal ones.

    Exit codes: 0 success, 1 failure, 2 wrong usage, 3 missing or damaged weights, 130 interrupted.
    """


for verb in (fit, score, explain, serve, info, add, remove, export, encode):
    main.add_command(verb)


def run_main(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    open_streams()
    return close_streams(_run(arguments))


def _run(arguments: list[str] | None) -> int:
    """Run the command line; an error is a line on stderr, and an exit code."""
    lend_home()
    warnings.showwarning = lambda message, *_, **__: click.echo(f"warning: {message}", err=True)
    # What Pillow thinks of a file is said once, in the reason why it is left out.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    try:
        return main.main(arguments, prog_name="dn2", standalone_mode=False) or 0
    except (KeyboardInterrupt, click.Abort):
        return _complain("interrupted", INTERRUPTED)
    except click.exceptions.NoArgsIsHelpError as error:  # the message is the help
        click.echo(error.format_message(), err=True)
        return USAGE
    except click.ClickException as error:
        return _complain(error.format_message(), error.exit_code)
    except (MissingWeightsError, BadWeightsError) as error:
        return _complain(error, MISSING)
    except (OSError, ValueError, ModuleNotFoundError) as error:
        return _complain(error, FAILED)
    except MemoryError as error:
        return _complain(str(error) or "too little memory: do less at a time", FAILED)


def _complain(error: object, code: int) -> int:
    click.echo("error: " + printable(" ".join(str(error).split())), err=True)
    return code
