"""Maps the repository root to the package ``resdet``; everything else is in pyproject.toml."""

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

FOLDERS = ["backbones*", "configs", "datasets*", "detection*", "tools*"]


class BuildWithoutThisFile(build_py):
    """The root is a package, whose modules include this file."""

    def find_package_modules(self, package: str, package_dir: str) -> list[tuple[str, str, str]]:
        modules = super().find_package_modules(package, package_dir)
        return [module for module in modules if module[:2] != ("resdet", "setup")]


setup(
    package_dir={"resdet": "."},
    packages=["resdet", *(f"resdet.{name}" for name in find_packages(include=FOLDERS))],
    cmdclass={"build_py": BuildWithoutThisFile},
)
