"""Damage to a file: whatever changes, the file loads with the numbers that were saved, or not."""

from __future__ import annotations

import json
import random
import warnings

import pytest
from nets import KINDS, same, whole

from l0func.files.storage import Format, read_tensors

every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


def outcome(kind, path, expected):
    """Either "refused", "same" or "other"; an error but ValueError is none of them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = kind.load(path)
        except ValueError as error:
            return "refused" if str(path) in str(error) else f"without its path: {error}"
    return "same" if same(found, expected) else "other"


def flipped(data, bit):
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def flips(data, count, seed):
    bits = random.Random(seed).sample(range(8 * len(data)), count)
    return [flipped(data, bit) for bit in bits]


def outcomes(kind, folder, changed, expected):
    path = folder / "changed"
    found = []
    for data in changed:
        path.write_bytes(data)
        found.append(outcome(kind, path, expected))
    return found


@every_kind
@pytest.mark.parametrize(
    "count", [300, pytest.param(1000, marks=pytest.mark.slow)], ids=["some", "many"]
)
def test_no_flipped_bit_is_loaded(kind, count, tmp_path):
    data, expected = whole(kind, tmp_path)
    found = outcomes(kind, tmp_path, flips(data, count, seed=count), expected)
    assert found == ["refused"] * count


@every_kind
@pytest.mark.slow
def test_no_bit_of_the_header_can_be_flipped(kind, tmp_path):
    data, expected = whole(kind, tmp_path)
    header = 8 + int.from_bytes(data[:8], "little")
    changed = [flipped(data, bit) for bit in range(8 * header)]
    assert set(outcomes(kind, tmp_path, changed, expected)) == {"refused"}


def truncated(data, rng):
    return data[: rng.randrange(len(data))]


def appended(data, rng):
    return data + rng.randbytes(rng.randrange(1, 99))


def prepended(data, rng):
    return rng.randbytes(rng.randrange(1, 9)) + data


def zeroed_block(data, rng):
    start = rng.randrange(len(data) - 64)
    return data[:start] + bytes(64) + data[start + 64 :]


def swapped_blocks(data, rng):
    size = rng.choice([1, 4, 16, 64])
    first, second = sorted(rng.sample(range(0, len(data) - size, size), 2))
    parts = [
        data[:first],
        data[second : second + size],
        data[first + size : second],
        data[first : first + size],
        data[second + size :],
    ]
    return b"".join(parts)


def swapped_halves(data, rng):
    middle = rng.randrange(len(data))
    return data[middle:] + data[:middle]


def repeated_block(data, rng):
    start = rng.randrange(len(data) - 32)
    return data[: start + 32] + data[start : start + 32] + data[start + 32 :]


def changed_digit(data, rng):
    places = [i for i, byte in enumerate(data) if chr(byte).isdigit()]
    place = rng.choice(places)
    return data[:place] + str(rng.randrange(10)).encode() + data[place + 1 :]


CHANGES = [
    truncated,
    appended,
    prepended,
    zeroed_block,
    swapped_blocks,
    swapped_halves,
    repeated_block,
    changed_digit,
]


@every_kind
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_no_other_numbers_are_loaded(kind, change, tmp_path):
    data, expected = whole(kind, tmp_path)
    rng = random.Random(change.__name__)
    changed = [change(data, rng) for _ in range(40)]
    found = outcomes(kind, tmp_path, changed, expected)
    # A change may change nothing: a block of zeros, or the same digit.
    assert all(
        (new == data) == (result == "same") for new, result in zip(changed, found, strict=True)
    )


def edited(data, edit):
    """The file with another header, and the same tensors behind it."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    edit(header)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data[end:]


def swap_offsets(header):
    names = [name for name in header if name.endswith(("layer.bias", "layer.weight"))][:2]
    pair = [header[name]["data_offsets"] for name in names]
    header[names[0]]["data_offsets"], header[names[1]]["data_offsets"] = pair[::-1]


