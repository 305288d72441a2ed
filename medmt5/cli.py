"""The command `medmt5`: one subcommand a step of the road. Only the chosen one's modules are imported."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from medmt5 import storage
from medmt5.arguments import make_parser
from medmt5.configuration.check import PLACEHOLDERS, check_configuration
from medmt5.configuration.statements import parse_flags
from medmt5.datasets import command as data_command
from medmt5.environment import prepare_process
from medmt5.errors import InputError
from medmt5.tokens.mixture import mixture_file

ON_DEVICES = {"train", "evaluate", "label", "serve"}
# A SIGTERM stops them as Ctrl-C does: what they have not finished writing goes.
STOPPED_CLEANLY = {"convert", "average"}


def run() -> int:
    """What the command `medmt5` starts: sets up the process for those that compute, then `main`."""
    if ON_DEVICES & set(sys.argv[1:]) and not {"-h", "--help"} & set(sys.argv):
        prepare_process()
    if STOPPED_CLEANLY & set(sys.argv[1:2]):
        signal.signal(signal.SIGTERM, _stop)
    return main()


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit code: 0, 2 for wrong input; of `train` also 74, 75, 130 and 143
    (docs/training.md).
    """
    parser = make_parser(COMMANDS)
    args, rest = parser.parse_known_args(arguments)
    if args.command is None:
        parser.print_help()
        return 2
    if rest and args.command not in ("train", "describe", "doctor"):
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


def _sample(args, rest) -> None:
    from medmt5.sample.generate import write_sample

    write_sample(args.output, seed=args.seed)


def _corpus(args, rest) -> None:
    from medmt5.corpus.build import build_corpus
    from medmt5.languages import codes

    with storage.updated(args.output) as output:
        build_corpus(
            args.data_dir, output, args.languages or codes(), sources=args.sources, max_words_per_source=args.max_words
        )


def _vocabulary(args, rest) -> None:
    from itertools import islice

    from medmt5.corpus.store import corpus_languages, fetch_corpus, read_corpus
    from medmt5.tokenizer import train_vocabulary

    corpus = fetch_corpus(args.corpus)
    documents = (d for lang in corpus_languages(corpus) for d in islice(read_corpus(corpus, lang), args.max_documents))
    train_vocabulary(
        (line for d in documents for line in d["text"].splitlines() if line.strip()), args.output, args.size
    )


def _tokens(args, rest) -> None:
    if not (args.token_store or args.seqio_cache):
        raise InputError("nowhere to write to; give --token_store DIR, or --seqio_cache DIR")
    from medmt5.vocabularies import vocabulary_file

    vocabulary = vocabulary_file(args.vocabulary)
    places = {
        "MEDMT5_DATA_DIR": args.data_dir,
        "MEDMT5_CORPUS_DIR": args.corpus_dir,
        "MEDMT5_VOCABULARY": vocabulary,
        "TFDS_DATA_DIR": args.tfds_data_dir,
    }
    for variable, value in places.items():
        if value is not None:
            os.environ[variable] = value if storage.is_url(value) else str(Path(value).absolute())
    from medmt5.tasks.caching import build_mixture
    from medmt5.tasks.seqio_cache import write_caches
    from medmt5.tokenizer import Tokenizer

    if args.token_store:
        with storage.updated(args.token_store) as root:
            build_mixture(args.mixture, root, Tokenizer(vocabulary))
    if args.seqio_cache:
        write_caches(args.mixture, args.seqio_cache)


def _bindings(files, args, rest, placeholders=()) -> list[str]:
    """Returns the flags' bindings, once they and the files are known to fit: before JAX is imported.

    What `placeholders` name may stay unset, and is not looked at.
    """
    bindings, others = parse_flags(rest)
    if others:
        raise InputError(f"unrecognized arguments: {' '.join(others)}; macros are set as --gin.NAME=VALUE")
    values = check_configuration("train.Experiment", files, bindings, args.gin_search_paths, placeholders)
    for name in () if placeholders else ("model_dir", "token_store", "vocabulary", "initial_checkpoint_path"):
        storage.check(values.get(name) or "")
    store, mixture = Path(values.get("token_store", "")), values.get("mixture")
    if storage.is_url(values.get("token_store", "")):
        return bindings  # whether the mixture is there, the store tells later: this asks no server
    if mixture and not placeholders and not mixture_file(store, mixture).is_file() and not (store / mixture).is_dir():
        from medmt5.datasets.names import check_name, names  # reads the declarations, a user's own included

        check_name(mixture, names())
    return bindings


