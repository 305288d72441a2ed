"""Launch scripts: lint, dry runs as reviewed, and that what runs is what the dry run printed.

The dry runs in golden/ are written anew by `UPDATE_GOLDEN=1 python -m pytest tests/launch`. Programs of clouds and
clusters are stood in for by one that writes down how it was called, and answers as a test says.
"""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent.parent
LAUNCH = ROOT / "launch"
GOLDEN = Path(__file__).parent / "golden"
SCRIPTS = sorted([*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.sbatch")])

RUN = ["gin/recipe/medical_mt5_large.gin", "/shared/runs/a b", "--gin.TOKEN_STORE=/it's/here", '--gin.X={"a": 1}']
TPU = ["--name", "medmt5", "--zone", "us-central2-b"]
GKE = ["--name", "job", "--cluster", "c", "--project", "p", "--zone", "z"]
START = ["--type", "v5litepod-16", "--image", "registry/medmt5:tpu"]
DRY_RUNS = {
    "local": ["local.sh", *RUN],
    "local_processes": ["local.sh", "--processes", "2", "--restarts", "3", *RUN],
    "slurm_one_node": ["slurm.sh", "--nodes", "1", "--gpus", "1", *RUN],
    "slurm": ["slurm.sh", "--nodes", "2", "--gpus", "4", "--array", "0-4", "--sbatch", "--partition=gpu", *RUN],
    "gke_start": ["gke.sh", "start", *GKE, *START, "--slices", "2", *RUN],
    "gke_follow": ["gke.sh", "follow", *GKE],
    "gke_delete": ["gke.sh", "delete", *GKE],
    "tpu_run": ["tpu.sh", "run", *TPU, "--type", "v4-32", "--spot", *RUN],
    "tpu_run_queued": ["tpu.sh", "run", *TPU, "--type", "v4-32", "--queued", "--spot", *RUN],
    "tpu_create": ["tpu.sh", "create", *TPU, "--type", "v4-32"],
    "tpu_prepare": ["tpu.sh", "prepare", *TPU],
    "tpu_start": ["tpu.sh", "start", *TPU, *RUN],
    "tpu_follow": ["tpu.sh", "follow", *TPU],
    "tpu_delete": ["tpu.sh", "delete", *TPU],
    "tpu_delete_queued": ["tpu.sh", "delete", *TPU, "--queued"],
}
COSTS = [name for name in DRY_RUNS if name.startswith(("slurm", "gke_start", "tpu_run", "tpu_create"))]

# Writes how it was called, a line of JSON, and does as the first line of $ANSWERS says whose words are all in the call:
# "words | exit code | output"; a line that was followed is crossed out, but for the last that matches.
FAKE = """#!{python}
import json, os, sys
name = os.path.basename(sys.argv[0])
call = [name, *sys.argv[1:]]
with open(os.environ["CALLS"], "a") as file:
    file.write(json.dumps(call) + "\\n")
lines = open(os.environ["ANSWERS"]).read().splitlines()
fits = [i for i, line in enumerate(lines) if all(any(w in c for c in call) for w in line.split(" | ")[0].split())]
if fits:
    _, code, output = lines[fits[0]].split(" | ")
    if len(fits) > 1:
        del lines[fits[0]]
        open(os.environ["ANSWERS"], "w").write("\\n".join(lines))
    print(output)
    sys.exit(int(code))
"""


@pytest.fixture
def clouds(tmp_path):
    """Returns run(arguments, answers, **environment) -> (exit code, printed lines, calls, what was said)."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("gcloud", "xpk", "kubectl", "sbatch", "srun", "scontrol", "git"):
        (folder / name).write_text(FAKE.format(python=sys.executable), encoding="utf-8")
        (folder / name).chmod(0o755)

    def run(arguments, answers="", **environment):
        calls, replies = tmp_path / "calls", tmp_path / "answers"
        calls.write_text("")
        replies.write_text(answers)
        given = {"CALLS": str(calls), "ANSWERS": str(replies), "POLL_SECONDS": "0", "TMPDIR": "/tmp", "PORT": "9473"}
        result = subprocess.run(
            [f"launch/{arguments[0]}", *arguments[1:]],
            cwd=ROOT,
            env={"PATH": f"{folder}:/usr/bin:/bin", **given, **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        return (
            result.returncode,
            result.stdout.splitlines(),
            [json.loads(line) for line in calls.read_text().splitlines()],
            result.stderr,
        )

    return run


def lint(program, *arguments):
    """Runs a linter that `pip install -e '.[test]'` brings."""
    found = shutil.which(program, path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if found is None:
        pytest.skip(f"{program} is not installed; pip install -e '.[test]'")
    result = subprocess.run([found, *arguments], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.name)
def test_every_script_passes_bash_and_shellcheck(script):
    subprocess.run(["bash", "-n", script], check=True)
    lint("shellcheck", "-x", "-P", LAUNCH, script)


def test_the_containers_pass_hadolint():
    files = sorted(LAUNCH.glob("Dockerfile.*"))
    assert len(files) == 2
    lint("hadolint", *files)


def test_pinned_versions_are_those_that_setup_py_allows():
    lines = (LAUNCH / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = {name: version for name, _, version in (line.partition("==") for line in lines if not line.startswith("#"))}
    code = (
        (ROOT / "setup.py")
        .read_text(encoding="utf-8")
        .partition("setup(\n")[0]
        .replace("__file__", repr(str(ROOT / "setup.py")))
    )
    names: dict = {}
    exec(code, names)  # the lists alone
    for text in (*names["CORE"], *names["TRAIN"], *names["S3"], *names["GCS"]):
        requirement = Requirement(text)
        assert requirement.specifier.contains(pins[requirement.name], prereleases=True), text
    for name in ("gpu", "tpu"):
        assert f"]=={pins['jax']}" in (LAUNCH / f"Dockerfile.{name}").read_text(encoding="utf-8")
    assert pins["jaxlib"] == pins["jax"]


@pytest.mark.parametrize("name", DRY_RUNS)
def test_a_dry_run_prints_what_was_reviewed_and_calls_nothing(clouds, name):
    code, printed, calls, said = clouds(DRY_RUNS[name], DRY_RUN="1")
    assert (code, calls, said) == (0, [], "")
    file = GOLDEN / f"{name}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        file.write_text("\n".join(printed) + "\n", encoding="utf-8")
    assert printed == file.read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("name", [name for name in DRY_RUNS if not name.startswith("local")])
def test_what_runs_is_what_the_dry_run_printed(clouds, name):
    answers = "queued-resources describe | 0 | ACTIVE"
    arguments = [*DRY_RUNS[name]]
    if name in COSTS:
        arguments.insert(1 if arguments[0] == "slurm.sh" else 2, "--yes")
    code, _, calls, said = clouds(arguments, answers)
    assert (code, said) == (0, "")
    assert [shlex.split(line) for line in (GOLDEN / f"{name}.txt").read_text(encoding="utf-8").splitlines()] == calls


@pytest.mark.parametrize("name", COSTS)
def test_what_costs_money_needs_yes(clouds, name):
    code, printed, calls, said = clouds(DRY_RUNS[name])
    assert (code, printed, calls) == (2, [], [])
    assert "add --yes, or look first: DRY_RUN=1" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["local.sh", "only_one"], "RECIPE and MODEL_DIR are missing"),
        (["local.sh", "--processes", "none", *RUN], "--processes must be a number from 1 on, not none"),
        (["local.sh", "--process", "2", *RUN], "there is no option --process"),
        (["local.sh", "--gin.X=3", *RUN], "--gin.X=3 must come after RECIPE and MODEL_DIR"),
        (["slurm.sh", "--nodes", "2", *RUN], "--gpus is missing"),
        (["gke.sh", "start", *GKE, *RUN], "--type is missing"),
        (["gke.sh", "start", *GKE, *START, *RUN, "--yes"], "options of this script come before them, also --yes"),
        (["tpu.sh", "fly", *TPU], "there is no fly: run, create, prepare, start, follow or delete"),
        (["tpu.sh", "run", "--name", "a", *RUN], "--zone is missing"),
        (["tpu.sh", "create", *TPU, "--yes"], "--type is missing"),
        (["tpu.sh", "start", *TPU, RUN[0]], "RECIPE and MODEL_DIR are missing"),
        (["tpu.sh"], "run, create, prepare, start, follow or delete?"),
    ],
)
def test_a_wrong_call_is_told_what_is_wrong_and_how_to_call(clouds, arguments, message):
    code, printed, calls, said = clouds(arguments)
    assert (code, printed, calls) == (2, [], [])
    assert said.startswith(f"launch/{arguments[0]}: ")
    assert message in said.splitlines()[0]
    assert f"  launch/{arguments[0]} " in said


@pytest.mark.parametrize("script", ["local.sh", "slurm.sh", "gke.sh", "tpu.sh"])
def test_help_is_the_comment_at_the_top(clouds, script):
    code, printed, calls, said = clouds([script, "--help"])
    assert (code, calls, said) == (0, [], "")
    top = (LAUNCH / script).read_text(encoding="utf-8").partition("\nset -euo")[0].splitlines()[1:]
    assert printed == [line.removeprefix("#").removeprefix(" ") for line in top]


def test_arguments_reach_the_workers_shell_whole(clouds, tmp_path):
    """The command of a worker is given to a shell, twice, as ssh and nohup do."""
    _, _, calls, _ = clouds(DRY_RUNS["tpu_start"])
    command = calls[0][-1].removeprefix("--command=")
    python = tmp_path / "medmt5/.venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!/bin/sh\nprintf '%s\\n' \"$@\" > {tmp_path}/arguments\nexit 75\n")
    python.chmod(0o755)
    subprocess.run(["bash", "-c", command], cwd=tmp_path, check=True)
    code = tmp_path / "medmt5/exit_code"
    while not (code.exists() and code.read_text()):
        time.sleep(0.05)
    assert code.read_text() == "75\n"
    assert (tmp_path / "arguments").read_text().splitlines() == [
        "-m",
        "medmt5.train",
        f"--gin_file={RUN[0]}",
        f"--gin.MODEL_DIR={RUN[1]}",
        *RUN[2:],
    ]
    followed = next(iter(clouds(DRY_RUNS["tpu_follow"])[2]))[-1].removeprefix("--command=")
    assert subprocess.run(["bash", "-c", followed], cwd=tmp_path, check=False).returncode == 75


def kinds(calls):
    """Returns what of the TPU each call is about."""
    words = ("create", "scp", "ssh", "describe", "delete", "cat-file", "archive")
    return [next(w for w in words if w in call) + (" 0" if "--worker=0" in call else "") for call in calls]


YES = ["tpu.sh", "run", *TPU, "--type", "v4-32", "--yes", *RUN]
MADE = ["create", "scp", "ssh"]
FIRST = ["cat-file", "archive", *MADE]  # what is sent is packed before anything costs money


def test_a_preempted_tpu_is_made_anew_and_the_training_goes_on(clouds):
    answers = "ssh --worker=0 | 255 | lost\nssh --worker=0 | 0 | done\ntpu-vm describe | 0 | PREEMPTED"
    code, _, calls, said = clouds(YES, answers)
    assert code == 0
    lost = ["ssh", "ssh 0", "describe", "describe", "delete"]
    assert kinds(calls) == [*FIRST, *lost, *MADE, "ssh", "ssh 0"]
    assert "is gone: a new one" in said


def test_a_lost_connection_is_made_again_and_nothing_is_started_twice(clouds):
    answers = "ssh --worker=0 | 255 | lost\nssh --worker=0 | 0 | done\ntpu-vm describe | 0 | READY"
    code, _, calls, _ = clouds(YES, answers)
    assert (code, kinds(calls)) == (0, [*FIRST, "ssh", "ssh 0", "describe", "ssh 0"])


@pytest.mark.parametrize(
    ("ended", "again"), [(143, True), (75, True), (137, True), (2, False), (1, False), (74, False)]
)
def test_a_training_that_ended_on_a_tpu_that_is_there(clouds, ended, again):
    answers = f"ssh --worker=0 | {ended} | x\nssh --worker=0 | 0 | done\ntpu-vm describe | 0 | READY"
    code, _, calls, _ = clouds(YES, answers)
    assert kinds(calls) == [*FIRST, "ssh", "ssh 0", "describe", *(["ssh", "ssh 0"] if again else [])]
    assert code == (0 if again else ended)


def test_restarts_end(clouds):
    code, _, calls, _ = clouds(YES, "ssh --worker=0 | 143 | x\ntpu-vm describe | 0 | READY", RESTARTS="2")
    assert (code, kinds(calls).count("ssh 0")) == (143, 3)


@pytest.mark.parametrize(("failing", "calls_made"), [("cat-file", 1), ("archive", 2), ("create", 3), ("scp", 4)])
def test_a_command_that_fails_stops_the_script(clouds, failing, calls_made):
    code, _, calls, _ = clouds(YES, f"{failing} | 3 | no")
    assert (code, len(calls)) == (2 if failing == "cat-file" else 3, calls_made)


def test_a_queued_resource_is_waited_for_and_a_failed_one_told(clouds):
    create = ["tpu.sh", "create", *TPU, "--type", "v4-32", "--queued", "--yes"]
    answers = "describe | 0 | WAITING_FOR_RESOURCES\ndescribe | 0 | PROVISIONING\ndescribe | 0 | ACTIVE"
    code, _, calls, _ = clouds(create, answers)
    assert (code, kinds(calls)) == (0, ["create", "describe", "describe", "describe"])
    code, _, _, said = clouds(create, "describe | 0 | FAILED")
    assert code == 2
    assert "the queued resource medmt5 is FAILED" in said


SLURM = {"SLURM_JOB_ID": "7"}
ARRAY = {"SLURM_JOB_ID": "9", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3"}


@pytest.mark.parametrize(
    ("environment", "model_dir", "extra", "job"),
    [(SLURM, RUN[1], [], "7"), (ARRAY, f"{RUN[1]}/seed_3", ["--gin.RANDOM_SEED=3"], "7_3")],
)
def test_a_slurm_job_that_was_stopped_goes_back_into_the_queue(clouds, environment, model_dir, extra, job):
    code, printed, calls, said = clouds(["slurm.sbatch", *RUN], "srun | 143 | x", **environment)
    train = ["-m", "medmt5.train", f"--gin_file={RUN[0]}", f"--gin.MODEL_DIR={model_dir}", *extra, *RUN[2:]]
    srun = ["srun", "--kill-on-bad-exit=1", "python3", *train]
    assert calls == [srun, ["scontrol", "requeue", job]]
    assert shlex.split(printed[0]) == srun
    assert (code, said) == (0, "exit code 143: back into the queue\n")


@pytest.mark.parametrize("ended", [0, 1, 2, 74])
def test_a_slurm_job_that_need_not_run_again_ends(clouds, ended):
    code, _, calls, _ = clouds(["slurm.sbatch", *RUN], f"srun | {ended} | x", **SLURM)
    assert (code, len(calls)) == (ended, 1)


def test_a_slurm_job_is_not_started_for_ever(clouds):
    code, _, calls, said = clouds(["slurm.sbatch", *RUN], "srun | 137 | x", **SLURM, SLURM_RESTART_COUNT="100")
    assert (code, len(calls)) == (137, 1)
    assert "after 100 restarts: not started again" in said


PYTHON = """#!/bin/sh
echo "$@" >> {folder}/starts
trap 'echo saved >> {folder}/starts; kill $!; exit 143' TERM
trap 'echo saved >> {folder}/starts; kill $!; exit 130' INT
[ "$(wc -l < {folder}/starts)" -gt {fails} ] || exit {code}
[ -z "{waits}" ] || {{ sleep 60 & wait; }}
"""


def local(tmp_path, *options, fails=0, code=0, waits=""):
    """Starts launch/local.sh with a Python that fails so many times first."""
    python = tmp_path / "python"
    python.write_text(PYTHON.format(folder=tmp_path, fails=fails, code=code, waits=waits))
    python.chmod(0o755)
    environment = {"PATH": "/usr/bin:/bin", "PYTHON": str(python), "PORT": "9473"}
    command = ["launch/local.sh", *options, *RUN]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    # Tests that run in the background ignore SIGINT, and a shell cannot trap what it was started to ignore.
    heeds = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True, preexec_fn=heeds, **pipes)


@pytest.mark.parametrize(
    ("options", "code", "starts", "ended"),
    [
        (["--restarts", "3"], 137, 3, 0),
        (["--restarts", "1"], 137, 2, 137),
        ([], 137, 1, 137),
        (["--restarts", "3"], 2, 1, 2),
        (["--restarts", "3"], 74, 1, 74),
    ],
)
def test_a_local_training_that_was_killed_starts_again(tmp_path, options, code, starts, ended):
    process = local(tmp_path, *options, fails=2, code=code)
    process.communicate(timeout=120)
    assert process.returncode == ended
    assert len((tmp_path / "starts").read_text().splitlines()) == starts


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_reaches_both_local_processes_once_and_nothing_starts_again(tmp_path, number, code):
    """Sent to the whole group, as a terminal sends Ctrl-C: a second signal would keep the training from saving."""
    process = local(tmp_path, "--processes", "2", "--restarts", "3", waits="yes")
    starts = tmp_path / "starts"
    while not (starts.exists() and len(starts.read_text().splitlines()) == 2):
        time.sleep(0.05)
    time.sleep(0.5)  # the traps of both are set in their second line
    os.killpg(process.pid, number)
    process.communicate(timeout=120)
    assert process.returncode == code
    lines = starts.read_text().splitlines()
    assert lines[2:] == ["saved", "saved"]
    assert sorted(line.split()[-1] for line in lines[:2]) == ["--process_index=0", "--process_index=1"]
