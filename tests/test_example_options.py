"""An example refuses an option that no run can use: at once, in one line, by the option's name."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

import pytest
import torch.distributed.fsdp as fsdp
from matplotlib.figure import Figure

EXAMPLES = Path(__file__).parent.parent / "examples"
WHOLE = "is not a whole number of at least"
POSITIVE = "is not a positive number"
FOLDER = "is a folder; name a file"
NOWHERE = "there is no folder 'no'; make it first"
ENDING = "does not end in one of .png, .svg, .pdf, .jpg"
REFUSED = [
    ("quickstart", "--epochs -1", f"{WHOLE} 1"),
    ("quickstart", "--epochs 1.5", f"{WHOLE} 1"),
    ("quickstart", "--picture folder", FOLDER),
    ("quickstart", "--picture pictures", ENDING),
    ("quickstart", "--picture folder.png", FOLDER),
    ("quickstart", "--picture no/x.png", NOWHERE),
    ("compact_cnn", "--epochs 0", f"{WHOLE} 1"),
    ("compact_cnn", "--lam 1 -1 1", "is not 0 or a positive number"),
    ("compact_cnn", "--lam 1 nan 1", "is not 0 or a positive number"),
    ("compact_cnn", "--picture no/x.png", NOWHERE),
    ("complexity", "--steps 0", f"{WHOLE} 1"),
    ("complexity", "--seeds 1", f"{WHOLE} 2"),
    ("complexity", "--data no.npz", "there is no 'no.npz'. Get mnist.npz from"),
    ("complexity", "--picture x.doc", ENDING),
    ("cooper_target", "--target 1.5", "is not a number above 0 and at most 1"),
    ("cooper_target", "--target -1", "is not a number above 0 and at most 1"),
    ("cooper_target", "--target 0", "is not a number above 0 and at most 1"),
    ("cooper_target", "--steps 0", f"{WHOLE} 1"),
    ("distributed", "--steps 0", f"{WHOLE} 1"),
    ("distributed", "--every 0", f"{WHOLE} 1"),
    ("distributed", "--folder file.txt/run", "is no folder: file.txt is a file"),
    ("distributed", "--kill PP 3", "one of DDP, FSDP2, TP, and a step from 1 to 40"),
    ("distributed", "--kill TP 41", "one of DDP, FSDP2, TP, and a step from 1 to 40"),
    ("efficientnet", "--seed -1", f"{WHOLE} 0"),
    ("efficientnet", "--device abacus", "torch has no 'abacus' here"),
    ("efficientnet", "--folder file.txt", "is no folder: file.txt is a file"),
    ("efficientnet", "--picture no/x.png", NOWHERE),
    ("gradient_noise", "--keys 0", f"{WHOLE} 2"),
    ("gradient_noise", "--keys 1", f"{WHOLE} 2"),
    ("gradient_noise", "--seconds -1", POSITIVE),
    ("gradient_noise", "--seconds inf", POSITIVE),
    ("gradient_noise", "--picture .", FOLDER),
    ("lambda_path", "--steps 0", f"{WHOLE} 1"),
    ("lambda_path", "--picture no/x.png", NOWHERE),
    ("minilm", "--seed -1", f"{WHOLE} 0"),
    ("minilm", "--device meta", "torch has no 'meta' here"),
    ("minilm", "--weights no", "is no folder of a model: it has no config.json"),
    ("minilm", "--text no/text.txt", NOWHERE),
    ("minilm", "--folder file.txt", "is no folder"),
    ("minilm", "--picture no/x.png", NOWHERE),
    ("minilm", "--settings {", "Expecting property name"),
    ("minilm", "--settings [1]", "a JSON object has some of the names targets, gates_steps,"),
    ("minilm", '--settings {"bath":3}', "a JSON object has some of the names"),
    ("minilm", '--settings {"batch":"many"}', "batch is written like 64; got 'many'"),
    ("minilm", '--settings {"batch":-3}', "batch is written like 64; got -3"),
    ("minilm", '--settings {"keep":1}', "keep is written like true; got 1"),
    ("minilm", '--settings {"steps":[]}', "steps is written like [120, 440]; got []"),
    ("minilm", '--settings {"steps":[1]}', "have a number for each target"),
    ("minilm", '--settings {"targets":[0.5,0.75]}', "targets fall, from below 1"),
    ("minilm", '--settings {"batch":32}', "runs of other settings need their own --folder"),
    ("ocr", "--seed -1", f"{WHOLE} 0"),
    ("ocr", "--device abacus", "torch has no 'abacus' here"),
    ("ocr", "--weights folder.png", "there is no file 'folder.png'"),
    ("ocr", "--images folder.png", FOLDER),
    ("ocr", "--folder file.txt", "is no folder"),
    ("ocr", "--picture no/x.png", NOWHERE),
    ("pixels", "--steps 0", f"{WHOLE} 1"),
    ("pixels", "--data no.npz", "there is no 'no.npz'. Get mnist.npz from"),
    ("pixels", "--picture no/x.png", NOWHERE),
    ("reproduce/lenet5", "--epochs 0", f"{WHOLE} 1"),
    ("reproduce/lenet5", "--seeds 0", f"{WHOLE} 1"),
    ("reproduce/lenet5", "--epochs 1", "a changed row needs a --folder of its own"),
    ("reproduce/lenet5", "--data no.npz", "There is no no.npz. Get mnist.npz from"),
    ("seed_tasks", "--share -1", POSITIVE),
    ("seed_tasks", "--share nan", POSITIVE),
]
TAKEN = [
    ("quickstart", "--epochs 1 --picture new.PNG"),
    ("compact_cnn", "--epochs 1 --lam 0 1 2 --picture folder/x.svg"),
    ("complexity", "--data file.txt --steps 1 --seeds 2"),
    ("cooper_target", "--target 1 --steps 1"),
    ("distributed", "--steps 3 --every 5 --folder new/run --kill TP 3"),
    ("efficientnet", "--folder new/run --device cpu"),
    ("gradient_noise", "--keys 2 --seconds 1e-3"),
    ("lambda_path", "--steps 1 --picture x.pdf"),
    ("minilm", '--settings {"targets":[0.6,0.3],"batch":32} --folder new --text new.txt'),
    ("minilm", '--quick --settings {"lr":1}'),
    ("ocr", "--images new.npz --weights file.txt"),
    ("pixels", "--steps 1 --picture x.jpg"),
    ("reproduce/lenet5", "--epochs 1 --folder new"),
    ("seed_tasks", "--share 2"),
]


class Parsed(Exception):
    """The example has read its options, and would begin to work."""


@pytest.fixture
def call(tmp_path, monkeypatch):
    """Calls an example with options, in a folder that holds a file and two folders."""
    monkeypatch.chdir(tmp_path)
    for folder in ("folder", "folder.png"):
        Path(folder).mkdir()
    Path("file.txt").touch()

    def called(name, options):
        if name == "cooper_target":
            pytest.importorskip("cooper")
        if name == "distributed" and not hasattr(fsdp, "fully_shard"):
            pytest.skip("torch 2.6 spreads tensors over processes")
        script = EXAMPLES / f"{name}.py"
        monkeypatch.syspath_prepend(str(EXAMPLES))
        monkeypatch.syspath_prepend(str(script.parent))
        monkeypatch.setattr(sys, "argv", [script.name, *options.split()])
        module = importlib.import_module(script.stem)
        if name == "reproduce/lenet5":
            return module.main(module.NETWORK, module.ROWS, {})
        return module.main()

    return called


@pytest.mark.parametrize(("name", "options", "words"), REFUSED)
def test_a_value_that_no_run_can_use_is_refused_in_one_line(name, options, words, call, capsys):
    with pytest.raises(SystemExit) as stopped:
        call(name, options)
    assert stopped.value.code == 2
    *_, line = capsys.readouterr().err.splitlines()
    assert f"error: argument {options.split()[0]}" in line
    assert words in line
    assert sorted(path.name for path in Path().iterdir()) == ["file.txt", "folder", "folder.png"]


@pytest.mark.parametrize(("name", "options"), TAKEN)
def test_a_value_that_a_run_can_use_is_taken(name, options, call, monkeypatch):
    parse = argparse.ArgumentParser.parse_args

    def parsed(parser):
        parse(parser)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parsed)
    with pytest.raises(Parsed):
        call(name, options)


def test_a_run_on_processes_may_be_killed_in_its_last_step(call):
    with pytest.raises(SystemExit, match="Start it with: torchrun"):
        call("distributed", "--steps 3 --kill TP 3")


@pytest.mark.parametrize("quick", [True, False])
def test_settings_of_ones_own_take_the_place_of_the_usual_ones(quick, monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    settings = importlib.import_module("minilm_settings")
    usual = settings.QUICK if quick else settings.Settings()
    own = settings.changed(usual, '{"lr": 1, "keep": false}')
    assert (own.lr, own.keep, own.batch) == (1, False, usual.batch)
    assert settings.changed(usual, "{}") == usual


def test_matplotlib_writes_every_ending_that_a_picture_may_have(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    options = importlib.import_module("command_line")
    for ending in options.ENDINGS:
        file = options.picture(str(tmp_path / f"picture{ending}"))
        Figure(figsize=(1, 1)).savefig(file)
        assert file.stat().st_size > 100


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.png")), ids=lambda path: path.stem)
def test_no_example_writes_the_picture_of_the_page_by_default(path):
    script = path.with_suffix(".py").read_text()
    assert f'"--picture", type=cli.picture, default="{path.stem}_picture.png"' in script
