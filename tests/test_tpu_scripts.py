"""The scripts for TPU pods, against a stand-in for gcloud that records calls and fails when told to."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = ROOT / "tpu_scripts"
ALL = sorted(path.name for path in SCRIPTS.glob("*.sh") if path.name not in ("lib.sh", "local_pod.sh"))
CAPACITY = 'There is no more capacity in the zone "z"; you can try in another zone [code 8]'
LONG = "for _ in $(seq 1200); do sleep 0.05; done"  # a minute or two: it ends even if nobody is left to stop it


class Cloud:
    """A project with one TPU of two hosts, and a repository that has the scripts."""

    def __init__(self, tmp: Path, repository: Path) -> None:
        self.here = tmp / "cloud"
        self.here.mkdir()
        self.scripts = repository / "tpu_scripts"
        named = {"NAME": "mine", "PROJECT": "p", "ZONE": "z", "TYPE": "v5litepod-16", "WORKERS": "2", "POLL": "0"}
        named |= {"RETRIES": "3", "BACKOFF": "0", "LOGS": str(tmp / "logs"), "SHARED": str(tmp / "shared")}
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("TPU_", "JAX_", "XPK_"))}
        self.environment = {
            **kept,
            **{f"TPU_{name}": value for name, value in named.items()},
            "PATH": f"{ROOT / 'tests' / 'stand_ins'}:{os.environ['PATH']}",
            "STAND_IN": str(self.here),
        }

    def run(self, script: str, *arguments: str, status: int = 0, **environment: str) -> str:
        """What the script says, on both streams."""
        command = [str(self.scripts / f"{script}.sh"), *arguments]
        done = subprocess.run(
            command,
            env={**self.environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
        )
        assert done.returncode == status, done.stdout
        return done.stdout

    def put(self, name: str, *lines: str) -> None:
        (self.here / name).write_text("".join(f"{line}\n" for line in lines))

    def get(self, name: str) -> list[str]:
        path = self.here / name
        return path.read_text().splitlines() if path.exists() else []

    def calls(self, *words: str) -> list[str]:
        return [call for call in self.get("calls") if all(word in call for word in words)]


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("repository")
    shutil.copytree(SCRIPTS, path / "tpu_scripts")
    commit(path)
    return path


def commit(path: Path) -> str:
    git = ["git", "-C", str(path), "-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "--allow-empty", "-m", "a"]):
        subprocess.run([*git, *words], check=True)
    return subprocess.check_output([*git, "rev-parse", "HEAD"], text=True).strip()


@pytest.fixture
def cloud(tmp_path, repository) -> Iterator[Cloud]:
    cloud = Cloud(tmp_path, repository)
    yield cloud
    for file in cloud.here.glob("worker-*/jaxsamplers/.run/pid"):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(int(file.read_text()), signal.SIGKILL)


@pytest.fixture
def ready(cloud) -> Cloud:
    """With a TPU that is set up."""
    cloud.run("create")
    cloud.run("setup")
    return cloud


def wait_for(cloud: Cloud, answer: str) -> str:
    for _ in range(200):
        if answer in (said := cloud.run("status")):
            return said
        time.sleep(0.02)
    raise AssertionError(said)


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="shellcheck is not installed")
def test_shellcheck():
    files = [*SCRIPTS.rglob("*.sh"), *(ROOT / "tests" / "stand_ins").iterdir()]
    check = subprocess.run(["shellcheck", "-x", "-P", "SCRIPTDIR", *files], capture_output=True, text=True)
    assert check.returncode == 0, check.stdout


def test_create_waits_for_capacity_and_in_the_queue(cloud):
    cloud.put("fail-create", CAPACITY, CAPACITY)
    cloud.put("made", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE")
    said = cloud.run("create", "--spot", "--valid", "6h", TPU_BACKOFF="30", TPU_POLL="7")
    assert "no capacity for v5litepod-16 in z" in said
    assert "try 2 of 4 follows" in said
    assert "try 3 of 4 follows" in said
    assert cloud.get("sleeps") == ["30", "60", "7", "7"]
    made = cloud.calls("create")
    assert len(made) == 3
    wanted = ("queued-resources create mine --node-id=mine --project=p --zone=z", "--accelerator-type=v5litepod-16")
    wanted += ("--runtime-version=v2-alpha-tpuv5-lite", "--spot", "--valid-until-duration=6h")
    assert all(word in made[-1] for word in wanted)


def test_create_and_delete_once(cloud):
    for _ in range(2):
        assert "mine is there" in cloud.run("create")
    assert len(cloud.calls("create")) == 1
    for _ in range(2):
        assert "there is no mine" in cloud.run("delete")
    assert len(cloud.calls("delete", "--force")) == 1


def test_create_gives_up(cloud):
    cloud.put("fail-create", *[CAPACITY] * 9)
    said = cloud.run("create", status=2, TPU_BACKOFF="30", TPU_BACKOFF_MAX="50")
    assert "given up after 3 more tries (TPU_RETRIES)" in said
    assert len(cloud.calls("create")) == 4
    assert cloud.get("sleeps") == ["30", "50", "50"]


@pytest.mark.parametrize(
    "error",
    [
        "PERMISSION_DENIED: Permission 'tpu.queuedResources.get' denied (or it may not exist)",
        "You do not currently have an active account selected.",
    ],
)
@pytest.mark.parametrize("script", ["create", "delete"])
def test_who_is_not_allowed_is_told_at_once(cloud, script, error):
    cloud.put("fail-describe", error)
    said = cloud.run(script, status=2)
    assert error in said
    assert "error: gcloud refuses, as said above" in said
    assert len(cloud.calls()) == 1
    assert not cloud.get("sleeps")


@pytest.mark.parametrize("script", ["create", "delete"])
def test_without_gcloud(cloud, tmp_path, script):
    """Not the same as without a TPU."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("bash", "env", "dirname", "basename", "sed"):
        (tools / name).symlink_to(str(shutil.which(name)))
    assert "error: there is no gcloud here" in cloud.run(script, status=2, PATH=str(tools))


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        ("RESOURCE_EXHAUSTED: Quota limit 'TPUS' has been exceeded. Limit: 0", "the project has no quota for this"),
        ("INVALID_ARGUMENT: unknown runtime version", "gcloud refuses: ERROR: INVALID_ARGUMENT: unknown runtime"),
    ],
)
def test_create_does_not_repeat_what_cannot_work(cloud, error, sentence):
    cloud.put("fail-create", error)
    assert sentence in cloud.run("create", status=2)
    assert len(cloud.calls("create")) == 1


