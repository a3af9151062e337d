"""Workers on a Ray of their own: this machine alone can reach what they and their process group listen on."""

import ipaddress
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

TRAIN = """
import sys
from cyclepref.builder.reward.training.workers import train_with_workers
from cyclepref.builder.reward.training.settings import HeadSettings, TrainRecipe

source, start, out = sys.argv[1:]
recipe = TrainRecipe(start=start, head=HeadSettings(head_sizes=(8,)), epochs=3, inputs_per_step=5)
print("workers", train_with_workers([source], recipe, __import__("pathlib").Path(out), 2)["workers"])
"""


@pytest.mark.slow
def test_workers_that_train_on_this_machine_listen_on_loopback_alone(build, captioner, tmp_path):
    # Short and directly under /tmp: Ray's sockets lie in it, and a socket's path may have 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="own-ray-", dir="/tmp"))
    arguments = [str(build("i2t2i", train=7, validation=3)), str(captioner), str(tmp_path / "out")]
    command = [sys.executable, "-c", TRAIN, *arguments]
    process = psutil.Popen(
        command, env=os.environ | {"RAY_TMPDIR": str(folder)}, stdout=subprocess.PIPE, start_new_session=True, text=True
    )
    family, found = {process}, set()
    while process.poll() is None:
        time.sleep(0.2)
        with suppress(psutil.NoSuchProcess):
            family.update(process.children(recursive=True))
        for member in family:
            with suppress(psutil.NoSuchProcess):
                sockets = [socket for socket in member.net_connections("inet") if socket.laddr and not socket.raddr]
                found.update((member.name(), socket.laddr.ip) for socket in sockets)
    _, left = psutil.wait_procs(family, timeout=30)
    shutil.rmtree(folder, ignore_errors=True)
    assert process.stdout.read().endswith("workers 2\n")
    assert left == []
    assert [name for name, _ in found if "Train" in name], found
    mapped = {(name, getattr(ipaddress.ip_address(ip), "ipv4_mapped", None) or ip) for name, ip in found}
    assert {(name, str(ip)) for name, ip in mapped if not ipaddress.ip_address(str(ip)).is_loopback} == set()
