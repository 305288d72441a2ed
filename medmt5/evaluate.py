"""Scoring a checkpoint on every task of a mixture: labels the stored gold sentences, writes predictions and scores.

Gold and prompt come from the token stores, so no TensorFlow: what is scored is what the task defined.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from medmt5 import storage
from medmt5.annotation.example import LabelledExample
from medmt5.decoding.label_scores import Scoring
from medmt5.errors import InputError
from medmt5.evaluation.results import Prediction, write_predictions, write_scores
from medmt5.evaluation.summary import summarize
from medmt5.evaluation.tables import f1_table, ways_table
from medmt5.labelling import Labeller
from medmt5.progress import progress_bar
from medmt5.tokenizer import Tokenizer
from medmt5.tokens.copies import fetch_stores
from medmt5.tokens.mixture import Mixture
from medmt5.tokens.store import TokenStore, read_gold
from medmt5.trained_model import TrainedModel, load_trained_model


def evaluate(
    checkpoint: str | Path,
    mixture: str,
    token_store: str | Path,
    *,
    split: str = "test",
    max_sentences: int | None = None,
    beam_size: int = 4,
    scoring: Scoring = "full",
    batch_size: int = 32,
) -> dict[str, Any]:
    """Scores `checkpoint` on `split` of every task of `mixture` that has it; returns what it writes to
    `evaluation/checkpoint_<step>/scores.json`.

    `max_sentences`: of each task, the first so many.
    """
    stores, without = _open_stores(fetch_stores(token_store, mixture, (split,)), mixture, split)
    model = load_trained_model(checkpoint)
    labeller = Labeller(model, beam_size=beam_size, scoring=scoring, batch_size=batch_size)
    for store in stores:
        if store.manifest["objective"] != "pairs":
            raise InputError(
                f"{store.manifest['task']} has no labels to score; evaluate a mixture of sequence labelling"
            )
        store.check_vocabulary(_tokenizer_of(store, model))
    folder = model.checkpoint.parent / "evaluation" / model.checkpoint.name
    tasks: dict[str, tuple[list[Prediction], tuple[str, ...]]] = {}
    with progress_bar("label", sum(min(len(s), max_sentences or len(s)) for s in stores)) as advance:
        for store in stores:
            task = store.manifest["task"]
            examples = read_gold(store.directory)[:max_sentences]
            labels = _prompt(store, _tokenizer_of(store, model))
            predictions = _predict(labeller, examples, labels, batch_size, advance)
            write_predictions(folder / f"{task}.{split}.jsonl", predictions)
            tasks[task] = predictions, labels
    results: dict[str, Any] = {
        "checkpoint": storage.origin(model.checkpoint),
        "step": model.step,
        "split": split,
        "decoding": {"beam": beam_size, "scoring": scoring},
    } | summarize(tasks)
    write_scores(folder / "scores.json", results)
    storage.publish(folder)
    console = Console(soft_wrap=True)
    name = model.checkpoint.parent.name
    console.print(f1_table({name: results}), ways_table(results), sep="\n")
    if alone := results["bootstrap"]["sentences_as_documents"]:
        console.print(f"files without documents, so intervals are of sentences, and too narrow: {', '.join(alone)}")
    if without:
        console.print(f"without a {split} split, so not scored: {', '.join(without)}")
    console.print(f"written to {storage.origin(folder)}")
    return results


def _predict(
    labeller: Labeller, examples: list[LabelledExample], labels: tuple[str, ...], batch_size: int, advance
) -> list[Prediction]:
    predictions = []
    # Several batches at once, so that sentences of like length meet.
    for at in range(0, len(examples), 16 * batch_size):
        some = examples[at : at + 16 * batch_size]
        for example, labelled in zip(some, labeller.label([e.words for e in some], labels), strict=True):
            gold = tuple(example.word_spans)
            predictions.append(
                Prediction(
                    example.id,
                    example.lang,
                    tuple(example.words),
                    gold,
                    labelled.spans,
                    labelled.score,
                    example.document,
                )
            )
        advance(len(some))
    return predictions


def _open_stores(token_store: Path, mixture: str, split: str) -> tuple[list[TokenStore], list[str]]:
    """Returns the stores of the split, and the tasks of the mixture that have other splits only."""
    stores, without = [], []
    for task, _ in Mixture.read(token_store, mixture).tasks:
        others = sorted(path.parent.name for path in (token_store / task).glob("*/manifest.json"))
        if others and split not in others:
            without.append(task)
        else:
            stores.append(TokenStore(token_store / task / split))
    if not stores:
        raise InputError(f"no task of {mixture} has a split {split!r} in {token_store}; name another one with --split")
    return stores, without


def _tokenizer_of(store: TokenStore, model: TrainedModel) -> Tokenizer:
    """Returns the model's; if it has no label tokens, with those of the store, whose prompts name its labels."""
    tokenizer = model.tokenizer
    return tokenizer if tokenizer.labels else Tokenizer(tokenizer.model_file, store.manifest["vocabulary"]["labels"])


def _prompt(store: TokenStore, tokenizer: Tokenizer) -> tuple[str, ...]:
    """Returns the labels that the task's inputs begin with: what the model is asked for in training and in scoring
    alike.
    """
    labels = []
    for i in store[0]["inputs"] if len(store) else np.zeros(0, np.int32):
        if i < tokenizer.num_pieces:
            break
        labels.append(tokenizer.labels[(int(i) - tokenizer.num_pieces) // 2])
    if not labels:
        raise InputError(
            f"the inputs of {store.manifest['task']} name no labels; make its token store with the label prompt"
        )
    return tuple(labels)
