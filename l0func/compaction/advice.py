"""For each reason to keep units: what a user could do about it."""

from __future__ import annotations

from l0func.compaction.alibi import ALIBI_ADVICE

_TRIAL = "a trial without some of them"
_BY_HAND = "write the group by hand with l0func.group"

# The first phrase that is in the reason decides.
ADVICE: dict[str, str] = {
    "a number of places that counts removed units too": (
        "make the number a share of the size, such as h.shape[-1] // 2, or put one more linear "
        "layer before the roll: the units that it reads can go"
    ),
    _TRIAL: (
        "read the sizes in forward from tensors, or name the attribute that holds one in the "
        "attrs of a group by hand"
    ),
    "a normalisation": "units can go under an nn.RMSNorm, or behind one more linear layer",
    "which cannot be followed": f"use operations that can, or {_BY_HAND}",
    "runs over them": "units can go behind one more linear layer",
    "joined with an input": "put a linear layer between the input and these units",
    "the only unit along": "give the dimension two units or more",
    "has no entries": "take the empty layer out of the network",
    "is reshaped before it is used": "store the parameter in the shape in which it is used",
    "along no single dimension": "give the units a dimension of their own in this tensor",
    "to a fixed size": "pad along another dimension",
    "spread over other units": "give it one entry for each unit",
    "all units of a product": "give each unit its own share of the other factor",
    "works along another dimension": "apply it along the dimension of the units",
    "they come out of": "multiply the activation by one weight after the other",
    "all go together, as one unit": f"to remove the whole, {_BY_HAND}",
    "in an order that no rule has": "store their slices side by side, or in equal runs",
    "nothing that has parameters": "only units between two layers with parameters can go",
}


def with_advice(reason: str, alibi: bool = False) -> str:
    """The reason, and after it what a user could do, if anything.

    Args:
        reason: Why units stay.
        alibi: Whether the module has ALiBi.
    """
    if alibi and _TRIAL in reason:
        return f"{reason}; {ALIBI_ADVICE}"
    for phrase, advice in ADVICE.items():
        if phrase in reason:
            return f"{reason}; {advice}"
    return reason
