"""A gate spec as the metadata of a file: read strictly, and written only if it can be read."""

from __future__ import annotations

from collections.abc import Mapping

from l0func.spec.plan import GateSpec, spec_from


def text_of_spec(spec: GateSpec) -> str:
    """The spec for a file's metadata.

    Raises:
        ValueError: The spec could not be read again, such as one with a distribution that is not
            registered.
    """
    text = spec.to_json()
    again = spec_from(text, "This spec can be written, and not read again")
    for own, read in zip(spec.gates, again.gates, strict=True):
        if own.distribution != read.distribution:
            raise ValueError(
                f"A file would give the gates {own.name!r} {read.distribution} of "
                f"{type(read.distribution).__module__}; they have {own.distribution} of "
                f"{type(own.distribution).__module__}. Rename your class, and register it with "
                "l0func.distributions.register."
            )
    if again != spec:
        raise ValueError(f"This spec would be read as another:\n{again}\nIt is\n{spec}")
    return text


def spec_of_file(metadata: Mapping[str, str], source: str = "Its gate spec") -> GateSpec:
    """The spec in a file's metadata.

    Args:
        metadata: The metadata.
        source: The beginning of an error message.

    Raises:
        ValueError: It is no spec; the message names the place in the spec and the rule.
    """
    return spec_from(metadata["spec"], source)
