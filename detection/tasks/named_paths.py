"""The paths that a checkpoint names: they are opened only if the user names them too.

The config in a checkpoint has the paths of the data it was trained on, and a localizer's those of
other networks. Whoever made the file chose them. The user names a path with ``--cfg``, with an
override, or with the ``config.yaml`` that training wrote into the folder of the run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..config.base import Section
from ..config.files import check_dict
from ..config.paths import opened_paths
from ..config.strict_yaml import read_yaml
from ..errors import ConfigError, ResdetError

#: The option that lets a command open them.
OPTION = "--trust-paths"


@dataclass(frozen=True)
class NamedPaths:
    """Paths by key that only the ``checkpoint`` names; none where the user names all."""

    checkpoint: Path = Path()
    paths: Mapping[str, Path] = field(default_factory=dict)

    def expect_none(self, *sections: str) -> None:
        """Raise ConfigError if the config's ``sections`` have one."""
        for key, path in self.paths.items():
            if key.partition(".")[0] in sections:
                raise ConfigError(
                    f"{self.checkpoint}: the checkpoint alone names {key}={path}, and nothing that "
                    f"only a file names is opened: add {OPTION} if you trust its author, or name "
                    f"the path yourself: --cfg FILE, data.root=DIR or {key.partition('.')[0]}.…"
                )


def named_paths(
    checkpoint: Path, own: Section, config: Section, overrides: Sequence[str] = ()
) -> NamedPaths:
    """The paths of ``config``, the checkpoint's ``own`` one under ``overrides``, that neither the
    overrides nor the folder of the run name."""
    theirs, given = set(opened_paths(own).values()), [word.partition("=")[0] for word in overrides]
    run = _paths_of_run(checkpoint, type(own))
    return NamedPaths(
        checkpoint,
        {
            key: path
            for key, path in opened_paths(config).items()
            if path in theirs - run
            and not any(key == name or key.startswith(f"{name}.") for name in given)
        },
    )


def _paths_of_run(checkpoint: Path, schema: type[Section]) -> set[Path]:
    """The paths in ``config.yaml`` of the run that has the checkpoint in its folder ``weights``."""
    folder = checkpoint.absolute().parent
    if checkpoint.is_dir():  # an exported model in the folder of the run
        path = folder / "config.yaml"
    else:
        path = folder.parent / "config.yaml"
        if folder.name != "weights":
            return set()
    if not path.is_file():
        return set()
    try:
        tree = read_yaml(path).value
        return set(opened_paths(check_dict(schema, tree, str(path))).values())
    except (OSError, ResdetError):
        return set()
