"""A build as a Ray job, on a real local head with token authentication, by the commands that a user types:

    export RAY_AUTH_MODE=token
    ray get-auth-token --generate
    ray start --head
    export RAY_API_SERVER_ADDRESS=http://127.0.0.1:8265
    ray job submit --working-dir . -- python -m jobs.build RECIPE --out DIR
    ray stop

Ray uploads the working directory without what .gitignore names and without .git and .venv. The head here has a home,
ports and processes of its own, and only those are ended: a plain `ray stop` would end every Ray of this machine.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sysconfig
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
import yaml

ROOT = Path(__file__).parents[1]
SCRIPTS = sysconfig.get_path("scripts")
VERSION = "0.0.0+of.the.upload"
RECIPE = {
    "name": "job",
    "cycle": "i2t2i",
    "inputs": {"source": "shapeworld", "limit": 4},
    "forward": [
        {"model": "shapeworld-blip", "name": "sampled", "samples": 3, "settings": {"temperature": 2.0}},
    ],
    "backward": {"model": "shapeworld-sd", "settings": {"steps": 2}},
    "metric": {"metric": "lpips-shapeworld"},
    "pairs": {"min_margin": 0, "poor_chosen": None},
}


@dataclass(frozen=True)
class Head:
    """A running head: where its job API is, what a shell that may use it has in its environment, and the secret."""

    folder: Path
    address: str
    environment: dict[str, str]
    token: str

    def ray(self, *arguments: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run the ray command line to its end, with standard error in its output."""
        return subprocess.run(
            [f"{SCRIPTS}/ray", *arguments],
            cwd=cwd, env=self.environment | environment, timeout=300,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def http(self, path: str, token: str | None, data: bytes | None = None) -> tuple[int, str]:
        """Status and body of a request to the job API."""
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
        request = urllib.request.Request(self.address + path, data=data, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    # Short and directly under /tmp: Ray's sockets lie in it, and a socket's path may have 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="ray-job-", dir="/tmp"))
    home = folder / "home"
    home.mkdir()
    ours = {"HOME": str(home), "PATH": f"{SCRIPTS}:{os.environ['PATH']}", "RAY_AUTH_MODE": "token"}
    # A busy machine takes longer to start a head than Ray waits by default.
    ours["RAY_raylet_start_wait_time_s"] = "120"
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("RAY_AUTH_")}
    gcs, dashboard, agent, client = _free_ports(4)
    address = f"http://127.0.0.1:{dashboard}"
    environment = inherited | ours | {"RAY_API_SERVER_ADDRESS": address}
    generate = [f"{SCRIPTS}/ray", "get-auth-token", "--generate"]
    token = subprocess.run(generate, env=environment, check=True, capture_output=True, text=True).stdout.strip()
    running = Head(folder, address, environment, token)
    # One GPU by declaration: actors are pinned to it as to a real one, and where there is none they run on the CPU.
    command = [
        f"{SCRIPTS}/ray", "start", "--head", "--block", "--num-cpus=2", "--num-gpus=1",
        "--node-ip-address=127.0.0.1", f"--port={gcs}", "--min-worker-port=0", "--max-worker-port=0",
        f"--ray-client-server-port={client}", f"--dashboard-agent-listen-port={agent}",
        "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}",
        f"--object-store-memory={512 * 2**20}", f"--temp-dir={folder}", "--disable-usage-stats",
    ]  # fmt: skip
    with open(folder / "start.log", "w") as log:
        start = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        _wait_until_up(running, start)
        yield running
    finally:
        _end(start, folder)
        shutil.rmtree(folder, ignore_errors=True)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _wait_until_up(head: Head, start: subprocess.Popen) -> None:
    for _ in range(240):
        if start.poll() is not None:
            break
        try:
            if head.http("/api/jobs/", head.token)[0] == 200:
                return
        except OSError:
            pass
        time.sleep(0.5)
    pytest.fail(f"the head did not come up:\n{(head.folder / 'start.log').read_text()}")


def _end(start: subprocess.Popen, folder: Path) -> None:
    """What `ray stop` does, to the processes of this head alone: SIGTERM to all, SIGKILL to those that stay."""
    ours = [start.pid, *(p.pid for p in psutil.process_iter(["cmdline"]) if str(folder) in str(p.info["cmdline"]))]
    children = [child.pid for pid in ours if psutil.pid_exists(pid) for child in psutil.Process(pid).children(True)]
    processes = [psutil.Process(pid) for pid in {*ours, *children} if psutil.pid_exists(pid)]
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    _, left = psutil.wait_procs(processes, timeout=5)
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    _, left = psutil.wait_procs(left, timeout=10)
    assert not left, f"these would not end: {left}"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A checkout with a version of its own, so that a run tells whose code made it, and with what must stay behind."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("schemas", "builder", "jobs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / ".gitignore", folder)
    (folder / "builder" / "__init__.py").write_text(f'"""A copy."""\n\n__version__ = "{VERSION}"\n')
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    (folder / "misspelt.yaml").write_text(yaml.safe_dump(RECIPE | {"backward": {"model": "shapeworld-ds"}}))
    for name in (".venv/lib", ".git/objects", "runs/before"):
        (folder / name).mkdir(parents=True)
        (folder / name / "large").write_bytes(bytes(2**20))
    return folder