def test_create_asks_again_when_it_asked_too_often(cloud):
    """Which Google calls a quota, too."""
    of_calls = "RESOURCE_EXHAUSTED: Quota exceeded for quota metric 'Requests' and limit 'Requests per minute' of"
    cloud.put("fail-create", f"{of_calls} service 'tpu.googleapis.com'", "HttpError 429: RATE_LIMIT_EXCEEDED")
    assert cloud.run("create").count("gcloud was asked too often") == 2
    assert len(cloud.calls("create")) == 3


@pytest.mark.parametrize("state", ["SUSPENDED", "FAILED"])
def test_create_replaces_what_was_taken_away(cloud, state):
    cloud.put("resource", state)
    assert "mine is there" in cloud.run("create")
    assert [call.split()[4] for call in cloud.calls("queued-resources") if "describe" not in call] == [
        "delete",
        "create",
    ]


def test_without_the_queue(cloud):
    cloud.put("fail-create", CAPACITY)
    cloud.put("made", "CREATING", "READY")
    cloud.run("create", "--direct")
    assert "tpu-vm create mine --project=p --zone=z --version=v2-alpha-tpuv5-lite" in cloud.calls("create")[1]
    cloud.put("resource", "PREEMPTED")
    cloud.run("delete", "--direct")
    assert cloud.calls("tpu-vm delete mine")
    assert not cloud.calls("queued-resources")


def test_delete_insists(cloud):
    cloud.put("resource", "ACTIVE")
    cloud.put("fail-delete", "INTERNAL: try again")
    cloud.put("fail-describe", "UNAVAILABLE: no answer")
    cloud.run("delete")
    assert not cloud.get("resource")
    cloud.put("resource", "ACTIVE")
    cloud.put("fail-delete", *["INTERNAL"] * 9)
    assert "mine is still there after 4 tries: it may cost money" in cloud.run("delete", status=2)


