"""A spec from text: it is what ``gate_spec`` could have built, or one ValueError says why not."""

from __future__ import annotations

import json
import random
import re
import time

import numpy as np
import pytest
import torch
from mutations import mutated
from specs import SPECS
from test_old_files import OLD

import l0func as l0

DOCUMENT = json.loads(OLD)


def changed(*path, to):
    """The document with another value at a path."""
    document = json.loads(OLD)
    place = document
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = to
    return document


def dropped(*path):
    document = json.loads(OLD)
    place = document
    for key in path[:-1]:
        place = place[key]
    del place[path[-1]]
    return document


def appended(part, index):
    document = json.loads(OLD)
    document[part].append(document[part][index])
    return document


GATE, PARAMETER, BUFFER = ("gates", 0), ("parameters", 0), ("buffers", 0)
AXIS = ("parameters", 0, "bindings", 1)
BLOCKS = ("parameters", 4, "bindings", 0)
HUGE = 10**18

REFUSED = {
    # Values of wrong types.
    "dtype_by_attribute": (
        changed(*GATE, "dtype", to="__class__"),
        r"gates\[0\]\.dtype is the name of a dtype; got '__class__'; the closest is",
    ),
    "dtype_of_gates": (
        changed(*GATE, "dtype", to="int64"),
        r"gates\[0\]\.dtype is float32 or float64; got torch\.int64",
    ),
    "dtype_no_text": (changed(*PARAMETER, "dtype", to=3), r"parameters\[0\]\.dtype is a text"),
    "dtype_quantised": (changed(*PARAMETER, "dtype", to="qint8"), "A gate scales"),
    "size_a_float": (
        changed(*GATE, "shape", to=[4.0, 3]),
        r"gates\[0\]\.shape\[0\] is an integer; got 4\.0",
    ),
    "size_a_bool": (
        changed(*PARAMETER, "shape", to=[True, 3]),
        r"parameters\[0\]\.shape\[0\] is an integer; got True",
    ),
    "size_a_text": (changed(*GATE, "shape", 1, to="3"), "is an integer; got '3'"),
    "size_none": (changed(*GATE, "shape", 1, to=None), "is an integer; got None"),
    "size_negative": (changed(*GATE, "shape", to=[-4, -3]), "has sizes from 0 on"),
    "size_huge": (changed(*GATE, "shape", to=[HUGE]), r"gates\[0\]\.shape is larger than any"),
    "sizes_huge_beside_0": (changed(*PARAMETER, "shape", to=[HUGE, 0, HUGE]), "larger than any"),
    "shape_a_number": (changed(*GATE, "shape", to=12), r"gates\[0\]\.shape is a list; got 12"),
    "name_a_number": (changed(*GATE, "name", to=1), r"gates\[0\]\.name is a text; got 1"),
    "path_none": (changed(*PARAMETER, "path", to=None), r"parameters\[0\]\.path is a text"),
    "multiplies_a_number": (changed(*AXIS, "multiplies", to=1), "is true or false; got 1"),
    "gates_a_record": (changed("gates", to={"a": 1}), "gates is a list; got dict of 1"),
    "gate_a_list": (changed(*GATE, to=[1]), r"gates\[0\] is a record; got list of 1"),
    "bindings_none": (changed(*PARAMETER, "bindings", to=None), r"\.bindings is a list"),
    "binding_a_text": (changed(*AXIS, to="axis"), r"bindings\[1\] is a record; got 'axis'"),
    # Fields that are absent or too many.
    "no_gates": (dropped("gates"), r"A spec's text comes from.*lacks 'gates'"),
    "no_name": (dropped(*GATE, "name"), r"gates\[0\] lacks 'name'"),
    "no_rule": (dropped(*AXIS, "rule"), r"bindings\[1\] lacks 'rule'"),
    "no_dim": (dropped(*AXIS, "dim"), r"bindings\[1\]: axis lacks its setting 'dim'"),
    "more_parts": (changed("gatez", to=[]), r"unknown field 'gatez'; the closest is 'gates'"),
    "more_in_a_plan": (changed(*PARAMETER, "size", to=1), "unknown field 'size'"),
    "more_in_a_rule": (changed(*AXIS, "size", to=1), "axis has no setting 'size'"),
    "more_in_a_gate": (changed(*GATE, "sigma", to=0.5), "HardConcrete has no field 'sigma'"),
    # Rules.
    "rule_unknown": (changed(*AXIS, "rule", to="exec"), r"A rule is one of \['axes', 'axis'"),
    "rule_a_list": (changed(*AXIS, "rule", to=["axis"]), "A rule is one of.* says list of 1"),
    "dim_a_float": (changed(*AXIS, "dim", to=0.0), "axis's dim is made of integers; got 0.0"),
    "dim_a_bool": (changed(*AXIS, "dim", to=False), "axis's dim is made of integers; got False"),
    "dim_too_large": (changed(*AXIS, "dim", to=2), "names dimension 2 of a tensor of shape"),
    "start_none": (changed(*AXIS, "start", to=None), "axis's start is made of integers"),
    "stop_too_large": (changed(*AXIS, "stop", to=99), r"must name a part \[start, stop\)"),
    "block_size_0": (changed(*BLOCKS, "size", to=0), "needs a size that divides"),
    "block_size_negative": (changed(*BLOCKS, "size", to=-2), "needs a size that divides"),
    "no_sharers": (
        changed(*BLOCKS, "sharers", to=0),
        "needs at least 1 gate for a run; got sharers=0",
    ),
    "sharers_multiply": (changed(*BLOCKS, "sharers", to=2), "lets several gates share a run"),
    "no_tiles": (changed("parameters", 6, "bindings", 0, "n", to=0), "needs a number of tiles"),
    "no_dims": (changed("parameters", 3, "bindings", 0, "dims", to=[]), "must name different"),
    "dims_a_number": (
        changed("parameters", 3, "bindings", 0, "dims", to=0),
        "axes's dims is made of integers; got 0",
    ),
    # Distributions.
    "kind_unknown": (
        changed(*GATE, "kind", to="HardConcret"),
        r"gates\[0\]: A distribution is one of .*'HardConcret'; the closest is 'HardConcrete'",
    ),
    "kind_a_number": (changed(*GATE, "kind", to=1), "A distribution is one of .* says 1"),
    "setting_out_of_range": (
        changed(*GATE, "gamma", to=0.5),
        r"gates\[0\]: HardConcrete refuses its settings: The stretch interval",
    ),
    "setting_a_text": (changed(*GATE, "zeta", to="1.1"), r"HardConcrete\.zeta is a float"),
    "setting_a_bool": (changed(*GATE, "temperature", to=True), "temperature is a float; got True"),
    "setting_none": (changed(*GATE, "temperature", to=None), "temperature is a float; got None"),
    "setting_0": (changed("gates", 4, "sigma", to=0), "GaussianGate refuses its settings"),
    # Names and bindings that do not fit each other.
    "binding_of_another_shape": (
        changed(*PARAMETER, "shape", to=[4, 5]),
        r"The gates 'fc1\.weight:element\(\)' have the shape '\(4, 3\)'; their bindings need",
    ),
    "gates_of_another_shape": (changed(*GATE, "shape", to=[3, 4]), "have the shape"),
    "one_gate_more": (changed("gates", 3, "shape", to=[3]), "'rnn.weight' have the shape"),
    "slices_of_two_sizes": (
        changed("parameters", 1, "shape", to=[5]),
        "All slices of group 'units' have the same number of gates",
    ),
    "no_bindings": (
        changed("parameters", 6, "bindings", to=[]),
        r"The gates 'rnn\.weight' are on no parameter",
    ),
    "nothing_multiplied": (
        changed("parameters", 6, "bindings", 0, "multiplies", to=False),
        r"'rnn\.weight' multiply no parameter",
    ),
    "a_buffer_multiplied": (
        changed(*BUFFER, "bindings", 0, "multiplies", to=True),
        r"The buffer 'bn\.running_mean' is multiplied",
    ),
    "integers_multiplied": (
        changed(*PARAMETER, "dtype", to="int64"),
        "A gate scales",
    ),
    "unknown_gate": (
        changed(*AXIS, "gate", to="unit"),
        r"'fc1\.weight' names the gate 'unit'; the closest is 'units'",
    ),
    "gate_twice": (appended("gates", 0), "gates: Two sets of gates have the name 'fc1"),
    "parameter_twice": (appended("parameters", 0), "parameters: Two parameters have the path"),
    "buffer_twice": (appended("buffers", 0), "buffers: Two buffers have the path"),
    "group_twice": (appended("attrs", 0), "attrs: Two groups have the name 'units'"),
    "binding_twice": (
        changed(*AXIS, to=DOCUMENT["parameters"][0]["bindings"][0]),
        "is on 'fc1.weight' twice by the same rule",
    ),
    "attrs_of_no_group": (changed("attrs", 0, 0, to="unitz"), "the group 'unitz', without gates"),
    "attrs_no_pair": (changed("attrs", 0, to=["units"]), r"attrs\[0\] is a pair"),
    "attrs_no_json": (changed("attrs", 0, 1, to="{"), r"attrs\[0\]\[1\] is JSON"),
    "attrs_no_record": (changed("attrs", 0, 1, to="[1]"), r"is the JSON of a record; got '\[1\]'"),
    "attrs_nested": (changed("attrs", 0, 1, to="[" * 10**5), "nests too deeply"),
    "no_parameters": ({"gates": [], "parameters": [], "buffers": [], "attrs": []}, "is empty"),
}


