"""The README.md of an exported model: what made it, how well it does, what it is for. No text of any document."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medmt5 import __version__
from medmt5.conversion.int8 import FILE
from medmt5.model.mt5 import MT5Config
from medmt5.tokenizer import Tokenizer

# What of config.gin says how the model came to be. Places are left out: they are the author's own.
MACROS = (
    "MIXTURE_OR_TASK_NAME",
    "TASK_FEATURE_LENGTHS",
    "BATCH_SIZE",
    "TRAIN_STEPS",
    "LEARNING_RATE",
    "WARMUP_STEPS",
    "DROPOUT_RATE",
    "LABEL_SMOOTHING",
    "Z_LOSS",
    "PACK",
    "RANDOM_SEED",
    "TRAINABLE",
    "LORA_RANK",
    "LORA_ALPHA",
    "LORA_TARGETS",
)
SETTINGS = re.compile(r"^((?:optimizers|schedules)\.\w+\.\w+) = (.+)$", re.MULTILINE)
PAPER = "https://arxiv.org/abs/2404.07613"


def write_model_card(folder: Path, source: Path, config: MT5Config, tokenizer: Tokenizer, licence: str | None) -> None:
    """Writes README.md into `folder`, from what lies beside the weights in `source`: config.gin and evaluations.

    Args:
      source: the checkpoint or folder that was converted.
      licence: of the weights (SPDX); None = the card says that nobody stated one.
    """
    model_dir = source if (source / "config.json").is_file() else source.parent
    scores = _scores(model_dir, source.name)
    seen, dev = _training(source, model_dir)
    languages = sorted(lang for lang in {*scores.get("languages", {}), *dev} if re.fullmatch(r"[a-z]{2,3}", lang))
    front = {
        "license": (licence or "unknown").lower(),
        "language": languages,
        "library_name": "transformers",
        "pipeline_tag": "text2text-generation",
        "tags": ["medical", "mt5", "medmt5"],
    }
    size = _parameters(config)
    parts = [
        "---\n" + "".join(f"{key}: {json.dumps(value)}\n" for key, value in front.items() if value) + "---\n",
        f"# {_plain(model_dir.name)}\n",
        f"A text-to-text model of mT5's architecture with {size / 1e6:.1f} M parameters, written by medmt5 "
        f"{__version__} in the manner of [Medical mT5]({PAPER})."
        + (" Its matrices have been rounded to int8.\n" if (source / FILE).is_file() else "\n"),
        "## Data\n",
        _data(seen) if seen else "As the recipe names it.\n",
        "## Recipe\n",
        _recipe(model_dir),
        "## Scores\n",
        _table(scores),
        _perplexities(dev),
        "## Use\n",
        "```python\nfrom transformers import AutoModelForSeq2SeqLM, AutoTokenizer\n\n"
        'tokenizer = AutoTokenizer.from_pretrained("FOLDER")\n'
        'model = AutoModelForSeq2SeqLM.from_pretrained("FOLDER")\n```\n',
        _labels(tokenizer),
        "## Intended use and limits\n",
        "For research on medical text. It is no medical device, and its output is no advice: labels and answers can be "
        "wrong, miss what is there, or repeat the bias of the texts it has learned from. It may have seen texts of the "
        "benchmarks that it is scored on. Scores hold for the data sets and languages they were measured on.\n",
        "## Licence\n",
        (
            f"{licence}, as stated by whoever exported the model. "
            if licence
            else "Nobody has stated a licence of these weights. "
        )
        + "The licences of the model that training began from, and of the data, hold beside it.\n",
    ]
    (folder / "README.md").write_text("\n".join(part for part in parts if part), encoding="utf-8")


def _training(checkpoint: Path, model_dir: Path) -> tuple[dict[str, float], dict[str, float]]:
    """Returns what metrics.jsonl tells of the step in `checkpoint`: task -> epochs seen, language -> dev perplexity."""
    file, step = model_dir / "metrics.jsonl", re.fullmatch(r"checkpoint_(\d+)", checkpoint.name)
    if not file.is_file() or not step:
        return {}, {}
    last: dict[str, float] = {}
    for line in map(json.loads, file.read_text(encoding="utf-8").splitlines()):
        if line["step"] <= int(step[1]):
            last |= line
    seen = {name.removeprefix("epochs/"): n for name, n in last.items() if name.startswith("epochs/")}
    found = (re.fullmatch(r"eval/(.+)/perplexity", name) for name in last)
    return seen, {match[1]: last[match[0]] for match in found if match}


def _data(seen: Mapping[str, float]) -> str:
    """Says how often each task of the run's mixture was gone through; what each is, medmt5 knows by its name."""
    rows = "".join(f"| {_plain(task)} | {epochs:.2f} |\n" for task, epochs in sorted(seen.items()))
    return (
        "Tasks by medmt5's names, and how often the run went through each; `medmt5 data --long` tells their sources "
        f"and licences.\n\n| task | times seen |\n|---|---|\n{rows}"
    )