@dataclass(frozen=True)
class Job:
    id: str
    out: Path
    output: str


def submit(head: Head, checkout: Path, recipe: str, out: Path) -> subprocess.CompletedProcess[str]:
    """Submit a build from a checkout and wait for its end."""
    entrypoint = ["python", "-m", "jobs.build", recipe, "--out", str(out)]
    return head.ray("job", "submit", "--working-dir", ".", "--", *entrypoint, cwd=checkout)


@pytest.fixture(scope="module")
def job(head, checkout, tmp_path_factory) -> Job:
    """The recipe, built by a job that has succeeded."""
    out = tmp_path_factory.mktemp("job") / "run"
    submitted = submit(head, checkout, "recipe.yaml", out)
    assert submitted.returncode == 0, submitted.stdout
    return Job(re.search(r"raysubmit_\w+", submitted.stdout)[0], out, submitted.stdout)


def test_a_submitted_job_builds_pairs(job):
    assert re.search(r"Job 'raysubmit_\w+' succeeded", job.output)
    counts = json.loads((job.out / "run.json").read_text())["counts"]
    assert counts["inputs"]["unique"] == 4
    assert pq.read_table(job.out / "pairs").num_rows == counts["pairs"]["kept"] > 0


def test_the_job_sees_the_gpus_of_the_cluster(job):
    assert "no GPU on this cluster" not in job.output


def test_driver_and_workers_run_the_uploaded_code(job):
    assert json.loads((job.out / "run.json").read_text())["cyclepref"] == VERSION
    made_by = pq.read_table(job.out / "store" / "generations", columns=["code_version"])["code_version"]
    assert set(made_by.to_pylist()) == {VERSION}


def test_the_upload_is_the_source_and_small(head, job):
    (upload,) = head.folder.glob("session_2*/runtime_resources/working_dir_files/_ray_pkg_*/")
    files = {path.relative_to(upload).as_posix(): path.stat().st_size for path in upload.rglob("*") if path.is_file()}
    assert {"jobs/build.py", "builder/engine/engine.py", "schemas/recipe.py", "recipe.yaml"} <= files.keys()
    assert not [name for name in files if name.startswith((".venv", ".git/", "runs"))]
    assert sum(files.values()) < 40 * 2**20


def test_a_recipe_with_a_misspelt_model_fails_the_job_with_the_reason(head, checkout, tmp_path):
    submitted = submit(head, checkout, "misspelt.yaml", tmp_path / "run")
    assert submitted.returncode == 1
    assert "did you mean 'shapeworld-sd" in submitted.stdout
    assert re.search(r"Job 'raysubmit_\w+' failed", submitted.stdout)


def test_a_job_submitted_again_from_another_upload_computes_nothing_twice(head, checkout, job):
    before = sorted((job.out / "store").rglob("*.parquet"))
    (checkout / "note.txt").write_text("Another content, so another folder on the cluster, for the weights too.")
    submitted = submit(head, checkout, "recipe.yaml", job.out)
    assert submitted.returncode == 0, submitted.stdout
    assert sorted((job.out / "store").rglob("*.parquet")) == before
    counts = json.loads((job.out / "run.json").read_text())["counts"]
    assert counts["candidates"]["sampled"]["reused"] == counts["candidates"]["sampled"]["wanted"] == 12


@pytest.mark.parametrize("data", [None, b'{"entrypoint": "true"}'], ids=["list", "submit"])
@pytest.mark.parametrize(("token", "status"), [(None, 401), ("0" * 64, 403)], ids=["no token", "a wrong token"])
def test_the_job_api_refuses_whoever_has_not_the_token(head, data, token, status):
    assert head.http("/api/jobs/", token, data)[0] == status


def test_the_command_line_cannot_submit_without_the_token(head, tmp_path):
    submitted = head.ray("job", "submit", "--", "true", HOME=str(tmp_path), RAY_AUTH_MODE="disabled")
    assert submitted.returncode != 0
    assert "AuthenticationError" in submitted.stdout


def test_the_token_is_in_no_file_and_no_answer_about_the_job(head, job):
    files = [path for path in job.out.rglob("*") if path.is_file()]
    assert len(files) > 5
    assert not [path for path in files if head.token.encode() in path.read_bytes()]
    assert head.token not in job.output
    for path in ("/api/jobs/", f"/api/jobs/{job.id}", f"/api/jobs/{job.id}/logs"):
        status, body = head.http(path, head.token)
        assert (status, head.token in body) == (200, False)
