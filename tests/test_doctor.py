"""The doctor finds what is wrong, by a wrong thing a check, and says what to do; all is well where it is."""

import json
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from medmt5 import config, doctor, plan
from medmt5.cli import main
from medmt5.tokens.mixture import Mixture
from medmt5.tokens.store import StoreWriter

RECIPE = "gin/recipe/tiny_pretrain.gin"


@pytest.fixture(scope="module")
def macros(tmp_path_factory, tokenizer):
    """Flags of a run that could start: a store, a vocabulary, a MODEL_DIR that is not there yet."""
    root = tmp_path_factory.mktemp("doctor")
    for split in ("train", "dev"):
        with StoreWriter(
            root / "medical_corpus.en" / split,
            task="medical_corpus.en",
            split=split,
            objective="span_corruption",
            tokenizer=tokenizer,
        ) as writer:
            writer.write({"targets": np.arange(300, 340)})
    Mixture("medical_corpus.all", (("medical_corpus.en", 1.0),)).write(root)
    return {"MODEL_DIR": str(root / "new/run"), "TOKEN_STORE": str(root), "VOCABULARY": str(tokenizer.model_file)}


def experiment(macros, **more):
    bindings = [f"{name} = {value!r}" for name, value in (macros | more).items()]
    return config.build("train.Experiment", [RECIPE], bindings).value


def test_all_is_well_where_all_is_well(macros, capsys):
    flags = [f"--gin.{name}={value}" for name, value in macros.items()]
    code = main(["doctor", RECIPE, *flags, "--platform", "cpu", "--devices", "8", "--json"])
    findings = json.loads(capsys.readouterr().out)
    assert [f["check"] for f in findings] == [
        "versions",
        "devices",
        "collective",
        "recipe",
        "memory",
        "disk",
        "writing",
    ]
    assert [f for f in findings if not f["ok"]] == []
    assert code == 0
    assert not Path(macros["MODEL_DIR"]).parent.exists(), "the doctor leaves nothing behind"


def test_a_failure_is_one_line_with_its_remedy_and_exit_code_1(capsys):
    findings = [doctor.Finding("a", "is well"), doctor.Finding("b", "is ill", "take this")]
    assert doctor.report(findings) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["ok   a           is well", "FAIL b           is ill  ->  take this"]


@pytest.mark.parametrize(
    ("versions", "found", "remedy"),
    [
        ({"jax": "0.9.2"}, "jax 0.9.2, tested with <0.13,>=0.10", "pip install 'jax<0.13,>=0.10'"),
        ({"flax": "0.13.0"}, "flax 0.13.0, tested with <0.13,>=0.12", "pip install 'flax<0.13,>=0.12'"),
        (
            {"jaxlib": "0.10.2", "jax-cuda12-plugin": "0.9.0"},
            "jax-cuda12-plugin 0.9.0 beside jaxlib 0.10.2",
            "pip install 'jax-cuda12-plugin==0.10.2'",
        ),
    ],
)
def test_versions_are_held_against_the_tested_ones(versions, found, remedy):
    finding = doctor.check_versions(versions)
    assert found in finding.found
    assert finding.remedy == remedy


def test_the_ranges_of_an_extra_count_where_it_is_installed(monkeypatch):
    """setuptools is what the tests need to build a wheel; every virtual environment has some version of it."""
    ranges = ["numpy>=1", "pytest>=8; extra == 'test'", "setuptools>=77; extra == 'test'"]
    monkeypatch.setattr(doctor.metadata, "requires", lambda name: ranges)
    old = {"setuptools": "65.5.0"}
    assert "setuptools 65.5.0, tested with >=77" in doctor.check_versions(old).found
    monkeypatch.setattr(doctor, "_installed", {"numpy": "2.4"}.get)
    assert doctor.check_versions(old).ok


def device(platform, kind="kind"):
    return SimpleNamespace(platform=platform, device_kind=kind, process_index=0)