def _recipe(model_dir: Path) -> str:
    file = model_dir / "config.gin"
    if not file.is_file():
        return "Not known: there was no config.gin beside the weights.\n"
    text = re.sub(r" ?\\?\n[ \t]+", " ", file.read_text(encoding="utf-8"))  # gin breaks long values
    found = {name: match[1] for name in MACROS if (match := re.search(rf"^{name} = (.+)$", text, re.MULTILINE))}
    if found.get("LORA_RANK") == "0":
        found = {name: value for name, value in found.items() if not name.startswith("LORA_")}
    initial = re.search(r"^INITIAL_CHECKPOINT_PATH = ['\"](.+)['\"]$", text, re.MULTILINE)
    found |= dict(SETTINGS.findall(text))
    found["began from"] = _plain("/".join(Path(initial[1]).parts[-2:])) if initial else "fresh weights"
    rows = "".join(f"| {name} | `{_in_cell(value)}` |\n" for name, value in found.items())
    return f"| | |\n|---|---|\n{rows}"


def _scores(model_dir: Path, checkpoint: str) -> dict[str, Any]:
    file = model_dir / "evaluation" / checkpoint / "scores.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def _table(scores: Mapping[str, Any]) -> str:
    if not scores:
        return "Not evaluated.\n"
    rows = [*sorted(scores["tasks"].items()), ("all", scores["all"])]
    body = "".join(
        f"| {task} | {_number(s['f1'])} | {_number(s['precision'])} | {_number(s['recall'])} | {s['gold']} |\n"
        for task, s in rows
    )
    how = scores["decoding"]
    return (
        f"Entity-level micro-F1 on the {scores['split']} split (constrained decoding, beam {how['beam']}, scoring "
        f"`{how['scoring']}`):\n\n| task | F1 | precision | recall | gold spans |\n|---|---|---|---|---|\n{body}"
    )


def _perplexities(dev: Mapping[str, float]) -> str:
    if not dev:
        return ""
    listed = ", ".join(f"{_plain(language)} {value:.2f}" for language, value in sorted(dev.items()))
    return f"Perplexity a target token on the dev split, at the last evaluation of the run: {listed}.\n"


def _labels(tokenizer: Tokenizer) -> str:
    names: Sequence[str] = tokenizer.labels
    tags = f"are tokens of their own: {', '.join(f'`<{n}>`' for n in names)}" if names else "are ordinary pieces"
    return (
        "For sequence labelling the input is the opening tags of the labels to look for, then the words; the output is "
        f"the words with tags around spans. The tags {tags}. "
        "`medmt5 label` decodes so that every output is the input, word for word.\n"
    )


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _in_cell(text: str) -> str:
    """Returns a text that ends no cell of a table."""
    return text.replace("|", r"\|")


def _plain(text: str) -> str:
    """Returns a name without what Markdown or YAML would read."""
    return re.sub(r"[^\w ./-]", "_", text)


def _parameters(config: MT5Config) -> int:
    attention, mlp = 4 * config.emb_dim * config.num_heads * config.head_dim, 3 * config.emb_dim * config.mlp_dim
    layers = config.num_encoder_layers * (attention + mlp) + config.num_decoder_layers * (2 * attention + mlp)
    return 2 * config.vocab_size * config.emb_dim + layers
