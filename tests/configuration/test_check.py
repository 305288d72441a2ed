"""The check before imports agrees with gin, file by file and flag by flag; help says what the files say."""

import ast
from pathlib import Path

import pytest

from medmt5 import config
from medmt5.cli import main
from medmt5.configuration import macros, signatures
from medmt5.configuration.check import PLACEHOLDERS, check_configuration
from medmt5.errors import InputError

ROOT = Path(__file__).resolve().parent.parent.parent
RECIPES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "gin/recipe").glob("*.gin"))
PLACES = ["MODEL_DIR = '/a'", "TOKEN_STORE = '/a'", "VOCABULARY = '/a'"]


@pytest.mark.parametrize("recipe", RECIPES)
def test_what_gin_builds_passes_and_literals_are_gins_own(recipe):
    values = check_configuration("train.Experiment", [recipe], placeholders=PLACEHOLDERS)
    built = config.build("train.Experiment", [recipe], placeholders=PLACEHOLDERS).value
    for name in set(values) - {"model_dir", "token_store", "vocabulary", "initial_checkpoint_path"}:
        assert values[name] == getattr(built, name), name
    assert {"batch_size", "train_steps", "feature_lengths", "mixture"} <= set(values)


def test_a_resolved_configuration_passes(tmp_path):
    file = tmp_path / "config.gin"
    file.write_text(config.build("train.Experiment", RECIPES[-2:-1], PLACES).resolved, encoding="utf-8")
    check_configuration("train.Experiment", [str(file)])


def test_later_files_and_flags_win_and_search_paths_are_searched(tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other/mine.gin").write_text("BATCH_SIZE = 24\nTRAIN_STEPS = 7\n", encoding="utf-8")
    arguments = ("train.Experiment", ["gin/recipe/tiny_pretrain.gin", "mine.gin"])
    flags = [*PLACES, "TRAIN_STEPS = 9"]
    values = check_configuration(*arguments, flags, [str(tmp_path / "other")])
    assert (values["batch_size"], values["train_steps"]) == (24, 9)
    built = config.build(*arguments, flags, [str(tmp_path / "other")]).value
    assert (built.batch_size, built.train_steps) == (24, 9)


def test_a_scoped_reference_takes_the_bindings_of_its_scope(tmp_path):
    file = tmp_path / "scoped.gin"
    file.write_text(
        "from __gin__ import dynamic_registration\nfrom medmt5.training import schedules\n"
        "SCHEDULE = @slow/schedules.cosine()\nslow/schedules.cosine.warmup_steps = 5\n",
        encoding="utf-8",
    )
    arguments = ("train.Experiment", ["gin/recipe/tiny_pretrain.gin", str(file)], PLACES)
    check_configuration(*arguments)
    config.build(*arguments)
    file.write_text(file.read_text().replace("slow/schedules.cosine.w", "slwo/schedules.cosine.w"), encoding="utf-8")
    with pytest.raises(InputError, match=r"scoped.gin:4: nothing uses slwo/schedules.cosine.warmup_steps"):
        check_configuration(*arguments)


def test_blocks_are_read_as_gin_reads_them(tmp_path):
    file = tmp_path / "block.gin"
    head = "from __gin__ import dynamic_registration\nfrom medmt5.training import schedules\n"
    file.write_text(head + "schedules.cosine:\n  warmup_steps = 5\n  learning_rate = 0.1\n", encoding="utf-8")
    arguments = ("train.Experiment", ["gin/recipe/tiny_pretrain.gin", str(file)], PLACES)
    check_configuration(*arguments)
    config.build(*arguments)
    file.write_text(head + "schedules.cosine:\n  warmup = 5\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"block.gin:4: schedules.cosine has no parameter warmup; did you mean"):
        check_configuration(*arguments)


def test_all_problems_are_told_at_once():
    with pytest.raises(InputError) as error:
        check_configuration("train.Experiment", ["gin/recipe/tiny_pretrain.gin"], [*PLACES, "A = 1", "EVAL_STEP = 2"])
    assert "macro A;" in str(error.value)
    assert "did you mean EVAL_STEPS?" in str(error.value)


def test_signatures_are_those_of_the_imported_modules():
    import dataclasses
    import inspect

    from medmt5.model.mt5 import MT5Config
    from medmt5.training import optimizers, schedules

    for module in (optimizers, schedules):
        found = signatures.signatures(module.__name__)
        for name, function in inspect.getmembers(module, inspect.isfunction):
            if function.__module__ == module.__name__:
                real = inspect.signature(function).parameters
                assert list(found[name].parameters) == list(real)
                assert [p.required for p in found[name].parameters.values()] == [
                    p.default is inspect.Parameter.empty for p in real.values()
                ]
    fields = signatures.signatures("medmt5.model.mt5")["MT5Config"].parameters
    assert list(fields) == [f.name for f in dataclasses.fields(MT5Config)]


def test_help_lists_every_recipe_and_macro_with_default_and_comment(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["train", "--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert all(recipe in out for recipe in RECIPES)
    lines = {line.split()[0]: line for line in out.splitlines() if line.startswith("  ") and line.strip()}
    assert "[1000] steps between losses on the dev split" in lines["EVAL_PERIOD"]
    assert "[required]" in lines["MODEL_DIR"]
    assert "[finetune: 1e-4, pretrain: 0.001] of the schedule" in lines["LEARNING_RATE"]
    assert lines.keys() >= macros.macros().keys()


def test_every_macro_is_commented_in_one_way_and_its_default_is_a_gin_value():
    for name, (defaults, comments) in macros.macros().items():
        assert len(comments) == 1 or name == "INITIAL_CHECKPOINT_PATH", (name, comments)
        assert comments, name
        for value in defaults.values():
            assert value == "%gin.REQUIRED" or ast.literal_eval(value) is not object
