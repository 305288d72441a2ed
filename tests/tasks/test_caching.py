"""Token stores hold what tasks yield, are rebuilt when anything they hang on changes, and only then."""

import dataclasses
import json
import zlib
from functools import partial

import pytest
import seqio
import zstandard

from medmt5 import storage
from medmt5.annotation.tagged_text import parse_target
from medmt5.cli import main
from medmt5.datasets.declarations import DATASETS
from medmt5.datasets.declarations.declaration import Form
from medmt5.errors import InputError
from medmt5.mixtures.pretraining import text_size
from medmt5.tasks.caching import build_mixture
from medmt5.tasks.sequence_labelling import add_task
from medmt5.tokenizer import Tokenizer
from medmt5.tokens.copies import fetch_stores
from medmt5.tokens.mixture import Mixture
from medmt5.tokens.store import TokenStore, read_gold
from medmt5.train import open_stores


def stamps(root):
    return {
        path.parent.parent.name + "/" + path.parent.name: path.stat().st_mtime_ns
        for path in root.rglob("manifest.json")
    }


@pytest.fixture
def root(environment):
    return environment / "tokens"


def test_a_store_of_pairs_is_what_the_task_yields_with_its_gold(root, tokenizer):
    mixture = build_mixture("sample_diseases.es", root, tokenizer)
    assert (
        mixture
        == Mixture.read(root, "sample_diseases.es")
        == Mixture("sample_diseases.es", (("sample_diseases.es", 1.0),))
    )
    assert sorted(path.name for path in (root / "sample_diseases.es").iterdir()) == ["dev", "test", "train"]
    store = TokenStore(root / "sample_diseases.es/train")
    store.verify()
    store.check_vocabulary(tokenizer)
    task = seqio.get_mixture_or_task("sample_diseases.es").get_dataset(None, "train", shuffle=False)
    for i, example in enumerate(task.as_numpy_iterator()):
        assert {name: ids.tolist() for name, ids in store[i].items()} == {
            n: example[n].tolist() for n in ("inputs", "targets")
        }
    gold = read_gold(store.directory)
    assert [example.id for example in gold] == ["train-1", "train-2", "train-3"]
    for example, tokens in zip(gold, (store[i] for i in range(3)), strict=True):
        pieces = tokenizer.encode_words(example.words)
        assert parse_target(tokens["targets"].tolist(), pieces, tokenizer) == example.word_spans
    assert store.manifest["objective"] == "pairs"
    assert store.manifest["preprocessors"] == ["encode_examples"]


def test_a_store_of_text_holds_documents_without_eos(root, tokenizer):
    build_mixture("medical_corpus.es", root, tokenizer)
    store = TokenStore(root / "medical_corpus.es/train")
    assert store.manifest["objective"] == "span_corruption"
    assert store.features == ("targets",)
    assert len(store) + len(TokenStore(root / "medical_corpus.es/dev")) == 300
    assert tokenizer.decode(store[0]["targets"]).startswith("El niño tiene asma")
    assert 1 not in store[0]["targets"]


@pytest.fixture
def add_mixture():
    """Registers a mixture for one test."""
    names = []

    def add(name, *arguments, **options):
        seqio.MixtureRegistry.add(name, *arguments, **options)
        names.append(name)
        return name

    yield add
    for name in names:
        seqio.MixtureRegistry.remove(name)


def test_text_weighs_by_its_tokens(root, tokenizer, add_mixture):
    tasks = ["medical_corpus.en", "medical_corpus.es"]
    mixture = build_mixture(add_mixture("test_text", tasks, default_rate=text_size), root, tokenizer)
    assert dict(mixture.tasks) == {name: float(TokenStore(root / name / "train").lengths.sum()) for name in tasks}
    assert len(set(dict(mixture.tasks).values())) == 2


