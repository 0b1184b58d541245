"""Import code that a user names as ``package.module:name``, and identify it by its source.

The module is looked for where Python looks, and in the working directory.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import sys
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

EXAMPLE = "my_package.my_module:MyName"


@dataclass(frozen=True)
class Outside:
    """Hold an imported object.

    Attributes
    ----------
    value : object
    file : Path
        The source file that defines it.
    digest : str
        The SHA-256 (hexadecimal) of that file. Code that the file imports is not covered.
    """

    value: Any
    file: Path
    digest: str


@cache
def import_outside(name: str) -> Outside:
    """Import what ``module:name`` names.

    Raises
    ------
    ValueError
        If the name has another form, there is no such module or attribute, the module cannot be
        imported, or no source file defines the object. The message does not repeat the name.
    """
    module_name, _, attribute = name.partition(":")
    if not all(part.isidentifier() for part in [*module_name.split("."), attribute]):
        raise ValueError(f"it is not of the form MODULE:NAME: write it like {EXAMPLE}")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)  # a console script does not look there
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name in _parents(module_name):
            raise ValueError(
                f"there is no module '{error.name}': install it, or run the command in the folder "
                "that holds it"
            ) from None
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f"'{module_name}' cannot be imported ({reason}): correct it") from error
    if not hasattr(module, attribute):
        near = get_close_matches(attribute, vars(module), n=1)
        hint = f"write {module_name}:{near[0]}" if near else "define it there"
        raise ValueError(f"'{module_name}' has no '{attribute}': {hint}")
    value = getattr(module, attribute)
    try:
        file = Path(inspect.getfile(value))
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
    except (TypeError, OSError):
        raise ValueError(
            "it has no source file, which would identify it in results: name a class or a function "
            "that a file defines"
        ) from None
    return Outside(value, file.resolve(), digest)


def _parents(module_name: str) -> list[str]:
    """List a module's name and those of the packages around it."""
    parts = module_name.split(".")
    return [".".join(parts[:number]) for number in range(1, len(parts) + 1)]