def test_setup_of_every_host_once(cloud, tmp_path):
    cloud.run("create")
    cloud.put("fail-scp", "Connection reset")
    said = cloud.run("setup")
    assert "could not be set up; once more" in said
    assert "all 2 workers are set up" in said
    assert len(cloud.calls("scp")) == 3
    installed = cloud.calls("uv pip install")
    assert len(installed) == 2
    assert "-e .[experiments] jax[tpu]" in installed[0]
    cloud.run("setup")
    assert len(cloud.calls("scp")) == 3
    again = tmp_path / "again"
    shutil.copytree(cloud.scripts.parent, again)
    (again / "tpu_scripts" / "README.md").unlink()
    new = commit(again)
    on_host = cloud.here / "worker-0" / "jaxsamplers"
    (on_host / "runs").mkdir()
    cloud.scripts = again / "tpu_scripts"
    assert new[:10] in cloud.run("setup")
    assert len(cloud.calls("scp")) == 5
    assert not (on_host / "tpu_scripts" / "README.md").exists()  # what the older commit had
    assert (on_host / "runs").exists()
    cloud.put("unreachable", "1")
    cloud.put("worker-0/jaxsamplers/.run/ready")
    said = cloud.run("setup", status=2)
    assert "workers 1 could not be set up, in 4 tries" in said
    assert "[1] ERROR: Connection timed out" in said


def test_setup_leaves_what_runs_alone(ready, tmp_path):
    """The code of a command on whatever host is not replaced, unless told to."""
    (ready.here / "worker-0" / "jaxsamplers" / ".run" / "ready").unlink()
    ready.run("launch", "--", "bash", "-c", f"[[ $PWD == *worker-0* ]] || {LONG}")
    wait_for(ready, "[0] exit 0")
    copied = len(ready.calls("scp"))
    sentence = "error: workers 1 run a command, whose code this would replace: stop.sh first, or say --force"
    assert sentence in ready.run("setup", status=3)
    assert sentence in ready.run("supervise", "--delete", "--", "true", status=3)
    assert ready.get("resource")
    assert len(ready.calls("scp")) == copied
    assert "[1] running" in ready.run("status")
    assert "all 2 workers are set up" in ready.run("setup", "--force")
    assert len(ready.calls("scp")) == copied + 1
    assert "all 2 workers are set up" in ready.run("setup")


def test_setup_asks_for_huge_pages(cloud, tmp_path):
    cloud.run("create")
    wanted = "sudo sh -c echo always >/sys/kernel/mm/transparent_hugepage/enabled"
    assert "huge pages" not in cloud.run("setup")
    assert cloud.calls("transparent_hugepage").count(wanted) == 2
    sudo = tmp_path / "tools" / "sudo"
    sudo.parent.mkdir()
    sudo.write_text("#!/bin/sh\nexit 1\n")
    sudo.chmod(0o755)
    cloud.put("worker-0/jaxsamplers/.run/ready")
    said = cloud.run("setup", PATH=f"{sudo.parent}:{cloud.environment['PATH']}")
    assert "[0] transparent huge pages cannot be switched on here" in said
    assert "all 2 workers are set up" in said


def test_setup_mounts_the_bucket(cloud, tmp_path):
    """Where directories can be renamed, which is what makes a checkpoint complete; by a stand-in for gcsfuse."""
    cloud.run("create")
    tools, shared = tmp_path / "tools", tmp_path / "shared"
    tools.mkdir()
    programs = {
        "gcsfuse": 'echo "gcsfuse $*" >>"$STAND_IN/calls" && touch "${!#}/mounted"',
        "mountpoint": '[[ -f "$2/mounted" ]]',
        "sudo": '[[ $1 == sh ]] || exec "$@"',
    }
    for name, program in programs.items():
        (tools / name).write_text(f"#!/usr/bin/env bash\n{program}\n")
        (tools / name).chmod(0o755)
    told = {"PATH": f"{tools}:{cloud.environment['PATH']}", "TPU_SHARED": str(shared), "TPU_WORKERS": "1"}
    for _ in range(2):
        cloud.run("setup", "--bucket", "b", **told)
    wanted = f"gcsfuse --implicit-dirs --rename-dir-limit=200000 b {shared}"
    assert [call for call in cloud.calls("gcsfuse") if call.startswith("gcsfuse")] == [wanted]


def test_launch_logs_and_status(ready, tmp_path):
    program = 'echo "$1" "$NUMBER" "$JAX_COMPILATION_CACHE_DIR" "$LIBTPU_INIT_ARGS"'
    words = ["--set", "NUMBER=a 'b", "--", "bash", "-c", program, "_", "two  words"]
    assert sorted(ready.run("status").splitlines()) == ["[0] idle", "[1] idle"]
    ready.run("launch", *words)
    wait_for(ready, "[0] exit 0")
    wait_for(ready, "[1] exit 0")
    said = ready.run("logs")
    for worker in range(2):
        assert f"[{worker}] two  words a 'b {tmp_path}/shared/compiled --xla_tpu_enable" in said
        text = (tmp_path / "logs" / "mine" / f"{worker}.log").read_text()
        assert text.startswith("== 20")
        assert "\ntwo  words" in text