def test_a_temperature_and_a_limit_are_of_the_exact_sizes(root, environment, tokenizer, add_mixture):
    with (environment / "raw/sample_diseases/es/train.conll").open("a", encoding="utf-8") as file:
        file.write("\nOtra\tO\n" * 6)
    tasks = ["sample_diseases.en", "sample_diseases.es"]
    for name, options, expected in [
        ("test_temperature", {"temperature": 2.0}, (3**0.5, 3.0)),
        ("test_limit", {"maximum": 4, "temperature": 4.0}, (3**0.25, 4**0.25)),
    ]:
        add_mixture(name, tasks, default_rate=partial(seqio.mixing_rate_num_examples, **options))
        mixture = build_mixture(name, root, tokenizer)
        assert [rate for _, rate in mixture.tasks] == pytest.approx(expected, rel=1e-12)
        # As SeqIO itself computes it from its own count.
        registered = seqio.MixtureRegistry.get(name)
        assert [registered.get_rate(task) for task in registered.tasks] == pytest.approx(expected, rel=1e-12)


@pytest.fixture
def test_only():
    declaration = next(dataset for dataset in DATASETS if dataset.name == "sample_diseases")
    form = Form("conll", {"test": ("sample_diseases/{lang}/test.conll",)})
    declaration = dataclasses.replace(declaration, name="exam", forms=(form,))
    add_task(declaration, "es")
    yield "exam.es"
    seqio.TaskRegistry.remove("exam.es")


def test_a_task_without_train_split_is_for_evaluation(root, tokenizer, add_mixture, test_only):
    rate = seqio.mixing_rate_num_examples
    name = add_mixture("test_mixed", [("sample_diseases.en", rate), ("sample_diseases.es", 0.0), (test_only, 5.0)])
    mixture = build_mixture(name, root, tokenizer)
    assert mixture.tasks == (("exam.es", 0.0), ("sample_diseases.en", 3.0), ("sample_diseases.es", 0.0))
    assert {path.name for path in (root / test_only).iterdir()} == {"test"}
    trained_on = open_stores(mixture, root, "train", tokenizer)
    assert [(store.name, rate) for store, rate in trained_on] == [("sample_diseases.en/train", 3.0)]
    assert [store.name for store, _ in open_stores(mixture, root, "dev", tokenizer)] == ["sample_diseases.en/dev"]
    # SeqIO itself, asked for the same mixture, draws from the same task.
    examples = seqio.MixtureRegistry.get(name).get_dataset({"inputs": 64, "targets": 64}, "train", shuffle=False)
    assert {tokenizer.decode(e["inputs"])[:14] for e in examples.take(9).as_numpy_iterator()} == {
        "<Disease>The p",
        "<Disease>No fe",
    }


def test_a_mixture_for_evaluation_is_not_trained_on(root, tokenizer, add_mixture, test_only):
    mixture = build_mixture(add_mixture("test_exams", [test_only], default_rate=1.0), root, tokenizer)
    with pytest.raises(InputError, match="test_exams is for evaluation"):
        open_stores(mixture, root, "train", tokenizer)


def test_only_what_changed_is_built_again(root, environment, tokenizer, add_mixture):
    add_mixture("test_both", ["sample_diseases.en", "sample_diseases.es"], default_rate=seqio.mixing_rate_num_examples)
    build_mixture("test_both", root, tokenizer)
    first = stamps(root)
    assert len(first) == 6
    build_mixture("test_both", root, tokenizer)
    assert stamps(root) == first
    with (environment / "raw/sample_diseases/es/train.conll").open("a", encoding="utf-8") as file:
        file.write("\nOtra\tO\n")
    mixture = build_mixture("test_both", root, tokenizer)
    changed = {name for name, stamp in stamps(root).items() if stamp != first[name]}
    assert changed == {f"sample_diseases.es/{split}" for split in ("train", "dev", "test")}
    assert mixture.tasks == (("sample_diseases.en", 3.0), ("sample_diseases.es", 4.0))


