"""What the command line takes: the commands of `medmt5`, their options, and an example of each."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path

from medmt5 import storage
from medmt5.configuration.macros import describe_configuration
from medmt5.datasets.command import add_arguments as add_data_arguments
from medmt5.errors import InputError


def make_parser(commands: Mapping[str, Callable]) -> argparse.ArgumentParser:
    """Returns the parser; `commands` says what runs each."""
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--debug", action="store_true", help="show tracebacks of wrong input, and more of the log")
    parser = argparse.ArgumentParser(
        prog="medmt5",
        description="Multilingual text-to-text models for medicine: from raw text to labelled text.",
        parents=[shared],
    )
    parser.set_defaults(command=None)
    subparsers = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND")

    def add(name: str, help: str, example: str, **options) -> argparse.ArgumentParser:
        command = subparsers.add_parser(
            name,
            help=help,
            description=help,
            epilog=f"example:\n  {example}",
            parents=[shared],
            formatter_class=argparse.RawDescriptionHelpFormatter,
            **options,
        )
        command.set_defaults(run=commands[name])
        return command

    sample = add("sample", "Write the sample data, in raw formats.", "medmt5 sample --output demo/raw")
    sample.add_argument("--output", type=_disk, required=True, metavar="DIR")
    sample.add_argument("--seed", type=int, default=0)

    data = add(
        "data",
        "List the labelled data sets; check what is there; get what can be fetched.",
        "medmt5 data check e3c --data_dir raw",
    )
    add_data_arguments(data)

    corpus = add(
        "corpus",
        "Build a clean corpus from raw files.",
        "medmt5 corpus --data_dir demo/raw --output demo/corpus --languages en,es,fr,it",
    )
    corpus.add_argument(
        "--data_dir", type=_disk, required=True, metavar="DIR", help="raw files; languages/*.toml says where below it"
    )
    corpus.add_argument("--output", type=_place, required=True, metavar="DIR")
    corpus.add_argument(
        "--languages", type=_names, default=None, metavar="A,B", help="default: every language there is"
    )
    corpus.add_argument(
        "--sources", type=_names, default=None, metavar="A,B", help="default: every source that is present"
    )
    corpus.add_argument(
        "--max_words", type=int, default=None, help="stop each source of each language after so many words"
    )

    vocabulary = add(
        "vocabulary",
        "Train a SentencePiece vocabulary on a corpus. (mT5 has its own: --vocabulary mt5 elsewhere.)",
        "medmt5 vocabulary --corpus demo/corpus --size 3000 --output demo/spiece.model",
    )
    vocabulary.add_argument("--corpus", type=_place, required=True, metavar="DIR")
    vocabulary.add_argument("--size", type=int, required=True, help="pieces, 256 bytes and 100 sentinels included")
    vocabulary.add_argument("--output", type=_disk, required=True, metavar="FILE")
    vocabulary.add_argument("--max_documents", type=int, default=100_000, help="per language (default: %(default)s)")

    tokens = add(
        "tokens",
        "Tokenize a SeqIO task or mixture into token stores.",
        "medmt5 tokens --mixture sample_multitask --token_store demo/tokens --vocabulary demo/spiece.model "
        "--data_dir demo/raw",
    )
    tokens.add_argument("--mixture", required=True, metavar="NAME", help="of a task or mixture, yours too")
    tokens.add_argument("--token_store", type=_place, metavar="DIR", help="where training reads them")
    tokens.add_argument(
        "--seqio_cache", type=_disk, metavar="DIR", help="instead or too: caches for SeqIO's and T5X's use_cached"
    )
    tokens.add_argument(
        "--vocabulary",
        type=_place,
        required=True,
        metavar="FILE",
        help="a SentencePiece model, or mt5: its own, fetched once",
    )
    tokens.add_argument("--data_dir", type=_disk, metavar="DIR", help="raw labelled data; default: $MEDMT5_DATA_DIR")
    tokens.add_argument(
        "--corpus_dir", type=_place, metavar="DIR", help="what `medmt5 corpus` wrote; default: $MEDMT5_CORPUS_DIR"
    )

    tokens.add_argument(
        "--tfds_data_dir", type=_disk, metavar="DIR", help="where TFDS prepares data; default: $TFDS_DATA_DIR"
    )

    train = add(
        "train",
        "Pre-train or fine-tune as a gin file says; goes on from where MODEL_DIR stands.",
        "medmt5 train --gin_file=gin/recipe/tiny_pretrain.gin --gin.MODEL_DIR=runs/a --gin.TOKEN_STORE=demo/tokens "
        "--gin.VOCABULARY=demo/spiece.model\n  (any macro can be set: --gin.NAME=VALUE; a gin file is code, "
        "treat it as such)",
        add_help=False,
    )
    train.add_argument("-h", "--help", action=_HelpOnGin, help="show this message, recipes and macros, and exit")
    train.add_argument(
        "--gin_file", action="append", default=[], metavar="FILE", help="may be repeated; later files win"
    )
    train.add_argument("--gin_search_paths", type=_names, default=[], metavar="A,B")
    train.add_argument(
        "--dry_run", action="store_true", help="as --gin.DRY_RUN=True: print configuration and plan, stop"
    )
    _add_processes(train)

    describe = add(
        "describe",
        "Print how a recipe lies on devices, what it trains, and the memory and time of a step. Needs no such devices.",
        'medmt5 describe gin/recipe/medical_mt5_xl.gin --devices 64 --device_kind "TPU v4"\n  (a TPU v4-128 is 64 '
        "chips, a device each; any macro can be set: --gin.NAME=VALUE, e.g. --gin.LORA_RANK=16)",
    )
    describe.add_argument("recipe", nargs="+", metavar="RECIPE", help="gin files; later ones win")
    describe.add_argument("--gin_search_paths", type=_names, default=[], metavar="A,B")
    describe.add_argument("--devices", type=int, metavar="N", help="default: those of this machine")
    describe.add_argument("--device_kind", metavar="KIND", help='e.g. "TPU v4", A100, H100; default: this machine\'s')
    describe.add_argument(
        "--mfu",
        type=float,
        help="share of the peak that a step is assumed to reach (default: what mT5-large reached on an H100)",
    )
    describe.add_argument("--json", action="store_true", help="print one JSON object")

    doctor = add(
        "doctor",
        "Say what would stop a run on this machine: versions, devices, a first collective, memory, disk.",
        "medmt5 doctor gin/recipe/tiny_pretrain.gin --gin.MODEL_DIR=runs/a --gin.TOKEN_STORE=demo/tokens "
        "--gin.VOCABULARY=demo/spiece.model",
    )
    doctor.add_argument("recipe", nargs="*", metavar="RECIPE", help="gin files; none: the machine alone is looked at")
    doctor.add_argument("--gin_search_paths", type=_names, default=[], metavar="A,B")
    doctor.add_argument(
        "--platform", choices=("cpu", "gpu", "tpu"), help="default: $JAX_PLATFORMS, or what the machine has"
    )
    doctor.add_argument("--devices", type=int, metavar="N", help="how many there must be, over all processes")
    doctor.add_argument("--json", action="store_true", help="print one JSON array")
    _add_processes(doctor)

    evaluate = add(
        "evaluate",
        "Label the test set of every task of a mixture and score it.",
        "medmt5 evaluate --checkpoint demo/finetune --mixture sample_multitask --token_store demo/tokens",
    )
    evaluate.add_argument(
        "--checkpoint", type=_place, required=True, metavar="DIR", help="MODEL_DIR (newest) or checkpoint_<step>"
    )
    evaluate.add_argument("--mixture", required=True, metavar="NAME")
    evaluate.add_argument("--token_store", type=_place, required=True, metavar="DIR")
    evaluate.add_argument("--split", default="test", help="default: %(default)s")
    evaluate.add_argument("--max_sentences", type=int, default=None, help="of each task, the first so many")
    _add_decoding(evaluate)

    label = add(
        "label",
        "Label text: from the command line, a file or standard input, a document a line.",
        'medmt5 label --checkpoint demo/finetune --labels Disease,Drug "The patient has nephritis."\n'
        "  medmt5 label --checkpoint demo/finetune --labels Disease --input notes.txt --output notes.jsonl\n"
        "  (of any size; started again after a kill, it goes on where it stood)",
    )
    label.add_argument(
        "--checkpoint", type=_place, required=True, metavar="DIR", help="MODEL_DIR (newest) or checkpoint_<step>"
    )
    label.add_argument(
        "--labels", type=_names, required=True, metavar="A,B", help="labels to look for; the model must know them"
    )
    label.add_argument("--input", type=_disk, metavar="FILE", help="a document a line; - for standard input")
    label.add_argument(
        "--output",
        type=_disk,
        metavar="FILE",
        help="default: standard output; a file that was begun (FILE.part, FILE.journal) is gone on with",
    )
    label.add_argument(
        "--format", choices=("jsonl", "brat", "html", "text"), default="jsonl", help="default: %(default)s"
    )
    label.add_argument("--lang", default="en", help="whose abbreviations end no sentence (default: %(default)s)")
    label.add_argument("text", nargs="*", help="documents")
    _add_decoding(label)
    label.add_argument(
        "--threshold", type=float, default=0.0, metavar="P", help="leave out spans less probable (default: %(default)s)"
    )
    label.add_argument(
        "--n_best", type=int, default=1, metavar="N", help="jsonl: tell so many outputs of each sentence, up to --beam"
    )

    serve = add(
        "serve",
        "Label text over HTTP, and on a page in the browser.",
        "medmt5 serve --checkpoint demo/finetune --labels Disease,Drug --port 8080\n"
        "  curl http://127.0.0.1:8080/label -H 'Content-Type: application/json' -d '{\"text\": \"No asthma.\"}'",
    )
    serve.add_argument(
        "--checkpoint", type=_place, required=True, metavar="DIR", help="MODEL_DIR (newest) or checkpoint_<step>"
    )
    serve.add_argument(
        "--labels", type=_names, required=True, metavar="A,B", help="labels that requests may ask for; default of each"
    )
    serve.add_argument(
        "--host", default="127.0.0.1", metavar="ADDRESS", help="where to listen (default: %(default)s, this machine)"
    )
    serve.add_argument("--port", type=int, default=8080, help="0 for any that is free (default: %(default)s)")
    serve.add_argument(
        "--max_bytes", type=_count, default=1 << 18, metavar="N", help="of a request (default: %(default)s)"
    )
    serve.add_argument(
        "--max_documents", type=_count, default=64, metavar="N", help="of a request (default: %(default)s)"
    )
    serve.add_argument(
        "--max_requests",
        type=_count,
        default=256,
        metavar="N",
        help="at once; the next gets a 503 (default: %(default)s)",
    )
    serve.add_argument(
        "--timeout", type=_count, default=60, metavar="SECONDS", help="to label a request (default: %(default)s)"
    )
    _add_decoding(serve)

    convert = add(
        "convert",
        "Convert a model: Hugging Face's folders, ours, T5X's checkpoints. What SOURCE is, its content tells.",
        "medmt5 convert demo/finetune medical-mt5 --format huggingface --license apache-2.0\n"
        "  medmt5 convert downloads/mt5-small mt5-small --format medmt5",
    )
    convert.add_argument(
        "source", type=_place, metavar="SOURCE", help="MODEL_DIR, checkpoint, Hugging Face folder or T5X checkpoint"
    )
    convert.add_argument("target", type=_disk, metavar="TARGET", help="a folder that does not exist yet")
    convert.add_argument(
        "--format",
        choices=("huggingface", "medmt5", "int8", "t5x"),
        required=True,
        help="of TARGET; int8 is ours with rounded matrices, a quarter as large",
    )
    convert.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        default="float32",
        help="of the weights of huggingface and t5x (default: %(default)s)",
    )
    convert.add_argument(
        "--vocabulary",
        type=_disk,
        metavar="FILE",
        help="a SentencePiece model, where SOURCE has none (T5X), or mt5: its own, fetched once",
    )
    convert.add_argument("--scanned", action="store_true", help="of t5x: the layout of its scanned models")
    convert.add_argument("--license", metavar="SPDX", help="of huggingface: the licence that the model card states")

    average = add(
        "average",
        "Write the mean of checkpoints of one model: one to label and evaluate with, or to start from.",
        "medmt5 average runs/a --last 3 --output runs/a_mean\n"
        "  medmt5 average runs/seed_0 runs/seed_1 runs/seed_2/checkpoint_600 --output runs/mean",
    )
    average.add_argument(
        "checkpoints", nargs="+", type=_place, metavar="CHECKPOINT", help="MODEL_DIR (newest) or checkpoint_<step>"
    )
    average.add_argument("--last", type=int, metavar="N", help="of one MODEL_DIR, its N newest checkpoints")
    average.add_argument("--output", type=_disk, required=True, metavar="DIR", help="a new MODEL_DIR")

    report = add(
        "report",
        "Write one HTML file about one or more runs, and how those after the first differ from it.",
        "medmt5 report --run pretrained=demo/finetune --run scratch=demo/scratch --output report.html\n"
        "  medmt5 report --run large=runs/seed_0 --run large=runs/seed_1 --run large=runs/seed_2 --output seeds.html",
    )
    report.add_argument(
        "--run",
        dest="runs",
        action="append",
        type=_run,
        required=True,
        metavar="NAME=MODEL_DIR",
        help="may be repeated; runs of one name are its seeds: mean and standard deviation are shown",
    )
    report.add_argument("--output", type=_disk, required=True, metavar="FILE")
    report.add_argument("--title", default="Medical mT5")

    demo = add(
        "demo",
        "Walk the whole road, from raw files to a report, printing each command.",
        "medmt5 demo --output demo",
    )
    demo.add_argument("--output", type=_disk, default=Path("demo"), metavar="DIR", help="default: %(default)s")
    demo.add_argument(
        "--data", type=_disk, metavar="DIR", help="real data instead of the sample: E3C, NCBI-disease, AbstRCT"
    )
    return parser


class _HelpOnGin(argparse.Action):
    """Prints what gin/ says of recipes and macros, too; it is read when asked for."""

    def __init__(self, option_strings, dest, help):
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, help=help)

    def __call__(self, parser, namespace, values, option_string=None):
        parser.print_help()
        print(f"\n{describe_configuration()}")
        parser.exit()


def _add_processes(command: argparse.ArgumentParser) -> None:
    several = command.add_argument_group(
        "several processes", "TPU pods, Slurm and Open MPI are detected; elsewhere start the command once a process:"
    )
    several.add_argument(
        "--coordinator_address", metavar="HOST:PORT", help="where process 0 runs, and a free port there"
    )
    several.add_argument("--process_count", type=int, metavar="N", help="how many there are")
    several.add_argument("--process_index", type=int, metavar="I", help="which one this is, from 0")


def _add_decoding(command: argparse.ArgumentParser) -> None:
    command.add_argument("--beam", type=int, default=4, help="hypotheses a sentence; 1 = greedy (default: %(default)s)")
    command.add_argument(
        "--scoring",
        choices=("full", "local", "marginal"),
        default="full",
        help="what competes: the vocabulary, the permitted tokens, or tags only (default: %(default)s)",
    )
    command.add_argument("--batch_size", type=int, default=32, help="sentences at once (default: %(default)s)")


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if not names:
        raise argparse.ArgumentTypeError("give at least one name")
    return names


def _count(text: str) -> int:
    if not (text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 on")
    return int(text)


def _place(text: str) -> str | Path:
    """A path on a disk, or the URL of an object store."""
    try:
        storage.check(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text if storage.is_url(text) else Path(text)


def _disk(text: str) -> Path:
    if storage.is_url(text):
        raise argparse.ArgumentTypeError(f"{text} is on an object store, and this must lie on a disk; copy it there")
    return Path(text)


def _run(text: str) -> tuple[str, str | Path]:
    name, _, path = text.partition("=")
    if not name or not path:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=MODEL_DIR")
    return name, _place(path)
