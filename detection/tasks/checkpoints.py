"""Loading of trained networks from checkpoints, with classes matched by name.

K classes. A command reads each checkpoint once: it needs the task of the first one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...backbones.norm import fold_norms
from ...backbones.undrawn import Undrawn, shapes_only
from ...backbones.weights.convert import are_numbered
from ...backbones.weights.load import expect_fit, import_weights, load_into
from ..config.base import Section
from ..config.files import check_dict, override
from ..engine.checkpoint import free, is_portable, load_checkpoint, weights_of
from ..engine.forking import momenta
from ..errors import ConfigError, DataError, WeightsError, quoted
from ..export.folder import META, MODEL, graph_file, is_export, read_meta
from .base import Loaded, Task
from .class_rows import carry_rows, match_classes
from .named_paths import NamedPaths, named_paths

Tensors = Mapping[str, Tensor]
#: {kind of converted weights: task}.
CONVERTED = {"detector": "detection", "classifier": "classification"}


@dataclass(frozen=True)
class Checkpoint:
    """A trained network in a file: weights, configuration and class names.

    ``tensors`` are the moving average if there is one, else the weights; ``state`` is the whole
    content of the file, for resuming."""

    path: Path
    task: Task
    tensors: Tensors
    config: Section
    classes: tuple[str, ...]
    state: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def release(self) -> None:
        """Free the tensors, for all who hold the checkpoint: a resumed run has taken them."""
        free(self.tensors, self.state)

    def expect_network(self, config: Section) -> None:
        """Raise ConfigError if ``config`` differs in one of `Task.network_settings`."""
        for section, names in self.task.network_settings.items():
            for name in names:
                trained = getattr(getattr(self.config, section), name)
                given = getattr(getattr(config, section, None), name, None)
                if trained != given:
                    raise ConfigError(
                        f"{self.path} was trained with {section}.{name}={trained}, the config "
                        f"says {given}"
                    )

    def ordered_as(self, classes: Sequence[str], owner: str) -> Checkpoint:
        """The same network with its classes in the order of ``classes``, which are those of
        ``owner``; raises DataError where the two have other classes."""
        if self.classes == tuple(classes):
            return self
        if set(self.classes) != set(classes):
            raise DataError(class_difference(str(self.path), self.classes, owner, classes))
        order = [self.classes.index(name) for name in classes]
        layers = self.task.class_layers
        tensors = carry_rows(self.tensors, layers, len(order), order, self.tensors)
        return replace(self, tensors=tensors, classes=tuple(classes))

    def with_momenta(self) -> tuple[Checkpoint, dict[str, Tensor]]:
        """The checkpoint with the weights before their moving average, and the momentum of its
        optimizer by parameter; unchanged and {} where it has no optimizer.

        Raises WeightsError where the optimizer's state does not fit the network.
        """
        if "optimizer" not in self.state:
            return self, {}
        config: Any = self.config
        self.expect_fit(config)
        with shapes_only():
            network = self.task.build(config, len(self.classes))
        try:
            found = momenta(self.state, network, config.train)
        except ValueError as error:
            raise WeightsError(f"{self.path}: cannot be started from: {error}") from error
        return replace(self, tensors=self.state["model"]), found

    def expect_fit(self, config: Section) -> None:
        """Raise WeightsError unless the tensors fit ``config``, without memory for the network: a
        small file must not ask for a large one."""
        with shapes_only():
            network = self.task.build(config, len(self.classes))
        expect_fit(network, self.tensors, source=str(self.path))

    def load(
        self,
        device: str | torch.device = "cpu",
        overrides: Sequence[str] = (),
        *,
        base: Section | None = None,
        trust_paths: bool = False,
    ) -> Loaded:
        """The network in evaluation mode, with its configuration, or ``base``, under
        ``overrides``. Unless ``trust_paths``, no path that only the checkpoint names is opened.

        Raises:
            WeightsError: the tensors do not fit the configuration.
            ConfigError: an override is wrong.
        """
        config: Any = override(base or self.config, overrides)
        classes, given = self.classes, config.data.classes
        if not self.state and are_numbered(classes) and given and len(given) == len(classes):
            classes = given  # converted weights without names
        self.expect_fit(config)
        with Undrawn():
            model = self.task.build(config, len(self.classes))
        load_into(model, self.tensors, source=str(self.path))
        named = NamedPaths() if trust_paths else self.named_paths(config, overrides)
        return Loaded(model.to(device).eval(), config, classes, self.config, named, self.held_out)

    @property
    def held_out(self) -> tuple[str, ...] | None:
        """The images that training held out by ``data.val.fraction``, if it did."""
        names = self.state.get("held_out")
        return None if names is None else tuple(names)

    def named_paths(self, config: Section, overrides: Sequence[str]) -> NamedPaths:
        """The paths of ``config``, its own under ``overrides``, that only this file names."""
        return named_paths(self.path, self.config, config, overrides)


@dataclass(frozen=True)
class ExportedCheckpoint(Checkpoint):
    """The folder of an exported model in the place of a checkpoint, for `read_applicable`."""

    def ordered_as(self, classes: Sequence[str], owner: str) -> Checkpoint:
        """`Checkpoint.ordered_as`; raises ConfigError for the same classes in another order."""
        if set(self.classes) == set(classes) and self.classes != tuple(classes):
            raise ConfigError(
                f"{self.path}: an exported model keeps its order of classes, and {owner} has "
                "another one; take the checkpoint"
            )
        return super().ordered_as(classes, owner)

    def load(
        self,
        device: str | torch.device = "cpu",
        overrides: Sequence[str] = (),
        *,
        base: Section | None = None,
        trust_paths: bool = False,
    ) -> Loaded:
        """`Checkpoint.load`; raises ConfigError for other settings than those of the export."""
        config: Any = override(base or self.config, overrides)
        whole = graph_file(self.path, MODEL).is_file()
        for name in self.task.exported_settings if whole else ():
            given, held = (reduce(getattr, name.split("."), each) for each in (config, self.config))
            if given != held:
                raise ConfigError(
                    f"{self.path}: {name} is {held} in the exported model and cannot become "
                    f"{given}: export the checkpoint again, with {name}={given}"
                )
        model = self.task.exported(self.path, config, len(self.classes)).eval()
        named = NamedPaths() if trust_paths else self.named_paths(config, overrides)
        return Loaded(model, config, self.classes, self.config, named)


def read_applicable(path: Path, *tasks: Task) -> Checkpoint:
    """`read_checkpoint`, or an exported model, which can be applied and evaluated."""
    if not is_export(path):
        return read_checkpoint(path, *tasks)
    meta = read_meta(path)
    task = _task_called(meta["task"], path, tasks)
    config = check_dict(task.schema, meta["config"], str(path / META))
    return ExportedCheckpoint(path, task, {}, config, tuple(meta["classes"]))


def read_checkpoint(path: Path, *tasks: Task) -> Checkpoint:
    """The checkpoint of one of ``tasks``, or a network that ``convert-weights`` wrote.

    Raises:
        WeightsError: unreadable, of another task, or not fitting its task's schema.
    """
    if is_export(path):
        raise WeightsError(f"{path}: an exported model has no weights to start from")
    if path.suffix == ".safetensors" and not is_portable(path):
        converted = import_weights(path)
        kinds = [task for task in tasks if task.name == CONVERTED[converted.kind]]
        chosen = (*kinds, *tasks)[0]  # without the kind, the first one says what it needs
        return Checkpoint(path, chosen, *chosen.read_converted(converted, path))
    state = load_checkpoint(path)
    task = _task_called(state.get("task", "detection"), path, tasks)  # the first have none
    config = check_dict(task.schema, state["config"], str(path))
    return Checkpoint(path, task, weights_of(state), config, tuple(state["classes"]), state)


def _task_called(name: object, path: Path, tasks: Sequence[Task]) -> Task:
    task = next((task for task in tasks if task.name == name), None)
    if task is None:
        needed = " or ".join(f"{each.noun} (`resdet {each.command}`)" for each in tasks)
        raise WeightsError(f"{path}: a checkpoint of the task {quoted(name)}; needed: {needed}")
    return task


def load_members(
    checkpoints: Sequence[Checkpoint],
    device: str | torch.device = "cpu",
    *,
    base: Section | None = None,
    overrides: Sequence[str] = (),
    trust_paths: bool = False,
) -> list[Loaded]:
    """A network for inference alone (`fold_norms`), or an ensemble of several, each with its own
    configuration under ``overrides``; the first one leads, with its order of classes, and ``base``,
    whose network must be the same, replaces its configuration and with it the paths.
    ``trust_paths`` as in `Checkpoint.load`.

    Raises:
        DataError: the classes of two of them differ.
        ConfigError: ``base`` describes another network.
        WeightsError: the tensors do not fit the configuration.
    """
    first, *others = checkpoints
    if base is not None:
        first.expect_network(base)
    given = trust_paths or base is not None
    members = [first.load(device, overrides, base=base, trust_paths=given)]
    for other in others:
        own = other.task.member_config(other.config, base) if base else None
        ordered = other.ordered_as(first.classes, str(first.path))
        members.append(ordered.load(device, overrides, base=own, trust_paths=trust_paths))
    for member in members:
        fold_norms(member.model)
    return members


def load_trained(loaded: Loaded, checkpoint: Checkpoint, *, reset_head: bool) -> list[str]:
    """Load the weights of a checkpoint into ``loaded`` for fine-tuning; returns lines for the log.

    Classes are matched by name, or by ``train.start_classes``: their rows of the class layers are
    kept, in whatever order. Those of other classes are initialised, those of all classes with
    ``reset_head`` unless both have the same classes.

    Raises:
        DataError: not one class is known, naming both lists.
        ConfigError: the checkpoint is of another network, or ``train.start_classes`` does not fit.
        WeightsError: the tensors do not fit.
    """
    checkpoint.expect_network(loaded.config)
    notes, tensors = [f"weights: {checkpoint.path}"], checkpoint.tensors
    layers = checkpoint.task.class_layers
    missing: tuple[str, ...] = ()
    if reset_head and set(checkpoint.classes) != set(loaded.classes):
        missing = tuple(layers)
        tensors = {k: v for k, v in tensors.items() if not k.startswith(missing)}
        notes.append("class layers re-initialised (--reset-head)")
    elif checkpoint.classes != loaded.classes or loaded.config.train.start_classes:
        names = loaded.config.train.start_classes
        origins, lines = match_classes(loaded.classes, checkpoint.classes, names)
        if not any(origin is not None for origin in origins):
            difference = class_difference(
                str(checkpoint.path), checkpoint.classes, "the data", loaded.classes
            )
            raise DataError(
                f"{difference}; train.start_classes maps names, with --reset-head the class layers "
                "are re-initialised"
            )
        fresh = loaded.model.state_dict()
        tensors = carry_rows(tensors, layers, len(checkpoint.classes), origins, fresh)
        notes += [*lines, *_kept(origins, checkpoint)]
    load_into(loaded.model, tensors, allow_missing=missing, source=str(checkpoint.path))
    return notes


def _kept(origins: Sequence[int | None], checkpoint: Checkpoint) -> list[str]:
    """A line about the classes that keep their rows, unless all do in the same order."""
    kept = [origin for origin in origins if origin is not None]
    if sorted(kept) == list(range(len(checkpoint.classes))) and len(kept) == len(origins):
        return [f"classes of {checkpoint.path} reordered by name"] if kept != sorted(kept) else []
    return [f"class rows kept: {len(kept)} of {len(origins)}"]


def class_difference(owner: str, known: Sequence[str], other: str, wanted: Sequence[str]) -> str:
    """One line that names both class lists and what differs."""
    missing, extra = (sorted(set(a) - set(b)) for a, b in ((wanted, known), (known, wanted)))
    return (
        f"{owner} knows the classes {list(known)}, {other} {list(wanted)}: "
        f"lacking {missing}, too many {extra}"
    )
