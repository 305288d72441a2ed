"""What users get wrong, and what they are told: one table. The first part is told before JAX is imported."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from medmt5 import train
from medmt5.cli import main
from medmt5.tokenizer import train_vocabulary
from medmt5.tokens.mixture import Mixture
from medmt5.tokens.store import StoreWriter
from medmt5.training import step as steps

ROOT = Path(__file__).resolve().parent.parent.parent
RECIPE = "--gin_file=gin/recipe/tiny_pretrain.gin"
PLACES = ["--gin.MODEL_DIR={tmp}/run", "--gin.TOKEN_STORE={tmp}/store", "--gin.VOCABULARY={tmp}/spiece.model"]
HEAD = "from __gin__ import dynamic_registration\nfrom medmt5.training import schedules\n"

# mistake -> (text of a gin file that is given after the recipe, or None; arguments; what the message says)
BEFORE_IMPORTS = {
    "no file": (None, [], "no configuration; give --gin_file=FILE, e.g. --gin_file=gin/recipe/tiny_pretrain.gin"),
    "misspelt file": (
        None,
        ["--gin_file=gin/recipe/tiny_pretrian.gin"],
        "no such gin file: gin/recipe/tiny_pretrian.gin (did you mean gin/recipe/tiny_pretrain.gin?)",
    ),
    "misspelt include": (
        "\ninclude 'gin/model/tinny.gin'\n",
        [RECIPE],
        "mine.gin:2: no such gin file: gin/model/tinny.gin (did you mean gin/model/tiny.gin?)",
    ),
    "file that includes itself": ("include '{tmp}/mine.gin'\n", [RECIPE], "mine.gin includes itself"),
    "file in another encoding": ("# m\udce9dical\n", [RECIPE], "mine.gin is no text in UTF-8, so no gin file"),
    "misspelt macro in a flag": (
        None,
        [RECIPE, "--gin.TRAIN_STEP=3"],
        "--gin.TRAIN_STEP: nothing uses the macro TRAIN_STEP; did you mean TRAIN_STEPS?",
    ),
    "misspelt macro in a file": (
        "\n\nBATCHSIZE = 3\n",
        [RECIPE],
        "mine.gin:3: nothing uses the macro BATCHSIZE; did you mean BATCH_SIZE?",
    ),
    "misspelt macro in a value": (
        None,
        [RECIPE, "--gin.EVAL_PERIOD=%CHECKPOINT_PERIODS"],
        "--gin.EVAL_PERIOD: nothing defines the macro CHECKPOINT_PERIODS; did you mean CHECKPOINT_PERIOD?",
    ),
    "misspelt parameter": (
        None,
        [RECIPE, "--gin.schedules.cosine.lerning_rate=3"],
        "--gin.schedules.cosine.lerning_rate: schedules.cosine has no parameter lerning_rate; "
        "did you mean learning_rate?",
    ),
    "misspelt parameter of a class": (
        None,
        [RECIPE, "--gin.mt5.MT5Config.num_layers=3"],
        "mt5.MT5Config has no parameter num_layers; did you mean ",
    ),
    "misspelt scope": (
        None,
        [RECIPE, "--gin.trian/train.Experiment.batch_size=3"],
        "nothing uses trian/train.Experiment.batch_size: it is not part of this run, or its scope is misspelt",
    ),
    "misspelt function in a file": (
        HEAD + "SCHEDULE = @schedules.cosinus()\n",
        [RECIPE],
        "mine.gin:3: medmt5.training.schedules has no cosinus; did you mean cosine?",
    ),
    "misspelt function in a flag": (
        None,
        [RECIPE, "--gin.OPTIMIZER=@optimizers.adafactr()"],
        "--gin.OPTIMIZER: no gin file of this run names optimizers.adafactr; did you mean optimizers.adafactor?",
    ),
    "function that only a file can name": (
        None,
        [RECIPE, "--gin.OPTIMIZER=@optimizers.adamw()"],
        "and a flag imports nothing; name it in one, after `from medmt5.training import optimizers`",
    ),
    "misspelt module": (
        "from __gin__ import dynamic_registration\nfrom medmt5.training import scedules\n",
        [RECIPE],
        "mine.gin:2: medmt5.training has no module scedules; did you mean schedules?",
    ),
    "module that is not imported": (
        HEAD + "optimizers.adafactor.decay_rate = 0.9\n",
        [RECIPE],
        "mine.gin:3: no line of this file imports optimizers of optimizers.adafactor; imported are schedules",
    ),
    "module of one's own that Python does not find": (
        "import my_tasks_of_medicine\n",
        [RECIPE],
        "mine.gin:1: there is no module my_tasks_of_medicine; if it is yours, name its folder: PYTHONPATH=FOLDER",
    ),
    "string without quotes in a file": ("\nMODEL_DIR = runs\n", [RECIPE], "a string needs quotes: 'runs'"),
    "path without quotes in a file": (
        "\nMODEL_DIR = /runs\n",
        [RECIPE],
        "mine.gin:2: cannot be read: MODEL_DIR = /runs",
    ),
    "quote that is not closed": (
        None,
        [RECIPE, "--gin.MIXTURE_OR_TASK_NAME='medical_corpus.all"],
        "--gin.MIXTURE_OR_TASK_NAME: ",
    ),
    "bracket that is not closed": (
        "\nTASK_FEATURE_LENGTHS = {'inputs': 96\n",
        [RECIPE],
        "a bracket or quote is not closed: TASK_FEATURE_LENGTHS = {'inputs': 96",
    ),
    "keys without quotes": (
        None,
        [RECIPE, "--gin.TASK_FEATURE_LENGTHS={inputs: 96, targets: 28}"],
        "--gin.TASK_FEATURE_LENGTHS: cannot be read: "
        "TASK_FEATURE_LENGTHS = {inputs: 96, targets: 28}; a string needs quotes: 'inputs'",
    ),
    "number with a point": (
        None,
        [RECIPE, "--gin.TRAIN_STEPS=1e3"],
        "--gin.TRAIN_STEPS: TRAIN_STEPS must be a whole number, not 1000.0; write 1000",
    ),
    "number with a comma": (None, [RECIPE, "--gin.TRAIN_STEPS=1,000"], "must be a whole number, not '1,000'"),
    "true of another language": (
        None,
        [RECIPE, "--gin.PACK=true"],
        "PACK must be True or False, not 'true'; write True",
    ),
    "number for a name": (
        None,
        [RECIPE, "--gin.MODEL_DIR=7"],
        "MODEL_DIR must be a string, not 7; write --gin.MODEL_DIR=\"'7'\"",
    ),
    "lengths in quotes": (
        None,
        [RECIPE, "--gin.TASK_FEATURE_LENGTHS={'inputs': '96', 'targets': '28'}"],
        "TASK_FEATURE_LENGTHS must be like {'inputs': 512, 'targets': 114}, not {'inputs': '96', 'targets': '28'}",
    ),
    "required macro": (
        None,
        ["--gin_file=gin/recipe/tiny_finetune.gin"],
        "required macros are not set; add --gin.INITIAL_CHECKPOINT_PATH=…",
    ),
    "a model and nothing else": (
        None,
        ["--gin_file=gin/model/tiny.gin"],
        "no file of this run sets up train.Experiment; include gin/run/pretrain.gin or gin/run/finetune.gin",
    ),
    "run file without a model": (
        None,
        ["--gin_file=gin/mesh/fsdp.gin", "--gin_file=gin/run/pretrain.gin"],
        "gin/run/train.gin:64: nothing defines the macro MODEL",
    ),
    "schedule of another run": (
        HEAD + "schedules.rsqrt.learning_rate = 1.0\n",
        [RECIPE],
        "mine.gin:3: nothing uses schedules.rsqrt.learning_rate: it is not part of this run",
    ),
    "parameter that is not given": (
        HEAD + "SCHEDULE = @schedules.rsqrt()\nschedules.rsqrt.learning_rate = 1.0\n",
        [RECIPE],
        "medmt5.training.schedules.rsqrt is called without warmup_steps; bind rsqrt.warmup_steps",
    ),
    "unknown task": (
        None,
        [RECIPE, "--gin.MIXTURE_OR_TASK_NAME=medical_corpus.al"],
        "no task or mixture 'medical_corpus.al'; did you mean medical_corpus.all",
    ),
    "flag without a value": (None, [RECIPE, "--gin.PACK"], "--gin.PACK sets nothing; write --gin.PACK=VALUE"),
    "flag of T5X": (
        None,
        [RECIPE, "--gin_bindings=PACK=True"],
        "unrecognized arguments: --gin_bindings=PACK=True; macros are set as --gin.NAME=VALUE",
    ),
}

# mistake -> (arguments, what the message says); before anything is compiled
BEFORE_COMPILING = {
    "no steps": ([RECIPE, "--gin.TRAIN_STEPS=0"], "train_steps must be a whole number of at least 1, not 0"),
    "missing length": ([RECIPE, "--gin.TASK_FEATURE_LENGTHS={'inputs': 96}"], "the lengths of 'inputs' and 'targets'"),
    "unknown type": ([RECIPE, "--gin.ACTIVATION_DTYPE=fp16"], "'float32' or 'bfloat16', not 'fp16'"),
    "unknown remat policy": (
        [RECIPE, "--gin.REMAT_POLICY=all"],
        "must be one of ['none', 'minimal', 'full'], not 'all'",
    ),
    "batch that does not divide": ([RECIPE, "--gin.BATCH_SIZE=12"], "12"),
    "microbatches that do not divide": ([RECIPE, "--gin.NUM_MICROBATCHES=3"], "3"),
    "groups that do not divide": (
        [RECIPE, "--gin_file=gin/mesh/tensor_parallel.gin", "--gin.NUM_MODEL_PARTITIONS=3"],
        "8 devices cannot be split into groups of NUM_MODEL_PARTITIONS = 3; set it to a divisor of 8",
    ),
    "heads that do not divide": (
        [RECIPE, "--gin_file=gin/mesh/tensor_parallel.gin", "--gin.NUM_MODEL_PARTITIONS=8"],
        "num_heads = 4 of the model does not divide into NUM_MODEL_PARTITIONS = 8 parts; choose a divisor of 4",
    ),
    "no vocabulary": (
        [RECIPE, "--gin.VOCABULARY={tmp}/nothing.model"],
        "no SentencePiece model at {tmp}/nothing.model",
    ),
    "vocabulary of more pieces than rows": (
        [RECIPE, "--gin.VOCAB_SIZE=512"],
        "set VOCAB_SIZE to at least 624, e.g. 640",
    ),
    "vocabulary of another size than the store's": (
        [RECIPE, "--gin.VOCABULARY={tmp}/other.model"],
        "was made with another vocabulary (sha256",
    ),
    "inputs too short for span corruption": (
        [RECIPE, "--gin.TASK_FEATURE_LENGTHS={'inputs': 2, 'targets': 28}"],
        "span corruption needs inputs of at least 3 tokens",
    ),
    "targets too short for span corruption": (
        [RECIPE, "--gin.TASK_FEATURE_LENGTHS={'inputs': 96, 'targets': 9}"],
        "TASK_FEATURE_LENGTHS gives them 9; set 'targets' to ",
    ),
    "no checkpoint": (
        [RECIPE, "--gin.INITIAL_CHECKPOINT_PATH={tmp}/nothing"],
        "no such folder: {tmp}/nothing; give a MODEL_DIR",
    ),
    "spike below the mean": ([RECIPE, "--gin.LOSS_SPIKE_FACTOR=0.5"], "must be None or a number above 1, not 0.5"),
}


# Prints [exit code, message, what of the heavy was imported] of each list of arguments, in one process.
PROGRAM = """
import contextlib, io, json, sys
from medmt5.cli import main
results = []
for arguments in json.load(sys.stdin):
    with contextlib.redirect_stderr(io.StringIO()) as told:
        code = main(arguments)
    results.append([code, told.getvalue(), sorted({"jax", "tensorflow", "seqio", "orbax"} & sys.modules.keys())])
