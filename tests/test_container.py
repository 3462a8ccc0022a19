"""The files that make a container of the server."""

from __future__ import annotations

import argparse
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from resdet.tools import serve

ROOT = Path(__file__).parents[1]


def test_the_command_of_the_container_is_one():
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    command = next(line for line in lines if line.startswith("CMD ["))
    name, *words = yaml.safe_load(command.removeprefix("CMD "))
    parser = argparse.ArgumentParser()
    serve.add_arguments(parser)
    args = parser.parse_args(words)
    assert (name, args.host, args.port) == ("serve", "0.0.0.0", 8000)  # noqa: S104
    assert [str(each) for each in args.weights] == ["/model"]


def test_everything_the_package_is_built_from_is_sent_to_the_builder():
    kept = [
        line[1:]
        for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
        if line.startswith("!")
    ]
    assert all((ROOT / name).exists() for name in kept)
    packages = {each.parent.name for each in ROOT.glob("*/__init__.py")} - {"tests", "benchmarks"}
    assert packages <= set(kept)


def test_the_services_can_write_nothing():
    services = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))["services"]
    assert services["resdet"]["read_only"] is True
    assert services["resdet"]["cap_drop"] == ["ALL"]
    ports = [port for each in services.values() for port in each["ports"]]
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_hadolint_finds_nothing():
    if (linter := shutil.which("hadolint")) is None:
        pytest.skip("hadolint is not installed")
    done = subprocess.run([linter, ROOT / "Dockerfile"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