@pytest.mark.parametrize(("document", "words"), REFUSED.values(), ids=REFUSED)
def test_a_spec_that_gate_spec_would_not_build_is_refused(document, words):
    with pytest.raises(ValueError, match=words) as caught:
        l0.GateSpec.from_json(json.dumps(document))
    assert type(caught.value) is ValueError
    assert str(caught.value).startswith("spec: ")


TEXTS = {
    "": "not JSON",
    "nothing": "not JSON",
    "null": "is a record; got None",
    "3": "is a record; got 3",
    '"spec"': "is a record; got 'spec'",
    "[1, 2]": "is a record; got list of 2",
    "{": "not JSON",
    '{"gates": []} {"gates": []}': "not JSON",
    "[" * 10**5: "nests too deeply",
    '{"a":' * 10**5: "nests too deeply",
    "9" * 10**6: "has more than 64 bits",
    '{"gates": [], "gates": []}': "the name 'gates' is there twice",
    '{"gates": NaN}': "NaN is no number in JSON",
    '{"gates": -Infinity}': "-Infinity is no number in JSON",
    "\ufeff{}": "not JSON",
    b"\xff\xfe\xfd": "(not JSON|not UTF-8)",
    b"\x80\x04\x95": "(not JSON|not UTF-8)",
}


