"""Runs of a tiny model: their token stores, and the experiment that gin files and macros make."""

import numpy as np
import pytest

from medmt5 import config
from medmt5.tokens.mixture import Mixture
from medmt5.tokens.store import StoreWriter

TASKS = ("notes.en", "notes.es")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tokenizer):
    """Token stores of two languages, 20 and 12 examples to train on, fewer to evaluate on."""
    folder = tmp_path_factory.mktemp("runs")
    rng = np.random.default_rng(0)
    for task, count in zip(TASKS, (20, 12), strict=True):
        for split, examples in (("train", count), ("dev", count // 4)):
            with StoreWriter(
                folder / "tokens" / task / split, task=task, split=split, objective="pairs", tokenizer=tokenizer
            ) as writer:
                for _ in range(examples):
                    ids = [*rng.integers(300, 500, rng.integers(2, 9)), 1]
                    writer.write({"inputs": ids, "targets": ids[-4:]})
    Mixture("notes", ((TASKS[0], 20.0), (TASKS[1], 12.0))).write(folder / "tokens")
    return folder


@pytest.fixture(scope="module")
def experiment(folder, tokenizer):
    """Returns make(model_dir, **macros) -> Experiment of one tiny model, the same program whatever the macros."""

    def make(model_dir, **macros):
        macros = {
            "MODEL_DIR": repr(str(folder / model_dir)), "TOKEN_STORE": repr(str(folder / "tokens")),
            "VOCABULARY": repr(str(tokenizer.model_file)), "MIXTURE_OR_TASK_NAME": "'notes'", "VOCAB_SIZE": 640,
            "TASK_FEATURE_LENGTHS": "{'inputs': 10, 'targets': 6}", "BATCH_SIZE": 4, "TRAIN_STEPS": 14,
            "EVAL_PERIOD": 7, "EVAL_STEPS": 3, "CHECKPOINT_PERIOD": 5, "LOG_PERIOD": 1, "MAX_SKIPPED_STEPS": 3,
            "mt5.MT5Config.num_encoder_layers": 1, "mt5.MT5Config.num_decoder_layers": 1, "mt5.MT5Config.emb_dim": 32,
            "partitioning.Partitioning.num_devices": 1,
        } | macros  # fmt: skip
        files = ["gin/model/tiny.gin", "gin/mesh/data_parallel.gin", "gin/run/pretrain.gin"]
        return config.build("train.Experiment", files, [f"{name} = {value}" for name, value in macros.items()]).value

    return make
