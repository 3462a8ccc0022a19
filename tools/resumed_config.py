"""The config of a run that is resumed, or that another one starts from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from resdet.detection.errors import ConfigError

if TYPE_CHECKING:
    from resdet.detection.config.base import Section
    from resdet.detection.tasks.checkpoints import Checkpoint

#: Prefixes of the settings that a resumed run may change.
CHANGEABLE = (
    "data.",
    "train.iterations",
    "train.epochs",
    "train.milestones",
    "train.patience",
    "train.eval_every",
    "train.checkpoint_every",
    "train.log_every",
    "train.trackers",
    "train.tensorboard",
    # What a step and an evaluation need of memory.
    "train.accumulate",
    "train.precision",
    "train.val_loss_batches",
    "test.batch_size",
    "test.precision",
)


def config_of_fork(checkpoint: Checkpoint, overrides: Sequence[str]) -> Section:
    """The checkpoint's own config, without how it was started itself, under ``overrides``."""
    from resdet.detection.config.files import override

    config: Any = checkpoint.config
    plain: dict[str, Any] = {"start_from": None, "start_classes": {}, "start_optimizer": False}
    train = config.train.model_copy(update=plain)
    return override(config.model_copy(update={"train": train}), overrides)


def config_of_run(checkpoint: Checkpoint, overrides: Sequence[str]) -> Section:
    """The checkpoint's own config with overrides, which may only change `CHANGEABLE` settings.
    ``train.batch_size=auto`` is the number that was found when the run started."""
    from resdet.detection.config.base import flat
    from resdet.detection.config.files import override
    from resdet.detection.engine.forking import continued, fork_command
    from resdet.detection.tasks.batch_size import is_auto, with_batch_size
    from resdet.detection.tasks.epochs import with_iterations

    config: Any = checkpoint.config
    changed = override(config, overrides)
    if is_auto(changed):
        changed = with_batch_size(changed, config.train.batch_size)
    before, after = flat(config.model_dump(mode="json")), flat(changed.model_dump(mode="json"))
    refused = [
        f"{key}={after.get(key)} (was {before.get(key)})"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
        and (key.startswith("data.classes") or not key.startswith(CHANGEABLE))
    ]
    if refused:
        settings: Any = changed
        state, run = checkpoint.state, checkpoint.path.parent.parent
        if images := state.get("images"):  # not in the files of older versions
            settings = with_iterations(settings, images)
        # Without the images, epochs are those of the new run: its steps are not known.
        whole = settings.train.model_dump() if images or settings.train.epochs is None else {}
        left = continued(overrides, whole, state["step"], state.get("drops", 0))
        command = fork_command(f"resdet {checkpoint.task.command}", run, left)
        raise ConfigError(
            f"--resume continues with the config of {checkpoint.path}; cannot change "
            f"{', '.join(refused)}; a new run with its weights and optimizer can: {command}"
        )
    return changed
