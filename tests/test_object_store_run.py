"""A run whose MODEL_DIR, token stores and vocabulary lie on an object store: cut off while it saves, gone on with from
another machine, it ends as one on this disk that was left alone, bit for bit.
"""

import json
import shutil

import numpy as np
import pytest
from etils import epath

from medmt5 import storage
from medmt5.checkpoints import lease, object_store
from medmt5.cli import main
from medmt5.tokens.mixture import Mixture
from medmt5.tokens.store import StoreWriter
from medmt5.trained_model import load_trained_model
from medmt5.training.metrics_log import TIMES

STEPS = 3
MACROS = {
    "MIXTURE_OR_TASK_NAME": "words",
    "VOCAB_SIZE": 640,
    "mt5.MT5Config.emb_dim": 16,
    "mt5.MT5Config.num_encoder_layers": 1,
    "mt5.MT5Config.num_decoder_layers": 1,
    "DROPOUT_RATE": 0.1,
    "TASK_FEATURE_LENGTHS": {"inputs": 16, "targets": 8},
    "BATCH_SIZE": 8,
    "TRAIN_STEPS": STEPS,
    "CHECKPOINT_PERIOD": 1,
    "CHECKPOINTS_TO_KEEP": 2,
    "EVAL_PERIOD": 3,
    "EVAL_STEPS": 1,
    "LOG_PERIOD": 1,
}


@pytest.fixture
def places(tokenizer, tmp_path):
    """A token store and a vocabulary on the disk."""
    rng = np.random.default_rng(0)
    for split, documents in (("train", 40), ("dev", 5)):
        with StoreWriter(
            tmp_path / "tokens" / "words" / split,
            task="words",
            split=split,
            objective="span_corruption",
            tokenizer=tokenizer,
        ) as store:
            for _ in range(documents):
                store.write({"targets": rng.integers(260, 490, rng.integers(10, 60))})
    Mixture("words", (("words", 1.0),)).write(tmp_path / "tokens")
    shutil.copyfile(tokenizer.model_file, tmp_path / "spiece.model")
    return tmp_path


def train(root, model_dir="run") -> int:
    values = MACROS | {"MODEL_DIR": f"{root}/{model_dir}", "TOKEN_STORE": f"{root}/tokens"}
    values["VOCABULARY"] = f"{root}/spiece.model"
    flags = [f"--gin.{macro}={value}" for macro, value in values.items()]
    files = ("gin/recipe/tiny_pretrain.gin", "gin/mesh/one_device.gin")
    return main(["train", *(f"--gin_file={file}" for file in files), *flags])


def metrics(text: str) -> list[dict]:
    lines = [json.loads(line) for line in text.splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMES} for line in lines]


@pytest.mark.slow
def test_a_run_on_a_store_that_is_cut_off_ends_as_one_left_alone(places, s3_url, monkeypatch, capsys, tmp_path):
    assert train(places) == 0
    digests = json.loads((places / "run" / f"checkpoint_{STEPS}" / "digests" / "metadata").read_text())

    storage.put(places, s3_url, ["spiece.model", *(n for n in storage.files_in(places) if n.startswith("tokens/"))])
    path_class, url = type(epath.Path(s3_url)), f"{s3_url}/run"
    write = path_class.write_text

    def fail(path, *arguments, **options):
        if str(path).endswith(f"checkpoint_2/{object_store.MARK}"):
            raise ConnectionError("cut off")
        return write(path, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(path_class, "write_text", fail)
        patch.setattr(lease.Lease, "release", lambda self: None)  # it dies, so its lease stays
        assert train(s3_url) == 74
    assert "checkpoint_2 could not be saved" in capsys.readouterr().err
    assert object_store.finished_steps(url) == [0, 1]

    monkeypatch.setenv("MEDMT5_CACHE", str(tmp_path / "another_machine"))
    monkeypatch.setattr(lease, "EXPIRES_SECONDS", 0.3)
    monkeypatch.setattr(lease, "LOOK_SECONDS", 0.1)
    assert train(s3_url) == 0
    with storage.opened(url) as store:
        files = {name: store.cat_file(f"{url}/{name}").decode() for name in ("metrics.jsonl", "goodput.jsonl")}
        assert json.loads(store.cat_file(f"{url}/checkpoint_{STEPS}/digests/metadata")) == digests
    assert metrics(files["metrics.jsonl"]) == metrics((places / "run" / "metrics.jsonl").read_text())
    assert [json.loads(line)["start_step"] for line in files["goodput.jsonl"].splitlines()] == [0, 1]
    assert object_store.finished_steps(url) == [STEPS - 1, STEPS]
    there = {name.partition("/")[0] for name in storage.list_objects(url)}
    assert {"config.gin", "model.json", "vocabulary.model", "train"} <= there
    assert not {"lock", "run"} & there
    model = load_trained_model(url)
    assert (model.step, storage.origin(model.checkpoint)) == (STEPS, f"{url}/checkpoint_{STEPS}")
