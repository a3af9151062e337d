"""How long a process takes from its start to its first result: `cyclepref --help`, and each kind of embedded model.

    python tests/benchmarks/bench_start.py [--repeats 3]

A model's start has three phases: importing its libraries, loading it, and its first batch of one row. Each is
measured in a fresh process beside the same in a process that first imports transformers and diffusers whole, as every
model's did once, in turn; the medians are compared. Prints a table and a JSON; seconds of processor time, which a busy
machine changes less, with the wall's in brackets. Exits with 1 if `cyclepref --help` takes 0.3 s of processor time or
more.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time

LIMIT_S = 0.3
EVERYTHING = "import transformers, diffusers\ntransformers.PreTrainedModel, diffusers.ModelMixin\n"
PHASES = ("import", "load", "first", "all")
# By name: what brings the libraries in, what loads the model, and its first result.
MODELS = {
    "captioner": (
        "from cyclepref.builder.models.captioners import TransformersCaptioner as Model",
        "model = Model(CATALOG['shapeworld-blip'].model_copy(update={'batch_size': 1}))",
        "model.caption([image], [None])",
    ),
    "text-to-image": (
        "from cyclepref.builder.models.painters import DiffusersPipeline as Model",
        "model = Model(CATALOG['shapeworld-sd3'].model_copy(update={'batch_size': 1}))",
        "model.paint(['a red circle'], [1])",
    ),
    "LPIPS": (
        "from cyclepref.builder.metrics.lpips import Lpips as Model",
        "model = Model(CATALOG['lpips-shapeworld'].model_copy(update={'batch_size': 1}))",
        "model.compare([image], [image])",
    ),
    "SBERT": (
        "from cyclepref.builder.metrics.sbert import Sbert as Model",
        "model = Model(CATALOG['sbert'].model_copy(update={'batch_size': 1}))",
        "model.compare(['a red circle'], ['a blue circle'])",
    ),
}
CHILD = """
import json, time
begin = time.process_time(), time.perf_counter()
said = {{}}
def phase(name):
    global begin
    now = time.process_time(), time.perf_counter()
    said[name] = [b - a for a, b in zip(begin, now)]
    begin = now
{before}{libraries}
phase("import")
from PIL import Image
from cyclepref.builder.catalog.catalog import CATALOG
image = Image.new("RGB", (64, 64), "red")
{load}
phase("load")
{first}
phase("first")
said["all"] = [sum(phase[at] for phase in said.values()) for at in (0, 1)]
print(json.dumps(said))
"""


def start(name: str, before: str) -> dict[str, list[float]]:
    """Seconds of each phase of a model in a fresh process: of the processor, and of the wall."""
    libraries, load, first = MODELS[name]
    code = CHILD.format(before=before, libraries=libraries, load=load, first=first)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{name} did not start:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def medians(runs: list[dict[str, list[float]]]) -> dict[str, list[float]]:
    """Of each phase."""
    return {phase: [statistics.median(run[phase][at] for run in runs) for at in (0, 1)] for phase in runs[0]}


def help_seconds(repeats: int) -> list[float]:
    """Median seconds of `cyclepref --help`: of the processor, and of the wall."""
    code = (
        "import resource, subprocess, sys, time\nbegin = time.perf_counter()\n"
        "subprocess.run([sys.executable, '-m', 'cyclepref.jobs', '--help'], stdout=subprocess.DEVNULL, check=True)\n"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "print(used.ru_utime + used.ru_stime, time.perf_counter() - begin)"
    )
    runs = [
        [float(each) for each in subprocess.check_output([sys.executable, "-c", code], text=True).split()]
        for _ in range(repeats)
    ]
    return [statistics.median(run[at] for run in runs) for at in (0, 1)]


def main() -> None:
    """Measure, print a table and a JSON, and fail above the limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="processes of each kind (default: %(default)s)")
    repeats = parser.parse_args().repeats
    begin = time.perf_counter()
    helped = help_seconds(repeats)
    print(f"cyclepref --help: {helped[0]:.2f} s ({helped[1]:.2f})\n")
    print(f"{'':14} {'phase':>7} {'every library':>16} {'its own':>16} {'ratio':>6}")
    found: dict[str, dict[str, float]] = {}
    for name in MODELS:
        runs: dict[str, list[dict[str, list[float]]]] = {EVERYTHING: [], "": []}
        for _ in range(repeats):
            for before, done in runs.items():
                done.append(start(name, before))
        old, new = medians(runs[EVERYTHING]), medians(runs[""])
        found[name] = {phase: new[phase][0] / old[phase][0] for phase in PHASES}
        for phase in PHASES:
            shown = [f"{each[phase][0]:7.2f} ({each[phase][1]:6.2f})" for each in (old, new)]
            print(f"{name if phase == 'import' else '':14} {phase:>7} {shown[0]} {shown[1]} {found[name][phase]:6.2f}")
    print(json.dumps({"help_s": helped[0], "ratios": found, "took_s": round(time.perf_counter() - begin)}))
    if helped[0] >= LIMIT_S:
        sys.exit(f"cyclepref --help takes {helped[0]:.2f} s, and at most {LIMIT_S} are allowed")


if __name__ == "__main__":
    main()