def test_what_is_missing_is_told_before_anything_is_built(root, environment, tokenizer, add_mixture):
    (environment / "raw/sample_diseases/es/train.conll").unlink()
    name = add_mixture("test_missing", ["sample_diseases.en", "sample_diseases.es"], default_rate=1.0)
    with pytest.raises(InputError, match=r"sample_diseases/es/train\.conll is missing"):
        build_mixture(name, root, tokenizer)
    assert not stamps(root)


def test_rates_that_are_numbers_are_kept(root, tokenizer, add_mixture):
    rates = (("sample_diseases.en", 0.25), ("sample_diseases.es", 2.0))
    assert build_mixture(add_mixture("test_rates", list(rates)), root, tokenizer).tasks == rates


def test_a_split_without_documents_has_no_store_but_training_needs_one(root, environment, tokenizer):
    shard = environment / "corpus/es/text-00000.jsonl.zst"
    manifest = environment / "corpus/manifest.json"
    with zstandard.open(shard, "rt", encoding="utf-8") as file:
        lines = file.readlines()
    dev = [line for line in lines if zlib.crc32(json.loads(line)["id"].encode()) % 100 == 0]

    def build(documents):
        with zstandard.open(shard, "wt", encoding="utf-8") as file:
            file.writelines(documents)
        content = json.loads(manifest.read_text(encoding="utf-8"))
        content["shards"][1]["sha256"] = str(len(documents))
        manifest.write_text(json.dumps(content), encoding="utf-8")
        build_mixture("medical_corpus.es", root, tokenizer)

    build(lines)
    assert {path.name for path in (root / "medical_corpus.es").iterdir()} == {"dev", "train"}
    build([line for line in lines if line not in dev])
    assert {path.name for path in (root / "medical_corpus.es").iterdir()} == {"train"}
    with pytest.raises(InputError, match=r"medical_corpus\.es has no examples to train on"):
        build(dev)


def test_a_shard_that_is_cut_off_is_an_input_error_and_leaves_no_store(root, environment, tokenizer):
    shard = environment / "corpus/es/text-00000.jsonl.zst"
    shard.write_bytes(shard.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"^\S+text-00000\.jsonl\.zst"):
        build_mixture("medical_corpus.es", root, tokenizer)
    assert not list((root / "medical_corpus.es").iterdir())


def test_another_vocabulary_than_the_tasks_use_is_refused(root, tokenizer):
    with pytest.raises(InputError, match="MEDMT5_VOCABULARY names"):
        build_mixture("sample_diseases.en", root, Tokenizer(tokenizer.model_file, tokenizer.labels[:3]))


def test_an_unknown_name_is_told_with_the_nearest(root, tokenizer):
    with pytest.raises(InputError, match=r"no task or mixture 'sample_disease\.en'; did you mean sample_diseases\.en"):
        build_mixture("sample_disease.en", root, tokenizer)


def test_stores_made_on_an_object_store_are_kept_there_the_next_time(environment, gs_url, tokenizer, monkeypatch):
    storage.put(tokenizer.model_file.parent, gs_url, [tokenizer.model_file.name])
    command = ["tokens", "--mixture", "sample_diseases.es", "--token_store", f"{gs_url}/tokens"]
    command += ["--vocabulary", f"{gs_url}/{tokenizer.model_file.name}"]
    assert main(command) == 0
    made = storage.list_objects(f"{gs_url}/tokens")
    assert {name.rpartition("/")[0] for name in made if name.endswith("manifest.json")} == {
        f"sample_diseases.es/{split}" for split in ("train", "dev", "test")
    }
    monkeypatch.setenv("MEDMT5_CACHE", str(environment / "another_machine"))
    assert main(command) == 0
    assert storage.list_objects(f"{gs_url}/tokens") == made
    root = fetch_stores(f"{gs_url}/tokens", "sample_diseases.es", ("train",))
    assert len(read_gold(root / "sample_diseases.es" / "train")) == 3