def _train(args, rest) -> int:
    bindings = _bindings(args.gin_file, args, rest)
    from medmt5 import failure, processes

    if not args.dry_run:
        processes.connect(args.coordinator_address, args.process_count, args.process_index)
    try:
        return _train_connected(args, bindings)
    except BaseException as error:
        code = failure.exit_code(error)
        processes.end_together(error, code, _message(error), traceback=args.debug)
        if code != failure.EXIT_NOT_SAVED or args.debug:
            raise
        print(f"medmt5 train: {_message(error)}", file=sys.stderr)
        return code


def _train_connected(args, bindings) -> int:
    from medmt5 import config, processes, train
    from medmt5.training.preemption import Preempted

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
    bindings = _bindings(args.recipe, args, rest, PLACEHOLDERS)
    from medmt5 import config
    from medmt5.describe import describe, print_plan

    built = config.build("train.Experiment", args.recipe, bindings, args.gin_search_paths, PLACEHOLDERS)
    plan = describe(built.value, num_devices=args.devices, device_kind=args.device_kind, mfu=args.mfu)
    print_plan(plan, as_json=args.json)


def _doctor(args, rest) -> int:
    from medmt5 import doctor

    bindings = _bindings(args.recipe, args, rest) if args.recipe else []

    def build():
        from medmt5 import config

        return config.build("train.Experiment", args.recipe, bindings, args.gin_search_paths).value

    def connect():
        from medmt5 import processes

        processes.connect(args.coordinator_address, args.process_count, args.process_index)

    findings = doctor.examine(
        build if args.recipe else None, platform_wanted=args.platform, devices_wanted=args.devices, connect=connect
    )
    return doctor.report(list(findings), as_json=args.json)


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
    from medmt5.file_labelling import label_files

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
        threshold=args.threshold,
        n_best=args.n_best,
    )


def _serve(args, rest) -> None:
    from medmt5.serve import serve
    from medmt5.serving.requests import Limits

    serve(
        args.checkpoint,
        args.labels,
        host=args.host,
        port=args.port,
        limits=Limits(
            max_bytes=args.max_bytes,
            max_documents=args.max_documents,
            max_requests=args.max_requests,
            timeout_seconds=args.timeout,
        ),
        beam_size=args.beam,
        scoring=args.scoring,
        batch_size=args.batch_size,
    )


def _convert(args, rest) -> None:
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # JAX is asked for shapes; a GPU would be held for nothing
    from medmt5.checkpoints.object_store import fetch_model
    from medmt5.conversion.command import convert

    convert(
        fetch_model(args.source),
        args.target,
        args.format,
        dtype=args.dtype,
        vocabulary=args.vocabulary,
        scanned=args.scanned,
        licence=args.license,
    )


def _average(args, rest) -> None:
    if args.last is not None and any(map(storage.is_url, args.checkpoints)):
        raise InputError("--last is for a MODEL_DIR on a disk; of an object store name the checkpoints one by one")
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # as of convert
    from medmt5.average import average
    from medmt5.checkpoints.object_store import fetch_model

    print(f"written to {average([fetch_model(place) for place in args.checkpoints], args.output, args.last)}")


def _report(args, rest) -> None:
    from medmt5.evaluation.report import write_report
    from medmt5.evaluation.results import fetch_results

    print(write_report(args.output, [(name, fetch_results(place)) for name, place in args.runs], args.title))


def _demo(args, rest) -> int:
    from medmt5.demo import run_demo

    return run_demo(args.output, args.data)


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


COMMANDS = {
    "sample": _sample,
    "data": data_command.run_list,
    "corpus": _corpus,
    "vocabulary": _vocabulary,
    "tokens": _tokens,
    "train": _train,
    "describe": _describe,
    "doctor": _doctor,
    "evaluate": _evaluate,
    "label": _label,
    "serve": _serve,
    "convert": _convert,
    "average": _average,
    "report": _report,
    "demo": _demo,
}


if __name__ == "__main__":
    sys.exit(run())
