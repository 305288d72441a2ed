"""What gin/t5x names exists here, and its defaults are those of gin/run and gin/model. T5X is not needed for it.

Its own programs take the files in tests/tasks/test_t5x.py.
"""

import re
from pathlib import Path

import pytest

from medmt5.configuration.signatures import find_module, signatures
from medmt5.configuration.statements import Binding, Block, Import, Macro, Reference, read_statements

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "gin/t5x").rglob("*.gin"))
SIZES = ("tiny", "small", "base", "large", "xl", "xxl")
RUNS = ("pretrain", "finetune", "eval", "infer")
# Of T5X at the revision of setup.py's extra: gin files that may be included, macros of theirs that we use.
THEIRS = {f"t5x/configs/runs/{run}.gin" for run in RUNS}
THEIRS |= {f"t5x/examples/t5/mt5/{size}.gin" for size in SIZES[1:]}
THEIR_MACROS = {"TRAIN_STEPS"}


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory):
    """A folder with an empty file for each of T5X's."""
    folder = tmp_path_factory.mktemp("t5x")
    for name in THEIRS:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return [str(folder)]


def values_of(value):
    """Yields the macros and references in a gin value."""
    if isinstance(value, Macro | Reference):
        yield value
    elif isinstance(value, dict):
        yield from values_of([*value, *value.values()])
    elif isinstance(value, list | tuple):
        for item in value:
            yield from values_of(item)


def find_problems(files, search_paths):
    """Returns what a run of these files names that is neither here nor imported from T5X."""
    problems, imports = [], {}
    statements = read_statements(files, search_paths=search_paths)
    macros = THEIR_MACROS | {s.selector for s in statements if isinstance(s, Binding) and not s.parameter}

    def look_up(selector, parameter, at):
        first, _, name = selector.partition(".")
        module = imports.get(at.context, {}).get(first)
        if module is None:
            problems.append(f"{at.place}: {first} is not imported")
        elif module.startswith("medmt5"):
            signature = signatures(module).get(name)
            if signature is None:
                problems.append(f"{at.place}: {module} has no {name}")
            elif parameter and parameter not in signature.parameters:
                problems.append(f"{at.place}: {selector} has no {parameter}")

    for statement in statements:
        match statement:
            case Import(module=module):
                imports.setdefault(statement.context, {})[statement.name] = module
                if module.split(".")[0] not in ("__gin__", "__main__", "medmt5", "t5x"):
                    problems.append(f"{statement.place}: {module} is neither ours nor T5X's")
                if module.startswith("medmt5") and not find_module(module):
                    problems.append(f"{statement.place}: there is no {module}")
            case Block(selector=selector):
                look_up(selector, "", statement)
            case Binding(selector=selector, parameter=parameter, value=value):
                if parameter:
                    look_up(selector, parameter, statement)
                for item in values_of(value):
                    if isinstance(item, Reference):
                        look_up(item.selector, "", statement)
                    elif item.name not in {*macros, "gin.REQUIRED"}:
                        problems.append(f"{statement.place}: nothing defines {item.name}")
    return problems


def test_there_is_a_file_for_every_size_and_program():
    expected = [*(f"model/{size}" for size in (*SIZES, "mt5")), *RUNS, "train"]
    assert set(FILES) == {f"gin/t5x/{name}.gin" for name in expected}


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("size", SIZES)
def test_a_run_names_only_what_exists(stand_ins, size, run):
    assert find_problems([f"gin/t5x/model/{size}.gin", f"gin/t5x/{run}.gin"], stand_ins) == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("from medmt5.training import schedule", "x.gin:2: there is no medmt5.training.schedule"),
        ("import numpy", "x.gin:2: numpy is neither ours nor T5X's"),
        ("X = @schedules.cosine()", "x.gin:2: schedules is not imported"),
        ("from medmt5.model import lora\nX = [@lora.Lora]", "x.gin:3: medmt5.model.lora has no Lora"),
        ("from medmt5.training import schedules\nschedules.cosine.rate = 1", "x.gin:3: schedules.cosine has no rate"),
        ("X = {'a': %Y}", "x.gin:2: nothing defines Y"),
    ],
)  # fmt: skip
def test_a_name_that_does_not_exist_is_found(tmp_path, text, problem):
    file = tmp_path / "x.gin"
    file.write_text(f"from __gin__ import dynamic_registration\n{text}\n", encoding="utf-8")
    assert [line.removeprefix(f"{tmp_path}/") for line in find_problems([str(file)], [])] == [problem]


def literals(files, search_paths=()):
    """Returns name -> value, as gin has it at the end, of macros and of parameters without their function's name."""
    bindings = [s for s in read_statements(files, search_paths=search_paths) if isinstance(s, Binding)]
    return {b.parameter or b.selector: b.value for b in bindings}


@pytest.mark.parametrize("run", ["pretrain", "finetune"])
def test_defaults_are_those_of_our_runs(stand_ins, run):
    ours, theirs = literals([f"gin/run/{run}.gin"]), literals([f"gin/t5x/{run}.gin"], stand_ins)
    different = {name for name in ours.keys() & theirs.keys() if name.isupper() and ours[name] != theirs[name]}
    assert different == ({"INITIAL_CHECKPOINT_PATH"} if run == "pretrain" else set())  # None here, [] there
    assert {"LEARNING_RATE", "WARMUP_STEPS", "DROPOUT_RATE", "SCHEDULE"} <= ours.keys() & theirs.keys()
    assert ours.get("multiply_by_parameter_scale") == theirs.get("multiply_by_parameter_scale")


@pytest.mark.parametrize("size", SIZES)
def test_macros_of_a_model_have_our_defaults(stand_ins, size):
    ours, theirs = literals([f"gin/model/{size}.gin"]), literals([f"gin/t5x/model/{size}.gin"], stand_ins)
    for name in ("VOCAB_SIZE", "ACTIVATION_DTYPE"):
        assert theirs[name] == ours[name], name


def test_the_tiny_model_is_ours(stand_ins):
    ours, theirs = literals(["gin/model/tiny.gin"]), literals(["gin/t5x/model/tiny.gin"], stand_ins)
    dimensions = [name for name in ours if name.islower() and name.endswith(("_dim", "_heads", "_layers"))]
    assert {name: theirs.get(name) for name in dimensions if name != "scan_layers"} == {
        name: ours[name] for name in dimensions if name != "scan_layers"
    }


def test_the_extra_pins_the_revision_that_the_page_names():
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    revision = re.search(r"t5x @ git\+https://github.com/google-research/t5x@([0-9a-f]{40})", setup)[1]
    assert revision[:7] in (ROOT / "docs/from_t5x.md").read_text(encoding="utf-8")
