"""Maps the repository root to the package ``resdet``; everything else is in pyproject.toml."""

from setuptools import find_packages, setup

FOLDERS = ["backbones*", "configs", "datasets*", "detection*", "tools*"]

setup(
    package_dir={"resdet": "."},
    packages=["resdet", *(f"resdet.{name}" for name in find_packages(include=FOLDERS))],
)