def test_logs_of_an_earlier_tpu_are_kept(ready, tmp_path):
    told = []
    for name in ("first", "second"):
        ready.run("create")
        ready.run("setup")
        ready.run("launch", "--", "echo", name)
        wait_for(ready, "[1] exit 0")
        wait_for(ready, "[0] exit 0")
        for _ in range(2):
            ready.run("logs")
        told.append(ready.run("logs", "--once"))
        ready.run("delete")
        if name == "first":
            time.sleep(1.1)  # they are told apart by their time
    assert [text.count("first\n") for text in told] == [4, 0]
    kept = sorted((tmp_path / "logs" / "mine").glob("1*.log"), key=lambda path: len(path.name))
    assert len(kept) == 2
    assert kept[0].name == "1.log"
    assert [path.read_text().splitlines()[1] for path in kept] == ["second", "first"]


def test_launch_is_once_and_stops(ready):
    words = ["--", "bash", "-c", f"trap 'echo told; exit 5' TERM; {LONG}"]
    ready.run("launch", *words)
    assert ready.run("launch", *words).count("runs already") == 2
    assert ready.run("status").count("running") == 2
    ready.run("stop", "--grace", "5")
    assert ready.run("status").count("exit 5") == 2
    assert ready.run("logs", "--once", "--worker", "1").count("[1] told") == 1
    ready.run("stop")


def test_launched_twice_at_the_same_moment(ready):
    """As two supervisors would: it runs once on every worker."""
    command = [str(ready.scripts / "launch.sh"), "--", "bash", "-c", LONG]
    begin = lambda: subprocess.Popen(command, env=ready.environment, stdout=subprocess.PIPE, text=True)
    said = "".join(each.communicate(timeout=60)[0] for each in [begin() for _ in range(4)])
    assert said.count("runs already") == 6
    assert ready.run("status").count("running") == 2
    assert ready.run("logs", "--once").count("== 20") == 2
    ready.run("stop")


def test_a_host_that_was_started_anew(ready):
    """Another process may have the number that the command's had: it does not run, and is not stopped."""
    run = ready.here / "worker-1" / "jaxsamplers" / ".run"
    words = ["--", "bash", "-c", LONG]
    ready.run("launch", *words)
    other = int((run / "pid").read_text())
    (run / "boot").write_text("another\n")
    try:
        assert sorted(ready.run("status").splitlines()) == ["[0] running", "[1] lost"]
        ready.run("stop", "--grace", "5")
        os.killpg(other, 0)
        assert ready.run("launch", *words).count("runs already") == 0
        assert int((run / "pid").read_text()) != other
    finally:
        os.killpg(other, signal.SIGKILL)
    assert ready.run("status").count("running") == 2
    ready.run("stop")


def kept(tmp_path: Path, worker: int, text: str) -> list[Path]:
    """The copies of a worker's log on shared storage, once they say so."""
    for _ in range(500):
        found = sorted((tmp_path / "shared" / "logs" / "mine").glob(f"{worker}.*.log"))
        if sum(text in path.read_text() for path in found):
            return found
        time.sleep(0.02)
    raise AssertionError(text)


def test_logs_are_copied_to_shared_storage(ready, tmp_path):
    """So that a TPU that is taken away does not take them along; one file a machine, whatever is launched on it."""
    ready.run("launch", "--", "bash", "-c", f"echo first; {LONG}")
    ready.run("stop", "--grace", "5")
    for worker in range(2):
        (path,) = kept(tmp_path, worker, "first\n")
        assert path.name == f"{worker}.{path.read_text().split()[1]}.log"
    ready.run("launch", "--", "echo", "second")
    (path,) = kept(tmp_path, 1, "second\n")
    assert "\nfirst\n" in path.read_text()
    ready.run("launch", "--shared", "gs://b", "--", "echo", "third")  # no directory, but good for compiled programs
    wait_for(ready, "[1] exit 0")
    assert not (ready.here / "worker-1" / "jaxsamplers" / "gs:").exists()


def test_launch_with_one_worker_dead(ready):
    ready.put("unreachable", "1")
    said = ready.run("launch", "--", "bash", "-c", LONG, status=1)
    assert "error: workers 1 could not start it; stopped on the others" in said
    (ready.here / "unreachable").unlink()
    assert "running" not in ready.run("status")
    ready.put("unreachable", "0")
    assert "error: workers 0 cannot be reached" in ready.run("status", status=1)


