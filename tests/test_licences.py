"""Every dependency has a permissive licence and is listed in THIRD_PARTY.md.

Licences are read from the metadata of the installed packages. Run as a script, this file prints the
rows of the tables.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PERMISSIVE = {
    *("0BSD", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD", "BSD-2-Clause"),
    *("BSD-3-Clause", "BSL-1.0", "CC0-1.0", "ISC", "MIT", "MIT-0", "MIT-CMU", "PSF-2.0", "Zlib"),
}
#: The CUDA libraries of PyTorch's Linux builds: free to use, not open source, not redistributed.
NVIDIA = "NVIDIA proprietary"
NVIDIA_PACKAGE = re.compile(r"nvidia-|cuda-toolkit$")
#: Weak copyleft; only for tools that developers run and users never install.
DEV_ONLY = {"MPL-2.0"}
#: What optional packages bring under a weak copyleft, which covers its own files alone: a list of
#: certificates, and progress bars.
WEAK = {"certifi": "MPL-2.0", "tqdm": "MPL-2.0 AND MIT"}
#: Older metadata has free text or a classifier in place of an SPDX expression.
SPDX = {
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache 2.0": "Apache-2.0",
    "Apache License, Version 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD",
    "Dual License": "Apache-2.0 OR BSD-3-Clause",  # of python-dateutil 2
    "FreeBSD": "BSD-2-Clause",
    "LicenseRef-NVIDIA-Proprietary": NVIDIA,
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "NVIDIA Proprietary Software": NVIDIA,
    "OSI Approved :: Apache Software License": "Apache-2.0",
    "PSFL": "PSF-2.0",
    "Python Software Foundation License": "PSF-2.0",
}


def licence(package: metadata.Distribution) -> str:
    """The SPDX expression, else the short text, else the classifier; "" where there is none."""
    known = package.metadata
    if known["License-Expression"]:
        stated = known["License-Expression"]
    elif (text := (known["License"] or "").strip()) and "\n" not in text and len(text) < 60:
        stated = text
    else:
        classifiers = known.get_all("Classifier") or []
        names = [c.rsplit(" :: ", 1)[1] for c in classifiers if c.startswith("License :: OSI")]
        stated = names[0] if len(names) == 1 else ""
    if not stated and canonicalize_name(known["Name"]) == "cuda-toolkit":
        return NVIDIA  # an empty package that only requires the others
    return SPDX.get(stated, stated)


def closure(requirements: Iterable[str]) -> dict[str, metadata.Distribution]:
    """The packages that these requirements bring on this platform, by name."""
    found: dict[str, metadata.Distribution] = {}
    done: set[tuple[str, frozenset[str]]] = set()
    waiting = [Requirement(text) for text in requirements]
    while waiting:
        wanted = waiting.pop()
        name = canonicalize_name(wanted.name)
        if (name, frozenset(wanted.extras)) in done:
            continue
        done.add((name, frozenset(wanted.extras)))
        found[name] = metadata.distribution(wanted.name)
        extras = [{"extra": extra} for extra in ("", *wanted.extras)]
        for requirement in map(Requirement, found[name].requires or []):
            marker = requirement.marker
            if marker is None or any(marker.evaluate(extra) for extra in extras):
                waiting.append(requirement)
    return found


def project() -> dict[str, list[str]]:
    """The requirements of each group; ``required`` is what everybody installs."""
    table = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return {"required": table["dependencies"], **table["optional-dependencies"]}


def listed() -> dict[str, str]:
    """Package to licence, from the tables of THIRD_PARTY.md."""
    text = (ROOT / "THIRD_PARTY.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([\w.-]+) \| ([^|]+) \|$", text, flags=re.MULTILINE)
    return {name: stated for name, stated in rows if name not in ("package", "---")}


def parts(expression: str) -> set[str]:
    return {part.strip(" ()") for part in re.split(r" AND | OR ", expression)}


def test_every_required_package_is_listed_with_its_licence() -> None:
    installed = {name: licence(package) for name, package in closure(project()["required"]).items()}
    assert len(installed) > len(project()["required"])
    table = listed()
    # The table knows several releases, whose licences differ: of torch, it lists all of them.
    wrong = {
        name: stated
        for name, stated in installed.items()
        if not parts(stated) <= parts(table.get(name, ""))
    }
    assert not wrong, "THIRD_PARTY.md does not say what the metadata of these packages says"


OPTIONAL = [
    "completion",
    "export",
    "hub",
    "mlflow",
    "nncf",
    "openvino",
    "ray",
    "remote",
    "serve",
    "shards",
    "tensorboard",
    "wandb",
]


@pytest.mark.parametrize("group", ["required", *OPTIONAL])
def test_required_and_optional_packages_are_permissive(group: str) -> None:
    try:
        packages = closure(project()[group])
    except metadata.PackageNotFoundError as error:
        if group == "required":
            raise
        pytest.skip(f"not installed: {error.name}")
    refused = {
        name: stated
        for name, package in packages.items()
        if not parts(stated := licence(package)) <= PERMISSIVE
        and not (stated == NVIDIA and NVIDIA_PACKAGE.match(name))
        and not (group != "required" and WEAK.get(name) == stated)
    }
    assert not refused


def test_the_table_has_no_copyleft() -> None:
    assert listed()
    for name, stated in listed().items():
        allowed = PERMISSIVE | ({NVIDIA} if NVIDIA_PACKAGE.match(name) else set())
        assert parts(stated) <= allowed, name


def test_developer_tools_are_permissive_or_mpl() -> None:
    for requirement in project()["dev"]:
        name = Requirement(requirement).name
        try:
            stated = licence(metadata.distribution(name))
        except metadata.PackageNotFoundError:
            pytest.skip(f"not installed: {name}")
        assert parts(stated) <= PERMISSIVE | DEV_ONLY, name


@pytest.mark.parametrize(
    "stated", ["GPL-3.0-or-later", "AGPL-3.0", "MIT AND LGPL-2.1-only", "MPL-2.0", "", NVIDIA]
)
def test_other_licences_are_rejected(stated: str) -> None:
    assert not parts(stated) <= PERMISSIVE


def test_the_licence_file_has_the_complete_apache_text() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Copyright 2026 The resdet authors" in text
    assert "[yyyy]" not in text
    for section in range(1, 10):
        assert f"\n   {section}. " in text
    assert "END OF TERMS AND CONDITIONS" in text


if __name__ == "__main__":
    for name, package in sorted(closure(project()["required"]).items()):
        print(f"| {name} | {licence(package)} |")
