"""Digests in a file's metadata: of each tensor's bytes, and of everything else in the file.

They are two entries of the metadata, which other readers of safetensors files ignore.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, cast

from l0func.files.header import DTYPE_NAMES, Entry, Header
from l0func.internal.strict_json import parse, shown

_OF_TENSORS = "digests"
_OF_THE_REST = "digest"
_KIND = "sha256 "

NO_DIGEST = "0" * 64
"""A digest's place while it is unknown; as long as a SHA-256 in hexadecimal."""


def sealed(header: Header, digests: Mapping[str, str]) -> Header:
    """The header with the digests in its metadata.

    Args:
        header: The header.
        digests: For each tensor the SHA-256 of its bytes, or :data:`NO_DIGEST`. The header's
            length does not depend on them.
    """
    metadata = {**header.metadata, _OF_TENSORS: json.dumps(dict(digests))}
    metadata[_OF_THE_REST] = _KIND + _digest_of(metadata, header.entries)
    return Header(metadata, header.entries)


def digests_in(header: Header) -> dict[str, str] | None:
    """For each tensor the digest of its bytes when it was saved; None if the file has no digests.

    Raises:
        ValueError: The header is not the one that was saved.
    """
    metadata = dict(header.metadata)
    own = metadata.pop(_OF_THE_REST, None)
    if own is None and _OF_TENSORS not in metadata:
        return None
    if own is None or not own.startswith(_KIND):
        raise ValueError(f"the digest in its metadata, {shown(own)}, is not a SHA-256")
    if own != _KIND + _digest_of(metadata, header.entries):
        raise ValueError(
            "its header is not the one that was saved: a name, a shape or the metadata changed"
        )
    # The digest vouches for the form.
    return cast("dict[str, str]", parse(metadata[_OF_TENSORS]))


def _digest_of(metadata: Mapping[str, str], entries: Mapping[str, Entry]) -> str:
    """The digest of metadata, names, dtypes and shapes, in an order that no writer changes."""
    tensors: dict[str, Any] = {}
    for name, entry in entries.items():
        tensors[name] = [DTYPE_NAMES[entry.dtype], entry.shape]
    text = json.dumps([dict(metadata), tensors], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
