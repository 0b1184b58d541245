"""The verbs of ``dn2``, each a file, and what becomes of their errors: an exit code and a line."""

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

FAILED, USAGE, MISSING = 1, 2, 3


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="dn2", message="%(prog)s %(version)s")
def main() -> None:
    """Find anomalous images by their distance to normal ones.

    Exit codes: 0 success, 1 failure, 2 wrong usage, 3 missing or damaged weights, 130 interrupted.
    """


for verb in (fit, score, explain, serve, info, add, remove, export, encode):
    main.add_command(verb)


def run(arguments: list[str] | None) -> tuple[int, str]:
    """Run a verb: the exit code, and the line about an error, or no text.

    Raises
    ------
    KeyboardInterrupt
        If it was interrupted.
    """
    lend_home()
    warnings.showwarning = lambda message, *_, **__: click.echo(f"warning: {message}", err=True)
    # What Pillow thinks of a file is said once, in the reason why it is left out.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    try:
        return main.main(arguments, prog_name="dn2", standalone_mode=False) or 0, ""
    except click.Abort:
        raise KeyboardInterrupt from None
    except click.exceptions.NoArgsIsHelpError as error:  # the message is the help
        click.echo(error.format_message(), err=True)
        return USAGE, ""
    except click.ClickException as error:
        return error.exit_code, _in_one_line(error.format_message())
    except (MissingWeightsError, BadWeightsError) as error:
        return MISSING, _in_one_line(error)
    except (OSError, ValueError, ModuleNotFoundError) as error:
        return FAILED, _in_one_line(error)
    except MemoryError as error:
        return FAILED, _in_one_line(error) or "too little memory: do less at a time"


def _in_one_line(error: object) -> str:
    return printable(" ".join(str(error).split()))
