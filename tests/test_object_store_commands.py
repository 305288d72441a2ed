"""The commands with places on object stores: what they write there another machine reads, what they cannot take they
refuse at once.
"""

import json

import pytest

from medmt5 import storage
from medmt5.cli import main
from medmt5.doctor import check_writing
from medmt5.evaluation import results
from medmt5.evaluation.results import fetch_results, find_evaluation, read_scores


@pytest.fixture
def notes(tmp_path):
    """A data directory with three notes in French."""
    folder = tmp_path / "data" / "fr" / "text"
    folder.mkdir(parents=True)
    for i in range(3):
        text = f"Note {i} : " + "la fièvre du patient est dans le dossier " * 3
        (folder / f"{i}.txt").write_text(text, encoding="utf-8")
    return tmp_path / "data"


def objects(url):
    return {name: thing.version for name, thing in storage.list_objects(url).items()}


def test_a_corpus_is_written_to_a_store_and_left_as_it_is_the_next_time(notes, gs_url, monkeypatch, tmp_path, caplog):
    command = ["corpus", "--data_dir", str(notes), "--output", f"{gs_url}/corpus", "--languages", "fr"]
    assert main(command) == 0
    written = objects(f"{gs_url}/corpus")
    assert set(written) == {"manifest.json", "fr/state.json", "fr/text-00000.jsonl.zst"}
    monkeypatch.setenv("MEDMT5_CACHE", str(tmp_path / "another"))
    caplog.set_level("INFO", "medmt5")
    assert main(command) == 0
    assert "fr: unchanged, kept" in caplog.text
    assert objects(f"{gs_url}/corpus").keys() == written.keys()

    vocabulary = ["vocabulary", "--corpus", f"{gs_url}/corpus", "--size", "380", "--output", str(tmp_path / "v.model")]
    with storage.opened(gs_url) as store:
        store.rm_file(f"{gs_url}/corpus/manifest.json")
    assert main(vocabulary) == 2


def test_an_evaluation_is_put_beside_its_checkpoint_and_reported_from_there(gs_url, monkeypatch, tmp_path):
    with storage.opened(gs_url) as store:
        for name in ("metrics.jsonl", "checkpoint_4/state/d/large", "checkpoint_4/commit_success.txt"):
            store.pipe_file(f"{gs_url}/{name}", b'{"step": 4, "loss": 1.0}\n')
    folder = storage.copy_of(gs_url) / "evaluation" / "checkpoint_4"
    results.write_predictions(folder / "t.test.jsonl", [])
    results.write_scores(folder / "scores.json", {"step": 4})
    storage.publish(folder)

    monkeypatch.setenv("MEDMT5_CACHE", str(tmp_path / "another"))
    for place, name in ((gs_url, ""), (f"{gs_url}/checkpoint_4", "checkpoint_4")):
        run = fetch_results(place)
        assert run == storage.copy_of(gs_url) / name
        assert read_scores(find_evaluation(run) / "scores.json") == {"step": 4}
    assert results.read_metrics(storage.copy_of(gs_url)) == [{"step": 4, "loss": 1.0}]
    assert not list(storage.copy_of(gs_url).glob("checkpoint_4/*"))
    assert fetch_results(tmp_path) == tmp_path


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["corpus", "--data_dir", "s3://b/raw", "--output", "x"], "must lie on a disk; copy it there"),
        (["label", "--checkpoint", "x", "--labels", "A", "--input", "gs://b/notes.txt"], "must lie on a disk"),
        (["report", "--run", "a=x", "--output", "s3://b/r.html"], "must lie on a disk"),
        (["evaluate", "--checkpoint", "az://b/x", "--mixture", "m", "--token_store", "t"], "neither a path nor"),
        (["evaluate", "--checkpoint", "s3://b", "--mixture", "m", "--token_store", "t"], "neither a path nor"),
    ],
)
def test_places_that_a_command_cannot_take_are_refused_before_it_starts(command, message, capsys):
    with pytest.raises(SystemExit):
        main(command)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("macro", "message"),
    [
        ("MODEL_DIR=az://b/run", "az://b/run is neither a path nor s3://BUCKET/NAME"),
        ("TOKEN_STORE=s3://bucket", "s3://bucket is neither a path nor"),
        ("VOCABULARY=gs:/b/spiece.model", "gs:/b/spiece.model is neither a path nor"),
    ],
)
def test_a_configuration_with_half_a_url_is_refused(macro, message, capsys):
    values = dict.fromkeys(("MODEL_DIR", "TOKEN_STORE", "VOCABULARY"), "x") | {"MIXTURE_OR_TASK_NAME": "multitask"}
    flags = [f"--gin.{name}={value}" for name, value in (values | dict([macro.split("=")])).items()]
    assert main(["train", "--gin_file=gin/recipe/tiny_pretrain.gin", *flags]) == 2
    assert message in capsys.readouterr().err


def test_a_mean_of_the_last_checkpoints_of_a_store_is_refused(capsys):
    assert main(["average", "s3://b/run", "--last", "2", "--output", "x"]) == 2
    assert "name the checkpoints one by one" in capsys.readouterr().err


def test_the_doctor_writes_to_the_store_and_leaves_nothing(store_url):
    assert check_writing(store_url).ok
    assert storage.list_objects(store_url) == {}
    finding = check_writing(store_url.replace("bucket", "no-such-bucket"))
    assert not finding.ok
    assert json.dumps(finding.found)