def test_profile(ready):
    ready.run("profile", "--first", "20", "--steps", "5", "--", "echo", "learn")
    wait_for(ready, "[1] exit 0")
    assert "[1] learn --trace 20:5" in ready.run("logs", "--worker", "1")


# the worker's number, and how often it has been told to start
ROUND = """
worker=${PWD##*worker-} && worker=${worker%%/*}
round=$(grep -c "worker=$worker .*remote/start.sh" "$STAND_IN/calls")
"""
TAKEN_AWAY = """echo SUSPENDED >"$STAND_IN/$$" && mv "$STAND_IN/$$" "$STAND_IN/resource" && kill -KILL $$"""


def test_preempted_in_the_middle(cloud):
    """The second machine goes on where shared storage says that the first one was."""
    cloud.put("fail-create", CAPACITY)
    program = f"""{ROUND}
    if ((round == 1)); then echo 7 >"$STAND_IN/shared" && {TAKEN_AWAY}; fi
    echo "went on from $(<"$STAND_IN/shared")" """
    said = cloud.run("supervise", "--spot", "--", "bash", "-c", program)
    assert "preempted, time 1 of 100: making mine anew" in said
    assert "done, after 1 preemptions and 0 failures" in said
    assert len(cloud.calls("queued-resources create", "--spot")) == 3
    assert len(cloud.calls("queued-resources delete")) == 1
    assert len(cloud.calls("uv pip install")) == 4
    assert cloud.run("logs", "--once").count("went on from 7\n") == 2


def test_a_preemption_that_is_first_seen_as_a_program_that_was_killed(cloud):
    cloud.put("made", "ACTIVE", "ACTIVE", "SUSPENDED")
    said = cloud.run("supervise", "--", "bash", "-c", f"{ROUND} ((round > 1)) || kill -KILL $$")
    assert "done, after 1 preemptions and 0 failures" in said


def test_a_preemption_that_the_program_is_told_of(cloud):
    """It has left with 143 for a while when gcloud knows, which is no failure."""
    cloud.put("made", *["ACTIVE"] * 7, "SUSPENDED")
    said = cloud.run("supervise", "--failures", "0", "--", "bash", "-c", f"{ROUND} ((round > 1)) || exit 143")
    assert "done, after 1 preemptions and 0 failures" in said


def test_what_somebody_deletes_is_not_made_again(cloud):
    said = cloud.run("supervise", "--", "bash", "-c", 'rm -f "$STAND_IN/resource"; kill -KILL $$', status=1)
    assert "error: somebody has deleted mine: it is not made again" in said
    assert len(cloud.calls("queued-resources create")) == 1


def test_logs_are_kept_in_the_end(cloud, tmp_path):
    cloud.run("supervise", "--delete", "--", "echo", "all is well")
    assert not cloud.get("resource")
    assert "all is well" in (tmp_path / "logs" / "mine" / "1.log").read_text()


def test_preempted_too_often(cloud):
    said = cloud.run("supervise", "--restarts", "1", "--", "bash", "-c", TAKEN_AWAY, status=1)
    assert "error: preempted 2 times (--restarts 1)" in said


def test_a_command_that_fails(cloud, tmp_path):
    program = f"echo no luck; [[ $PWD != *worker-1* ]] || exit 7; {LONG}"
    said = cloud.run("supervise", "--failures", "1", "--delete", "--", "bash", "-c", program, status=7)
    assert "failed 7, time 1 of 1: once more" in said
    assert "error: failed 7, 2 times (--failures 1)" in said
    assert not cloud.get("resource")
    assert "no luck" in (tmp_path / "logs" / "mine" / "1.log").read_text()


def test_one_worker_dies(cloud):
    """Its process is gone without a word the first time; the host itself is the second time."""
    program = f"""{ROUND}
    case $worker-$round in
      1-1) kill -KILL 0 ;;
      1-2) echo 1 >"$STAND_IN/unreachable" ;;
      *-1 | *-2) {LONG} ;;
    esac"""
    said = cloud.run("supervise", "--", "bash", "-c", program)
    assert "lost, time 1 of 3: once more" in said
    assert "lost, time 2 of 3: once more" in said
    assert "a worker cannot be reached: making mine anew" in said
    assert "done, after 0 preemptions and 2 failures" in said


