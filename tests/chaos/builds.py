"""Builds as processes of their own that the chaos tests may kill, and nothing else."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import yaml

ROOT = Path(__file__).parents[2]
# Small batches, so that there are many parts to be killed between.
SMALL = {"batch_size": 2}
RECIPES = {
    "i2t2i": {
        "name": "chaos",
        "cycle": "i2t2i",
        "inputs": {"source": "shapeworld", "limit": 12, "seed": 1},
        "forward": [
            {"model": "shapeworld-blip", "settings": SMALL},
            {"model": "shapeworld-blip", "name": "hot", "samples": 2, "settings": {"temperature": 1.0, **SMALL}},
        ],
        "backward": {"model": "shapeworld-sd", "settings": {"steps": 4, **SMALL}},
        "metric": {"metric": "lpips-shapeworld"},
        "pairs": {"min_margin": 0.0, "poor_chosen": None},
        "max_failure_rate": 0,
    },
    "t2i2t": {
        "name": "chaos",
        "cycle": "t2i2t",
        "inputs": {"source": "shapeworld", "limit": 12, "seed": 1},
        "forward": [{"model": "shapeworld-sd", "samples": 3, "settings": {"steps": 4, **SMALL}}],
        "backward": {"model": "shapeworld-blip", "settings": SMALL},
        "metric": {"metric": "sbert"},
        "pairs": {"min_margin": 0.0, "poor_chosen": None},
        "max_failure_rate": 0,
    },
}


class Build:
    """`cyclepref build` in a session of its own, with the processes that it started."""

    def __init__(self, cycle: str, out: Path, folder: Path, *options: str, address: str = ""):
        self.out, self.log = out, folder / f"{out.name}-{time.monotonic_ns()}.log"
        recipe = folder / f"{cycle}.yaml"
        recipe.write_text(yaml.safe_dump(RECIPES[cycle]))
        environment = {**os.environ, "RAY_TMPDIR": str(folder)}
        if address:
            environment["RAY_ADDRESS"] = address
        with self.log.open("w") as log:
            self.process = psutil.Popen(
                [sys.executable, "-m", "cyclepref.jobs.cli", "build", str(recipe), "--out", str(out), *options],
                cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        self.started: list[psutil.Process] = []

    @property
    def parts(self) -> int:
        """How many parts the stages have written."""
        tables = ("sources", "inputs", "generations", "similarities")
        return sum(len(list((self.out / "store" / table).glob("[!.]*.parquet"))) for table in tables)

    def running(self) -> bool:
        return self.process.poll() is None

    def family(self) -> list[psutil.Process]:
        """Every process that the build started, and theirs."""
        with suppress(psutil.NoSuchProcess):
            found = self.process.children(recursive=True)
            self.started = list({*self.started, *found})
            return found
        return []

    def find(self, *words: str) -> list[psutil.Process]:
        """Those of the family with all `words` in their command line."""
        named = []
        for process in self.family():
            with suppress(psutil.NoSuchProcess):
                line = " ".join(process.cmdline())
                named += [process] if all(word in line for word in words) else []
        return named

    def wait_for(self, condition, timeout_s: float = 600) -> bool:
        """Wait until `condition()`; False if the build ended before."""
        end = time.monotonic() + timeout_s
        while not condition():
            if not self.running():
                return False
            assert time.monotonic() < end, f"the build hangs:\n{self.output}"
            time.sleep(0.05)
        return True

    def kill(self, what: str) -> bool:
        """Kill -9 of a part of the build; whether there was such a part."""
        family = self.family()
        victims = {
            "driver": [self.process],
            "everything": [self.process, *family],
            "raylet": self.find("raylet/raylet"),
            "gcs_server": self.find("gcs/gcs_server"),
            "actor": self.find("ray::Host"),
            "model": self.find("multiprocessing.spawn", "spawn_main"),
        }[what]
        for victim in victims if what == "everything" else victims[:1]:
            with suppress(psutil.NoSuchProcess):
                victim.kill()
        return bool(victims)

    def end(self, timeout_s: float = 600) -> int:
        """Wait for the build's end; ends what it left behind, and nothing else."""
        self.wait_for(lambda: not self.running(), timeout_s)
        status = self.process.wait(10)
        _, left = psutil.wait_procs(self.started, timeout=10)
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=10)
        return status

    def signal(self, number: signal.Signals) -> None:
        """Ctrl-C goes to every process of the session, as a terminal sends it; a scheduler signals the build."""
        if number == signal.SIGINT:
            os.killpg(self.process.pid, number)
        else:
            self.process.send_signal(number)

    @property
    def output(self) -> str:
        return self.log.read_text()


def tables(out: Path) -> dict[str, bytes]:
    """The views and the dataset's files, byte for byte."""
    files = [path for name in ("candidates", "scores", "pairs", "dataset") for path in (out / name).rglob("*")]
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in files if path.is_file()}
