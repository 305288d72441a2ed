"""The Python door: a model of any format, to be asked for hidden states, probabilities, text and labels, and saved.

Texts are tokenised as they are, with EOS. In inputs and targets of `score` and `generate`, `<extra_id_0>` to
`<extra_id_99>` are mT5's sentinels; all else that looks like a special token is text. What goes through the model at
once is padded to lengths of `decoding.buckets`: texts of any length compile a handful of programs. No TensorFlow.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from medmt5 import partitioning
from medmt5.batch import shift_right
from medmt5.conversion.command import check_target, write_source
from medmt5.conversion.formats import OURS, Source
from medmt5.conversion.parameters import by_name
from medmt5.conversion.weights import TensorInfo
from medmt5.decoding.buckets import bucket_length
from medmt5.decoding.generation import make_generator, make_sampler
from medmt5.document_labelling import label_documents
from medmt5.errors import InputError
from medmt5.labelling import Labeller
from medmt5.model import mt5
from medmt5.trained_model import TrainedModel, load_trained_model

if TYPE_CHECKING:
    from medmt5.decoding.label_scores import Scoring

SENTINEL = re.compile(r"<extra_id_(\d{1,2})>")


class LoadedModel:
    """A model and what can be asked of it; `medmt5.load` makes one, `m` in the examples.

    Attributes:
      trained: parameters, shape, tokenizer; see `trained_model.TrainedModel`.
    """

    def __init__(self, trained: TrainedModel, batch_size: int = 8):
        self.trained = trained
        self._batch_size = batch_size

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Returns the encoder's last hidden states of each text, [tokens, embed] float32, EOS's last.

        >>> short, long = m.encode(["Fever.", "No fever, no cough."])
        >>> short.shape[1] == long.shape[1] == m.trained.config.emb_dim
        True
        >>> len(long) == len(m.trained.tokenizer.encode("No fever, no cough.")) + 1
        True
        """
        rows = [[*self.trained.tokenizer.encode(text), self.trained.tokenizer.eos_id] for text in texts]
        found: list[np.ndarray] = [np.empty(0)] * len(rows)
        for numbers, tokens in self._batches(rows):
            hidden = np.asarray(self._encode(self.trained.params, tokens), np.float32)
            for number, states in zip(numbers, hidden, strict=False):
                found[number] = states[: len(rows[number])]
        return found

    def score(self, inputs: Sequence[str], targets: Sequence[str]) -> np.ndarray:
        """Returns the log-probability of each target given its input, summed over its tokens and EOS: [n] float32.

        >>> scores = m.score(["No <extra_id_0>."] * 2, ["<extra_id_0> fever", "<extra_id_0> cough"])
        >>> scores.shape, bool((scores < 0).all())
        ((2,), True)

        Raises:
          InputError: as many targets as inputs are not given.
        """
        if len(inputs) != len(targets):
            raise InputError(
                f"score needs a target for each input; got {len(inputs)} inputs and {len(targets)} targets"
            )
        eos = self.trained.tokenizer.eos_id
        sources, wanted = ([[*self._with_sentinels(text), eos] for text in texts] for texts in (inputs, targets))
        found = np.zeros(len(inputs), np.float32)
        for numbers, tokens in self._batches(sources):
            outputs = self._pad([wanted[number] for number in numbers])
            batch = {"encoder_input_tokens": tokens, "decoder_input_tokens": shift_right(outputs)}
            found[numbers] = np.asarray(self._score(self.trained.params, batch, outputs))[: len(numbers)]
        return found

    def generate(
        self,
        inputs: Sequence[str],
        *,
        max_tokens: int = 128,
        beam_size: int = 1,
        top_p: float | None = None,
        temperature: float = 1.0,
        seed: int = 0,
    ) -> list[str]:
        """Returns an output for each input, cut at `max_tokens` if it has not ended by then.

        >>> drawn = m.generate(["No <extra_id_0>."], max_tokens=4, top_p=0.9, seed=1)
        >>> drawn == m.generate(["No <extra_id_0>."], max_tokens=4, top_p=0.9, seed=1)
        True

        Args:
          beam_size: 1 is greedy.
          top_p: draw from the nucleus of this probability instead (Holtzman et al. 2020), in (0, 1].
          temperature: of drawing.
          seed: of drawing; an output is a function of it, of its input and of the input's place.

        Raises:
          InputError: both `top_p` and beams.
        """
        if top_p is not None and beam_size != 1:
            raise InputError(f"drawing (top_p = {top_p}) keeps one hypothesis; leave beam_size = {beam_size} out")
        tokenizer = self.trained.tokenizer
        decode = self._decoder(beam_size, top_p, temperature)
        outputs = [""] * len(inputs)
        for numbers, tokens in self._batches([[*self._with_sentinels(text), tokenizer.eos_id] for text in inputs]):
            seeds = np.zeros(self._batch_size, np.uint32)
            seeds[: len(numbers)] = [np.random.SeedSequence((seed, n)).generate_state(1)[0] for n in numbers]
            found = jax.device_get(decode(self.trained.params, tokens, seeds, max_tokens))
            for row, number in enumerate(numbers):
                outputs[number] = tokenizer.decode(found.tokens[row, 0, : found.lengths[row, 0]])
        return outputs

    def label(
        self,
        texts: Sequence[str],
        labels: Sequence[str] | Sequence[Sequence[str]],
        lang: str = "en",
        *,
        beam_size: int = 4,
        scoring: Scoring = "full",
        threshold: float = 0.0,
        n_best: int = 1,
    ) -> list[dict[str, Any]]:
        """Returns what `medmt5.label` does: a dictionary a text, its `spans` with offsets, label and probability.

        >>> (found,) = m.label(["No fever."], ["Disease"], scoring="local", beam_size=2)
        >>> all({"start", "end", "label", "probability"} <= span.keys() for span in found["spans"])
        True
        """
        labeller = Labeller(self.trained, beam_size=beam_size, scoring=scoring, batch_size=self._batch_size)
        return label_documents(labeller, texts, labels, lang, threshold=threshold, n_best=n_best)

    def save(self, path: str | Path, format: str = OURS, *, dtype: str = "float32", licence: str | None = None) -> None:
        """Writes the model to the new folder `path` as "medmt5", "int8", "huggingface" or "t5x".

        >>> m.save("in-bfloat16", "huggingface", dtype="bfloat16", licence="apache-2.0")

        Raises:
          InputError: the folder is there, or a format or dtype that is not written.
        """
        m = self.trained
        check_target(Path(path), format, dtype)
        lengths = {name: int(m.feature_lengths[name]) for name in ("inputs", "targets")}
        source = Source(
            OURS, m.checkpoint, _InMemory(m.params), m.config, m.step, lengths, m.tokenizer.model_file, m.label_prompt
        )
        write_source(source, Path(path), format, m.tokenizer.labels, dtype=dtype, licence=licence)

    def _with_sentinels(self, text: str) -> list[int]:
        """Returns the ids of a text whose sentinels are sentinels."""
        parts = SENTINEL.split(text)
        ids = self.trained.tokenizer.encode(parts[0])
        for number, after in zip(parts[1::2], parts[2::2], strict=True):
            ids += [int(self.trained.tokenizer.sentinel_ids[int(number)]), *self.trained.tokenizer.encode(after)]
        return ids

    def _batches(self, rows: Sequence[Sequence[int]]) -> Iterator[tuple[list[int], np.ndarray]]:
        """Yields (numbers of rows of like length, their ids padded); always a full batch, so one program a length."""
        by_length = sorted(range(len(rows)), key=lambda number: len(rows[number]))
        for at in range(0, len(by_length), self._batch_size):
            numbers = by_length[at : at + self._batch_size]
            yield numbers, self._pad([rows[number] for number in numbers])

    def _pad(self, rows: Sequence[Sequence[int]]) -> np.ndarray:
        tokens = np.zeros((self._batch_size, bucket_length(max(map(len, rows)))), np.int32)
        tokens[len(rows) :, 0] = self.trained.tokenizer.eos_id  # rows that fill the batch: none sees nothing
        for row, ids in enumerate(rows):
            tokens[row, : len(ids)] = ids
        return tokens

    @cached_property
    def _encode(self) -> Callable[[Any, np.ndarray], jax.Array]:
        def encode(params, tokens):
            return mt5.MT5(self.trained.config).apply({"params": params}, tokens, method="encode")

        return partitioning.in_context(jax.jit(encode), self.trained.mesh)

    @cached_property
    def _score(self) -> Callable[[Any, dict[str, np.ndarray], np.ndarray], jax.Array]:
        def score(params, batch, targets):
            hidden: Any = mt5.MT5(self.trained.config).apply({"params": params}, batch)
            kernel = mt5.output_kernel(params)

            def of_row(row):
                states, wanted = row
                logits = jnp.einsum("tf,fv->tv", states.astype(jnp.float32), kernel, precision="highest")
                log_probs = jax.nn.log_softmax(logits)
                found = jnp.take_along_axis(log_probs, wanted[:, None], axis=1)[:, 0]
                return jnp.sum(jnp.where(wanted > 0, found, 0.0))

            return jax.lax.map(of_row, (hidden, targets))  # the logits of one row at a time

        return partitioning.in_context(jax.jit(score), self.trained.mesh)

    def _decoder(self, beam_size: int, top_p: float | None, temperature: float) -> Callable[..., Any]:
        config, mesh = self.trained.config, self.trained.mesh
        if top_p is not None:
            return make_sampler(config, mesh, top_p=top_p, temperature=temperature)
        generate = make_generator(config, mesh, beam_size=beam_size)
        return lambda params, tokens, _, max_tokens: generate(params, tokens, max_tokens)


class _InMemory:
    """Parameters on devices as `conversion.weights.Weights`."""

    def __init__(self, params: Any):
        self._params = by_name(params)

    def tensors(self) -> dict[str, TensorInfo]:
        return {name: TensorInfo(leaf.shape, str(leaf.dtype)) for name, leaf in self._params.items()}

    def read(self, name: str, index: tuple[slice, ...] | None = None) -> np.ndarray:
        return np.asarray(self._params[name] if index is None else self._params[name][index])


def load(path: str | Path, *, vocabulary: str | Path | None = None, batch_size: int = 8) -> LoadedModel:
    """Returns the model in `path`; see `medmt5.load`."""
    trained = load_trained_model(path, Path(vocabulary) if vocabulary else None)
    return LoadedModel(trained, batch_size)