def swap_names(header):
    # The same shape and dtype: everything still fits.
    same_shape: dict = {}
    for name, entry in header.items():
        if name != "__metadata__":
            same_shape.setdefault((entry["dtype"], str(entry["shape"])), []).append(name)
    first, second = next(names for names in same_shape.values() if len(names) > 1)[:2]
    header[first], header[second] = header[second], header[first]


def rename_a_tensor(header):
    name = next(name for name in header if name.endswith("bias"))
    header[name.replace("bias", "bias2")] = header.pop(name)


def transpose_a_shape(header):
    name = next(name for name in header if name.endswith("layer.weight"))
    header[name]["shape"].reverse()


def change_a_dtype(header):
    name = next(name for name in header if name.endswith("layer.weight"))
    header[name]["dtype"] = "I32"


def change_the_spec(header):
    metadata = header["__metadata__"]
    metadata["spec"] = metadata["spec"].replace('"gamma": -0.1', '"gamma": -0.2')


def change_a_digest(header):
    text = header["__metadata__"]["digest"]
    header["__metadata__"]["digest"] = text[:-1] + ("0" if text[-1] != "0" else "1")


def drop_the_digest(header):
    del header["__metadata__"]["digest"]


def drop_the_digests(header):
    del header["__metadata__"]["digests"]


def add_metadata(header):
    header["__metadata__"]["note"] = "mine"


EDITS = [
    swap_offsets,
    swap_names,
    rename_a_tensor,
    transpose_a_shape,
    change_a_dtype,
    change_the_spec,
    change_a_digest,
    drop_the_digest,
    drop_the_digests,
    add_metadata,
]


@every_kind
@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.__name__)
def test_an_edited_header_is_refused(kind, edit, tmp_path):
    data, expected = whole(kind, tmp_path)
    assert edited(data, lambda header: None) != data
    (tmp_path / "changed").write_bytes(edited(data, edit))
    assert outcome(kind, tmp_path / "changed", expected) == "refused"


@every_kind
def test_a_header_written_by_another_program_with_the_same_contents_loads(kind, tmp_path):
    data, expected = whole(kind, tmp_path)

    def turn_around(header):
        for name in reversed(list(header)):
            header[name] = header.pop(name)

    (tmp_path / "changed").write_bytes(edited(data, turn_around))
    found = kind.load(tmp_path / "changed")
    assert same(dict(sorted(found.items())), dict(sorted(expected.items())))


def test_the_damaged_tensor_is_named(tmp_path):
    data, _ = whole(KINDS["network"], tmp_path)
    end = 8 + int.from_bytes(data[:8], "little")
    begin, _ = json.loads(data[8:end])["params/out.weight"]["data_offsets"]
    (tmp_path / "changed").write_bytes(flipped(data, 8 * (end + begin)))
    message = r"changed is damaged: the numbers of 'params/out\.weight' are not those that were"
    with pytest.raises(ValueError, match=message):
        KINDS["network"].load(tmp_path / "changed")


def test_a_file_of_a_later_format_is_refused_by_name(tmp_path):
    path = tmp_path / "net"
    KINDS["network"].save(path)
    later = Format("l0func 2", (), "was written by another version", "Update.", dict)
    with pytest.raises(ValueError, match=r"its metadata says 'l0func 1', not 'l0func 2'\. Update"):
        read_tensors(path, later)


def test_a_damaged_header_with_a_broken_spec_names_the_rule_too(tmp_path):
    def edit(header):
        metadata = header["__metadata__"]
        metadata["spec"] = metadata["spec"].replace('"float32"', '"__class__"', 1)

    data, _ = whole(KINDS["network"], tmp_path)
    (tmp_path / "changed").write_bytes(edited(data, edit))
    words = (
        r"changed is damaged: its header is not .*\. Its gate spec: gates\[0\]\.dtype is the name"
    )
    with pytest.raises(ValueError, match=words):
        KINDS["network"].load(tmp_path / "changed")
