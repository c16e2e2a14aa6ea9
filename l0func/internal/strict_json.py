"""JSON from a file, read strictly: no NaN, no repeated names, no numbers beyond 64 bits.

A file may be damaged or hostile. Whatever its text is, the answer is a value or a ValueError.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn

# The longest integer with a sign in 64 bits has 20 characters.
_DIGITS = 20


def parse(text: str | bytes, /) -> Any:
    """The value of a JSON text.

    Args:
        text: The text, or its UTF-8 bytes.

    Returns:
        Dicts, lists, texts, numbers, bools and None.

    Raises:
        ValueError: The text is not JSON, nests too deeply, repeats a name in one object, or has a
            number that no file of this library contains.
    """
    try:
        return json.loads(
            text,
            parse_int=_integer,
            parse_constant=_no_constant,
            object_pairs_hook=_with_names_once,
        )
    except RecursionError:
        raise ValueError("the text nests too deeply") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"the text is not UTF-8: {error}") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"the text is not JSON: {error}") from None


def _integer(digits: str) -> int:
    if len(digits) > _DIGITS:
        raise ValueError(f"the number {digits[:_DIGITS]}... has more than 64 bits")
    return int(digits)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number in JSON")


def _with_names_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"the name {shown(name)} is there twice")
        found[name] = value
    return found


def shown(value: Any, /) -> str:
    """A value from a file for an error message: short, however large the value is."""
    if isinstance(value, str | int | float | None):
        text = repr(value)
    else:
        text = f"{type(value).__name__} of {len(value)}"
    return text if len(text) <= 80 else f"{text[:77]}..."