print(json.dumps(results))
"""


def write_files(tmp):
    """Writes the gin file of each mistake, and returns mistake -> arguments."""
    commands = {}
    for i, (name, (text, given, _)) in enumerate(BEFORE_IMPORTS.items()):
        folder = tmp / str(i)
        folder.mkdir()
        file = []
        if text is not None:
            (folder / "mine.gin").write_bytes(text.replace("{tmp}", str(folder)).encode("utf-8", "surrogateescape"))
            file = [f"--gin_file={folder}/mine.gin"]
        places = [f"--gin.{flag}" for flag in ("MODEL_DIR=/a", "TOKEN_STORE=/a", "VOCABULARY=/a")]
        commands[name] = ["train", *given[:1], *file, *places, *given[1:]]
    return commands


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """mistake -> [exit code, message, heavy imports], of those that need none."""
    commands = write_files(tmp_path_factory.mktemp("mistakes"))
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json.dumps(list(commands.values())),
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return dict(zip(commands, json.loads(result.stdout), strict=True))


@pytest.mark.parametrize("mistake", BEFORE_IMPORTS)
def test_a_mistake_in_the_configuration_is_named_before_anything_heavy_is_imported(told, mistake):
    code, message, heavy = told[mistake]
    assert BEFORE_IMPORTS[mistake][2] in message
    assert code == 2
    assert not heavy
    assert message.startswith("medmt5 train: ")
    assert message.count("\n") == 1


@pytest.fixture(scope="module")
def places(tmp_path_factory, tokenizer):
    """A folder with a token store of random documents, its vocabulary, and another one."""
    tmp = tmp_path_factory.mktemp("places")
    rng = np.random.default_rng(0)
    for split in ("train", "dev"):
        folder = tmp / "store" / "medical_corpus.en" / split
        with StoreWriter(
            folder, task="medical_corpus.en", split=split, objective="span_corruption", tokenizer=tokenizer
        ) as w:
            for length in rng.integers(5, 60, 30):
                w.write({"targets": rng.integers(300, 500, length)})
    Mixture("medical_corpus.all", (("medical_corpus.en", 1.0),)).write(tmp / "store")
    (tmp / "spiece.model").write_bytes(tokenizer.model_file.read_bytes())
    train_vocabulary([f"paciente con nefritis {i} aguda" for i in range(300)], tmp / "other.model", size=400)
    return tmp


@pytest.mark.parametrize("mistake", BEFORE_COMPILING)
def test_what_needs_shapes_or_files_is_named_before_anything_is_compiled(places, mistake, capsys, monkeypatch):
    def compiled(*arguments, **options):
        raise AssertionError("the run went on to make its state, or its train step")

    monkeypatch.setattr(steps, "create_state", compiled)
    monkeypatch.setattr(train, "make_train_step", compiled)
    given, message = BEFORE_COMPILING[mistake]
    flags = [a.replace("{tmp}", str(places)) for a in [given[0], *PLACES, *given[1:]]]
    assert main(["train", *flags]) == 2
    assert message.replace("{tmp}", str(places)) in capsys.readouterr().err


def test_there_are_thirty_and_more():
    assert len(BEFORE_IMPORTS) + len(BEFORE_COMPILING) >= 30


def test_python_m_medmt5_train_tells_a_mistake_before_it_imports_jax():
    command = [sys.executable, "-X", "importtime", "-m", "medmt5.train", RECIPE, "--gin.TRAIN_STEP=3"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
    imported = {
        line.rpartition("|")[2].strip() for line in result.stderr.splitlines() if line.startswith("import time")
    }
    assert result.returncode == 2
    assert "did you mean TRAIN_STEPS?" in result.stderr
    assert "medmt5.configuration.check" in imported
    assert not {"jax", "tensorflow"} & imported
