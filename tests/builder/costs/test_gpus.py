"""GPU types are found by their own names and by those that drivers and Ray give them."""

import stat

import pytest

from cyclepref.builder.costs import gpus
from cyclepref.builder.costs.gpus import GPUS, Card, UnknownGpu, cards_here, gpu_named


@pytest.mark.parametrize(
    ("told", "is_"),
    [
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100-PCIe"),
        ("NVIDIA A100-SXM4-40GB", "A100-40G"),
        ("NVIDIA A100-SXM4-80GB", "A100-80G"),
        ("A100", "A100-40G"),
        ("Tesla T4", "T4"),
        ("Tesla V100-SXM2-32GB", "V100-32G"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA GeForce RTX 4090", "RTX-4090"),
        ("NVIDIA RTX A6000", "A6000"),
        ("h200", "H200"),
    ],
)
def test_a_gpu_is_known_by_its_drivers_name(told, is_):
    assert gpu_named(told).name == is_


def test_every_type_is_known_by_its_own_name():
    assert all(gpu_named(name) is gpu for name, gpu in GPUS.items())


def test_an_unknown_type_is_told_with_those_that_are_known():
    with pytest.raises(UnknownGpu, match=r"unknown GPU type 'H10' \(did you mean 'H100'.*known for B200"):
        gpu_named("H10")


def driver(tmp_path, monkeypatch, script: str) -> None:
    """Put a driver's command in the path, which is a program of another vendor."""
    command = tmp_path / "nvidia-smi"
    command.write_text(f"#!/bin/sh\n{script}\n")
    command.chmod(command.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")


def test_the_gpus_of_this_machine_are_those_that_its_driver_lists(tmp_path, monkeypatch):
    driver(tmp_path, monkeypatch, "echo 'NVIDIA H100 80GB HBM3, 81559'; echo 'Odd, Name, 16000'")
    assert cards_here() == [Card("NVIDIA H100 80GB HBM3", 85.5), Card("Odd, Name", 16.8)]
    assert cards_here()[0].gpu is GPUS["H100"]
    assert cards_here()[1].gpu is None


@pytest.mark.parametrize("script", ["echo NVIDIA-SMI has failed >&2; exit 9", "echo 'No devices were found'"])
def test_a_driver_without_a_gpu_lists_none(tmp_path, monkeypatch, script):
    driver(tmp_path, monkeypatch, script)
    assert cards_here() == []


def test_a_driver_that_does_not_answer_is_not_waited_for(tmp_path, monkeypatch):
    driver(tmp_path, monkeypatch, "exec sleep 20")
    monkeypatch.setattr(gpus, "ASKING_S", 0.2)
    assert cards_here() == []