@pytest.mark.parametrize(
    ("asked", "environment", "there", "found", "remedy"),
    [
        ("gpu", "", (), "gpu was asked for, JAX uses 1 x kind (cpu)", "jax[cuda12]"),
        (None, "cuda,cpu", (), "cuda was asked for, JAX uses 1 x kind (cpu)", "jax[cuda12]"),
        (None, "", ("/dev/nvidia0",), "it has a cuda, JAX uses 1 x kind (cpu)", "jax[cuda12]"),
        (None, "", ("/dev/accel0",), "it has a tpu, JAX uses 1 x kind (cpu)", "jax[tpu]"),
        ("tpu", "", (), "tpu was asked for", "jax[tpu]"),
    ],
)
def test_falling_back_to_the_cpu_is_an_error(monkeypatch, asked, environment, there, found, remedy):
    monkeypatch.setenv("JAX_PLATFORMS", environment)
    finding = doctor.check_devices([device("cpu")], asked, exists=lambda path: path in there)
    assert found in finding.found
    assert remedy in finding.remedy


def test_devices_as_asked_for_are_well_and_too_few_are_not(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    gpus = [device("gpu", "NVIDIA H100")] * 2
    assert doctor.check_devices(gpus, devices_wanted=2).ok
    finding = doctor.check_devices(gpus, devices_wanted=4)
    assert finding.found == "4 were asked for, JAX uses 2 x NVIDIA H100 (gpu)"
    assert "CUDA_VISIBLE_DEVICES" in finding.remedy


def test_a_jax_that_does_not_start_is_a_finding(monkeypatch):
    def connect():
        raise RuntimeError("Unable to initialize backend 'cuda'")

    findings = list(doctor.examine(platform_wanted="gpu", connect=connect))
    assert [f.check for f in findings] == ["versions", "devices"]
    assert "Unable to initialize backend 'cuda'" in findings[-1].found
    assert "jax[cuda12]" in findings[-1].remedy


def test_a_collective_that_fails_or_is_wrong_is_told(monkeypatch):
    assert doctor.check_collective().found == "a sum over 8 devices in 1 process is right"
    monkeypatch.setattr(jax, "jit", lambda *a, **k: lambda x: 35.0)
    assert "gives 35.0, not 36.0" in doctor.check_collective().found

    def fail(*arguments, **options):
        raise RuntimeError("NCCL operation failed")

    monkeypatch.setattr(jax, "jit", fail)
    finding = doctor.check_collective()
    assert "NCCL operation failed" in finding.found
    assert "NCCL_DEBUG=INFO" in finding.remedy


def test_memory_and_disk_are_held_against_the_plan(macros, monkeypatch):
    e = experiment(macros)
    assert doctor.check_memory(e).ok
    assert doctor.check_disk(e).ok
    monkeypatch.setattr(doctor, "_free_memory", lambda: 2**20)
    assert "REMAT_POLICY" in doctor.check_memory(e).remedy
    size = 4 * plan.state_bytes(e)  # steps 0, 900 and 1800 are kept, and one is being written
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: SimpleNamespace(free=size - 1))
    assert "CHECKPOINTS_TO_KEEP" in doctor.check_disk(e).remedy
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: SimpleNamespace(free=size))
    assert doctor.check_disk(e).ok


def test_what_stops_the_recipe_is_told_as_training_tells_it(macros, tmp_path):
    assert "not a multiple of the 8 data shards" in doctor.check_recipe(experiment(macros, BATCH_SIZE=12)).found
    finding = doctor.check_recipe(experiment(macros, TOKEN_STORE=str(tmp_path)))
    assert finding.remedy.startswith("medmt5 tokens --mixture=medical_corpus.all")


def test_a_folder_that_takes_no_files_is_told(tmp_path, monkeypatch):
    assert doctor.check_writing(tmp_path / "a/b").found == f"{tmp_path} can be written to"

    def refuse(**options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(doctor.tempfile, "NamedTemporaryFile", refuse)
    finding = doctor.check_writing(tmp_path / "a/b")
    assert finding.found == f"{tmp_path}: Permission denied"
    assert "the right to write" in finding.remedy