@pytest.mark.parametrize(("text", "words"), TEXTS.items(), ids=[repr(text[:12]) for text in TEXTS])
def test_a_text_that_is_no_spec_says_so(text, words):
    begin = time.perf_counter()
    with pytest.raises(ValueError, match=rf"^spec: A spec's text comes from.*{words}"):
        l0.GateSpec.from_json(text)
    assert time.perf_counter() - begin < 1.0


def test_settings_beyond_every_float_are_refused():
    for number in ("1e999", "-1e999", "1" * 400):
        text = OLD.replace('"gamma": -0.1', f'"gamma": {number}', 1)
        with pytest.raises(ValueError, match=r"finite number|64 bits"):
            l0.GateSpec.from_json(text)


@pytest.mark.parametrize("text", [None, 3, {"gates": []}, ["{}"], torch.ones(1)], ids=repr)
def test_what_is_no_text_is_a_type_error(text):
    with pytest.raises(TypeError, match=r"A spec's text comes from GateSpec\.to_json; got "):
        l0.GateSpec.from_json(text)


def fuzz(count, seed):
    """The longest time that one mutated document took; each is a spec or a ValueError."""
    rng = random.Random(seed)
    documents = [json.loads(spec.to_json()) for _, spec in SPECS.values()] + [DOCUMENT]
    slowest = 0.0
    for _ in range(count):
        text = json.dumps(mutated(rng.choice(documents), rng))
        begin = time.perf_counter()
        try:
            spec = l0.GateSpec.from_json(text)
        except ValueError:
            pass
        else:
            assert l0.GateSpec.from_json(spec.to_json()) == spec
            hash(spec), str(spec)
        slowest = max(slowest, time.perf_counter() - begin)
    return slowest


@pytest.mark.parametrize(
    "count", [500, pytest.param(20_000, marks=pytest.mark.slow)], ids=["some", "many"]
)
def test_a_mutated_document_is_a_spec_or_a_value_error_in_bounded_time(count):
    assert fuzz(count, seed=count) < 5.0


@pytest.mark.parametrize("size", [100, pytest.param(5000, marks=pytest.mark.slow)])
def test_mutated_characters_are_a_spec_or_a_value_error(size):
    rng = random.Random(size)
    for _ in range(size):
        characters = list(OLD)
        for place in rng.sample(range(len(OLD)), 3):
            characters[place] = rng.choice('0123456789-.eE"[]{},: nulltruefalse\\\x00é')
        try:
            spec = l0.GateSpec.from_json("".join(characters))
        except ValueError:
            continue
        assert l0.GateSpec.from_json(spec.to_json()) == spec


DTYPES = sorted({str(v) for v in vars(torch).values() if isinstance(v, torch.dtype)})


@pytest.mark.parametrize("name", DTYPES)
def test_a_parameter_without_gates_has_any_dtype_of_torch(name):
    document = changed("parameters", 7, "dtype", to=name.removeprefix("torch."))
    spec = l0.GateSpec.from_json(json.dumps(document))
    assert str(spec.parameters[7].dtype) == name
    assert l0.GateSpec.from_json(spec.to_json()) == spec


def test_a_spec_of_numpys_numbers_is_the_spec_of_pythons():
    params = {"w": torch.ones(4, 4)}
    rules = {"w": l0.blocks(np.int64(0), np.int32(2), stop=np.int16(2))}
    spec = l0.gate_spec(params, rules, distribution=l0.HardConcrete(np.float32(0.5)))
    plain = l0.gate_spec(params, {"w": l0.blocks(0, 2, stop=2)}, distribution=l0.HardConcrete(0.5))
    again = l0.GateSpec.from_json(spec.to_json())
    assert re.search(r'"size": 2,.*"stop": 2', spec.to_json())
    # The gates are named after the parameter, so both specs have the same names.
    assert again == plain == spec


def test_a_tensor_with_the_most_entries_that_fit_64_bits_is_read_and_a_larger_one_refused():
    most = 2**58
    spec = l0.gate_spec({"w": torch.empty(most, device="meta")}, {"w": l0.whole()})
    assert l0.GateSpec.from_json(spec.to_json()) == spec
    larger = spec.to_json().replace(str(most), str(most + 1))
    with pytest.raises(ValueError, match="larger than any"):
        l0.GateSpec.from_json(larger)