def test_xpk(cloud):
    cloud.run("xpk", "cluster", "--cluster", "c", "--spot")
    cloud.run("xpk", "launch", "--cluster", "c", "--slices", "2", "--set", "A=b c", "--", "python", "-m", "a", "b c")
    cloud.run("xpk", "stop", "--cluster", "c")
    made, launched, stopped = cloud.calls("xpk")
    assert made == "xpk cluster create --cluster=c --project=p --zone=z --tpu-type=v5litepod-16 --num-slices=1 --spot"
    assert "xpk workload create --cluster=c --project=p --zone=z --workload=mine" in launched
    assert "--num-slices=2" in launched
    assert launched.endswith(r" A=b\ c python -m a b\ c")
    assert "&& exec env " in launched  # SIGTERM is the program's
    code = launched.split("--script-dir=")[1].split()[0]
    assert code != str(cloud.scripts.parent)  # the last commit, and nothing else that lies about
    assert not Path(code).exists()
    assert stopped == "xpk workload delete --cluster=c --project=p --zone=z --workload=mine"
    assert "say cluster, launch, logs" in cloud.run("xpk", "start", status=2)
    assert "all of c would be deleted" in cloud.run("xpk", "delete", status=2, XPK_CLUSTER="c")
    assert len(cloud.calls("xpk")) == 3


def arguments(script: str) -> Sequence[str]:
    if script == "xpk":
        return ["launch", "--cluster", "c", "--dry-run", "--", "python", "a.py"]
    return ["--dry-run", *(["--", "python", "a.py"] if script in ("launch", "profile", "supervise") else [])]


def test_dry_runs(cloud):
    """Every command is printed as one would type it, and nothing happens."""
    said = {name: cloud.run(name, *arguments(name)) for name in (Path(script).stem for script in ALL)}
    assert not list(cloud.here.iterdir())
    assert all(
        line.startswith(("gcloud ", "git ", "mkdir ", "tar ", "xpk "))
        for text in said.values()
        for line in text.splitlines()
    )
    assert [line.split()[4] for line in said["create"].splitlines()] == ["describe", "create", "describe"]
    verbs = [line.split()[4] for line in said["supervise"].splitlines() if line.startswith("gcloud ")]
    assert verbs == ["describe", "create", "describe", *["ssh"] * 4, *["scp", "ssh"] * 2, *["ssh"] * 4]
    assert "--worker=1 --quiet --command='bash jaxsamplers/tpu_scripts/remote/stop.sh 30'" in said["stop"]
    assert said["launch"].count("python a.py") == 2


@pytest.mark.parametrize("kind", ["v4-8 1", "v4-32 4", "v5p-128 16", "v5litepod-8 1", "v5litepod-16 4", "v6e-256 64"])
def test_hosts_of_a_type(cloud, kind):
    name, hosts = kind.split()
    said = cloud.run("stop", "--dry-run", "--type", name, TPU_WORKERS="")
    assert len(said.splitlines()) == int(hosts)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["create", "--name"], "error: --name needs a value"),
        (["create", "--valid"], "error: --valid needs a value"),
        (["create", "--spott"], "error: unknown option --spott; create.sh --help names all"),
        (["create", "--zone", ""], "error: give --zone, or set TPU_ZONE"),
        (["create", "--type", "v9-8"], "error: type must be such as v5litepod-16, v5p-32, v6e-64 or v4-32, got v9-8"),
        (["create", "--workers", "two"], "error: workers must be a positive number, got two"),
        (["create", "--env", "none.env"], "error: there is no environment file none.env"),
        (["launch"], "error: say what to run, after --"),
        (["supervise", "--spot"], "error: say what to run, after --"),
        (["profile", "--steps", "0", "--", "a"], "error: --first and --steps must be numbers, got 100 and 0"),
    ],
)
def test_what_cannot_be(cloud, words, sentence):
    assert sentence in cloud.run(*words, status=2).splitlines()
    assert not cloud.get("calls")


@pytest.mark.parametrize("script", ALL)
def test_help(cloud, script):
    said = cloud.run(Path(script).stem, "--help")
    assert f"tpu_scripts/{script} " in said
    assert "--dry-run" in said
    assert not cloud.get("calls")


def test_an_environment_for_each_generation():
    found = {path.stem: path.read_text() for path in (SCRIPTS / "env").glob("*.env")}
    assert set(found) == {"v4", "v5e", "v5p", "v6e"}
    for text in found.values():
        names = [line.split("=")[0] for line in text.splitlines() if not line.startswith("#")]
        assert names == ["TPU_RUNTIME", "LIBTPU_INIT_ARGS"]
