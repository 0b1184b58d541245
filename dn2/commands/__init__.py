"""The command line ``dn2``: one line and an exit code, whatever happens.

Exit codes: 0 success, 1 failure, 2 wrong usage, 3 missing or damaged weights, 130 interrupted. The
verbs are joined in `dn2.commands.verbs`, which is imported where Ctrl-C is one line already.
"""

from __future__ import annotations

import sys

from dn2.interrupts import Interrupts

INTERRUPTED = 130


def run_main(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit code.

    Without arguments it takes those of the process, which it expects to end when it returns:
    Ctrl-C is then ignored.
    """
    code, message = INTERRUPTED, "interrupted"
    with Interrupts(ending=arguments is None) as interrupts:
        from dn2.streams import open_streams

        open_streams()
        from dn2.commands.verbs import run

        code, message = run(arguments)
    if code and interrupts.seen:  # the failure is what became of the interrupt
        code, message = INTERRUPTED, "interrupted"
    if message:
        print(f"error: {message}", file=sys.stderr)  # noqa: T201
    from dn2.streams import close_streams

    return close_streams(code)
