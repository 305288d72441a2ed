"""The command `medmt5`: one subcommand a step of the road. Only the chosen one's modules are imported."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from medmt5.datasets import command as data_command
from medmt5.environment import prepare_process
from medmt5.errors import InputError

ON_DEVICES = {"train", "evaluate", "label"}


def run() -> int:
    """What the command `medmt5` starts: sets up the process for those that compute, then `main`."""
    if ON_DEVICES & set(sys.argv[1:]) and not {"-h", "--help"} & set(sys.argv):
        prepare_process()
    return main()


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit code: 0, 2 for wrong input; of `train` also 74, 75, 130 and 143
    (docs/training.md).
    """
    parser = _parser()
    args, rest = parser.parse_known_args(arguments)
    if args.command is None:
        parser.print_help()
        return 2
    if rest and args.command not in ("train", "describe"):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    _log_plainly(args.debug)
    try:
        return args.run(args, rest) or 0
    except KeyboardInterrupt:
        return 130
    except (InputError, OSError) as error:
        if args.debug:
            raise
        print(f"medmt5 {args.command}: {_message(error)}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--debug", action="store_true", help="show tracebacks of wrong input, and more of the log")
    parser = argparse.ArgumentParser(
        prog="medmt5",
        description="Multilingual text-to-text models for medicine: from raw text to labelled text.",
        parents=[shared],
    )
    parser.set_defaults(command=None)
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND")

    def add(name: str, run: Callable, help: str, example: str) -> argparse.ArgumentParser:
        command = commands.add_parser(
            name,
            help=help,
            description=help,
            epilog=f"example:\n  {example}",
            parents=[shared],
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.set_defaults(run=run)
        return command

    sample = add("sample", _sample, "Write the sample data, in raw formats.", "medmt5 sample --output demo/raw")
    sample.add_argument("--output", type=Path, required=True, metavar="DIR")
    sample.add_argument("--seed", type=int, default=0)

    data = add(
        "data",
        data_command.run_list,
        "List the labelled data sets; check what is there; get what can be fetched.",
        "medmt5 data check e3c --data_dir raw",
    )
    data_command.add_arguments(data)

    corpus = add(
        "corpus",
        _corpus,
        "Build a clean corpus from raw files.",
        "medmt5 corpus --data_dir demo/raw --output demo/corpus --languages en,es,fr,it",
    )
    corpus.add_argument(
        "--data_dir", type=Path, required=True, metavar="DIR", help="raw files; languages/*.toml says where below it"
    )
    corpus.add_argument("--output", type=Path, required=True, metavar="DIR")
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
        _vocabulary,
        "Train a SentencePiece vocabulary on a corpus. (For the real mT5, use its own spiece.model.)",
        "medmt5 vocabulary --corpus demo/corpus --size 3000 --output demo/spiece.model",
    )
    vocabulary.add_argument("--corpus", type=Path, required=True, metavar="DIR")
    vocabulary.add_argument("--size", type=int, required=True, help="pieces, 256 bytes and 100 sentinels included")
    vocabulary.add_argument("--output", type=Path, required=True, metavar="FILE")
    vocabulary.add_argument("--max_documents", type=int, default=100_000, help="per language (default: %(default)s)")

    tokens = add(
        "tokens",
        _tokens,
        "Tokenize a SeqIO task or mixture into token stores.",
        "medmt5 tokens --mixture sample_multitask --token_store demo/tokens --vocabulary demo/spiece.model "
        "--data_dir demo/raw",
    )
    tokens.add_argument("--mixture", required=True, metavar="NAME", help="a task or mixture of medmt5.mixtures")
    tokens.add_argument("--token_store", type=Path, metavar="DIR", help="where training reads them")
    tokens.add_argument(
        "--seqio_cache", type=Path, metavar="DIR", help="instead or too: caches for SeqIO's and T5X's use_cached"
    )
    tokens.add_argument("--vocabulary", type=Path, required=True, metavar="FILE")
    tokens.add_argument("--data_dir", type=Path, metavar="DIR", help="raw labelled data; default: $MEDMT5_DATA_DIR")
    tokens.add_argument(
        "--corpus_dir", type=Path, metavar="DIR", help="what `medmt5 corpus` wrote; default: $MEDMT5_CORPUS_DIR"
    )

    tokens.add_argument(
        "--tfds_data_dir", type=Path, metavar="DIR", help="where TFDS prepares data; default: $TFDS_DATA_DIR"
    )

    train = add(
        "train",
        _train,
        "Pre-train or fine-tune as a gin file says; goes on from where MODEL_DIR stands.",
        "medmt5 train --gin_file=gin/recipe/tiny_pretrain.gin --gin.MODEL_DIR=runs/a --gin.TOKEN_STORE=demo/tokens "
        "--gin.VOCABULARY=demo/spiece.model\n  (any macro can be set: --gin.NAME=VALUE; a gin file is code, "
        "treat it as such)",
    )
    train.add_argument(
        "--gin_file", action="append", default=[], metavar="FILE", help="may be repeated; later files win"
    )
    train.add_argument("--gin_search_paths", type=_names, default=[], metavar="A,B")
    train.add_argument(
        "--dry_run", action="store_true", help="as --gin.DRY_RUN=True: print configuration and plan, stop"
    )
    several = train.add_argument_group(
        "several processes", "TPU pods, Slurm and Open MPI are detected; elsewhere start the command once a process:"
    )
    several.add_argument(
        "--coordinator_address", metavar="HOST:PORT", help="where process 0 runs, and a free port there"
    )
    several.add_argument("--process_count", type=int, metavar="N", help="how many there are")
    several.add_argument("--process_index", type=int, metavar="I", help="which one this is, from 0")

    describe = add(
        "describe",
        _describe,
        "Print how a recipe lies on devices, and the memory and time of a step. Needs no such devices.",
        'medmt5 describe gin/recipe/medical_mt5_xl.gin --devices 64 --device_kind "TPU v4"\n  (a TPU v4-128 is 64 '
        "chips, a device each; any macro can be set: --gin.NAME=VALUE)",
    )
    describe.add_argument("recipe", nargs="+", metavar="RECIPE", help="gin files; later ones win")
    describe.add_argument("--gin_search_paths", type=_names, default=[], metavar="A,B")
    describe.add_argument("--devices", type=int, metavar="N", help="default: those of this machine")
    describe.add_argument("--device_kind", metavar="KIND", help='e.g. "TPU v4", A100, H100; default: this machine\'s')
    describe.add_argument(
        "--mfu",
        type=float,
        default=0.4,
        help="share of the peak that a step is assumed to reach; nobody has measured it (default: %(default)s)",
    )
    describe.add_argument("--json", action="store_true", help="print one JSON object")

    evaluate = add(
        "evaluate",
        _evaluate,
        "Label the test set of every task of a mixture and score it.",
        "medmt5 evaluate --checkpoint demo/finetune --mixture sample_multitask --token_store demo/tokens",
    )
    evaluate.add_argument(
        "--checkpoint", type=Path, required=True, metavar="DIR", help="MODEL_DIR (newest) or checkpoint_<step>"
    )
    evaluate.add_argument("--mixture", required=True, metavar="NAME")
    evaluate.add_argument("--token_store", type=Path, required=True, metavar="DIR")
    evaluate.add_argument("--split", default="test", help="default: %(default)s")
    evaluate.add_argument("--max_sentences", type=int, default=None, help="of each task, the first so many")
    _add_decoding(evaluate)

    label = add(
        "label",
        _label,
        "Label text: from the command line, a file or standard input, a document a line.",
        'medmt5 label --checkpoint demo/finetune --labels Disease,Drug "The patient has nephritis."',
    )
    label.add_argument(
        "--checkpoint", type=Path, required=True, metavar="DIR", help="MODEL_DIR (newest) or checkpoint_<step>"
    )
    label.add_argument(
        "--labels", type=_names, required=True, metavar="A,B", help="labels to look for; the model must know them"
    )
    label.add_argument("--input", type=Path, metavar="FILE", help="a document a line; - for standard input")
    label.add_argument("--output", type=Path, metavar="FILE", help="default: standard output")
    label.add_argument(
        "--format", choices=("jsonl", "brat", "html", "text"), default="jsonl", help="default: %(default)s"
    )
    label.add_argument("--lang", default="en", help="whose abbreviations end no sentence (default: %(default)s)")
    label.add_argument("text", nargs="*", help="documents")
    _add_decoding(label)

    report = add(
        "report",
        _report,
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
    report.add_argument("--output", type=Path, required=True, metavar="FILE")
    report.add_argument("--title", default="Medical mT5")

    demo = add(
        "demo",
        _demo,
        "Walk the whole road, from raw files to a report, printing each command.",
        "medmt5 demo --output demo",
    )
    demo.add_argument("--output", type=Path, default=Path("demo"), metavar="DIR", help="default: %(default)s")
    demo.add_argument(
        "--data", type=Path, metavar="DIR", help="real data instead of the sample: E3C, NCBI-disease, AbstRCT"
    )
    return parser


def _add_decoding(command: argparse.ArgumentParser) -> None:
    command.add_argument("--beam", type=int, default=4, help="hypotheses a sentence; 1 = greedy (default: %(default)s)")
    command.add_argument(
        "--scoring",
        choices=("full", "local", "marginal"),
        default="full",
        help="what competes: the vocabulary, the permitted tokens, or tags only (default: %(default)s)",
    )
    command.add_argument("--batch_size", type=int, default=32, help="sentences at once (default: %(default)s)")


def _sample(args, rest) -> None:
    from medmt5.sample.generate import write_sample

    write_sample(args.output, seed=args.seed)


def _corpus(args, rest) -> None:
    from medmt5.corpus.build import build_corpus
    from medmt5.languages import codes

    build_corpus(
        args.data_dir, args.output, args.languages or codes(), sources=args.sources, max_words_per_source=args.max_words
    )


def _vocabulary(args, rest) -> None:
    from itertools import islice

    from medmt5.corpus.store import corpus_languages, read_corpus
    from medmt5.tokenizer import train_vocabulary

    documents = (
        d for lang in corpus_languages(args.corpus) for d in islice(read_corpus(args.corpus, lang), args.max_documents)
    )
    train_vocabulary(
        (line for d in documents for line in d["text"].splitlines() if line.strip()), args.output, args.size
    )


def _tokens(args, rest) -> None:
    if not (args.token_store or args.seqio_cache):
        raise InputError("nowhere to write to; give --token_store DIR, or --seqio_cache DIR")
    places = {
        "MEDMT5_DATA_DIR": args.data_dir,
        "MEDMT5_CORPUS_DIR": args.corpus_dir,
        "MEDMT5_VOCABULARY": args.vocabulary,
        "TFDS_DATA_DIR": args.tfds_data_dir,
    }
    for variable, value in places.items():
        if value is not None:
            os.environ[variable] = str(value.absolute())
    from medmt5.tasks.caching import build_mixture
    from medmt5.tasks.seqio_cache import write_caches
    from medmt5.tokenizer import Tokenizer

    if args.token_store:
        build_mixture(args.mixture, args.token_store, Tokenizer(args.vocabulary))
    if args.seqio_cache:
        write_caches(args.mixture, args.seqio_cache)


def _train(args, rest) -> int:
    from medmt5 import failure, processes

    if not args.dry_run:
        processes.connect(args.coordinator_address, args.process_count, args.process_index)
    try:
        return _train_connected(args, rest)
    except BaseException as error:
        code = failure.exit_code(error)
        processes.end_together(error, code, _message(error), traceback=args.debug)
        if code != failure.EXIT_NOT_SAVED or args.debug:
            raise
        print(f"medmt5 train: {_message(error)}", file=sys.stderr)
        return code


def _train_connected(args, rest) -> int:
    from medmt5 import config, processes, train
    from medmt5.training.preemption import Preempted

    bindings, others = config.parse_flags(rest)
    if others:
        raise InputError(f"unrecognized arguments: {' '.join(others)}; macros are set as --gin.NAME=VALUE")
    if args.dry_run:
        bindings.append("DRY_RUN = True")
    elif not processes.is_first():
        logging.getLogger("medmt5").setLevel(logging.WARNING)
    built = config.build("train.Experiment", args.gin_file, bindings, args.gin_search_paths)
    if built.value.dry_run:
        from medmt5.plan import make_plan

        print(built.resolved)
        print(make_plan(built.value))
        return 0
    try:
        train.train(built.value, built.resolved)
    except Preempted as stop:
        print(f"medmt5 train: {stop}", file=sys.stderr)
        return stop.exit_code
    return 0


def _describe(args, rest) -> None:
    from medmt5 import config
    from medmt5.describe import PLACEHOLDERS, describe, print_plan

    bindings, others = config.parse_flags(rest)
    if others:
        raise InputError(f"unrecognized arguments: {' '.join(others)}; macros are set as --gin.NAME=VALUE")
    built = config.build("train.Experiment", args.recipe, bindings, args.gin_search_paths, PLACEHOLDERS)
    plan = describe(built.value, num_devices=args.devices, device_kind=args.device_kind, mfu=args.mfu)
    print_plan(plan, as_json=args.json)


def _evaluate(args, rest) -> None:
    from medmt5.evaluate import evaluate

    evaluate(
        args.checkpoint,
        args.mixture,
        args.token_store,
        split=args.split,
        max_sentences=args.max_sentences,
        beam_size=args.beam,
        scoring=args.scoring,
        batch_size=args.batch_size,
    )


def _label(args, rest) -> None:
    from medmt5.label import label_files

    label_files(
        args.checkpoint,
        args.labels,
        texts=args.text,
        input_file=args.input,
        output_file=args.output,
        output_format=args.format,
        beam_size=args.beam,
        scoring=args.scoring,
        batch_size=args.batch_size,
        lang=args.lang,
    )


def _report(args, rest) -> None:
    from medmt5.evaluation.report import write_report

    print(write_report(args.output, args.runs, args.title))


def _demo(args, rest) -> int:
    from medmt5.demo import run_demo

    return run_demo(args.output, args.data)


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if not names:
        raise argparse.ArgumentTypeError("give at least one name")
    return names


def _run(text: str) -> tuple[str, Path]:
    name, _, path = text.partition("=")
    if not name or not path:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=MODEL_DIR")
    return name, Path(path)


def _message(error: BaseException) -> str:
    if isinstance(error, InputError):
        return str(error)
    return (
        f"{error.strerror or error}: {error.filename}" if isinstance(error, OSError) and error.filename else str(error)
    )


def _log_plainly(debug: bool) -> None:
    """Our own log lines reach the user as they are; libraries are heard from warnings on (from everything on with
    --debug).
    """
    from absl import logging as absl_logging

    absl_logging.use_python_logging(quiet=True)
    absl_logging.set_verbosity(absl_logging.DEBUG if debug else absl_logging.WARNING)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("medmt5").setLevel(logging.DEBUG if debug else logging.INFO)


if __name__ == "__main__":
    sys.exit(run())
