"""The options of the training commands, and starting and resuming of runs."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resdet.detection.errors import ConfigError
from resdet.detection.printing import say
from resdet.tools.arguments import (
    add_config_arguments,
    add_device_argument,
    add_font_argument,
    add_trust_argument,
    config_from_args,
    expect_unused,
    print_config,
)

if TYPE_CHECKING:
    from resdet.detection.engine.distributed import Group
    from resdet.detection.tasks.base import Task
    from resdet.detection.tasks.checkpoints import Checkpoint
    from resdet.detection.tasks.trained_run import TrainedRun

LATEST = "auto"


def add_training_arguments(parser: argparse.ArgumentParser, *, weights: str) -> None:
    """The options of a training command; ``weights`` is the help of ``--weights``."""
    add_config_arguments(parser, required=False)
    parser.add_argument(
        "--out",
        "--work-dir",
        type=Path,
        metavar="DIR",
        help="run folder, new or empty (default: runs/<config>/<time>)",
    )
    parser.add_argument(
        "--resume",
        nargs="?",
        const=LATEST,
        metavar="CHECKPOINT",
        help="continue a stopped run: its last.pt or its folder, or the latest run of --cfg",
    )
    parser.add_argument(
        "--start-or-resume",
        action="store_true",
        help="continue the run in --out if it has a checkpoint, else start it: for jobs that are "
        "started again by torchrun --max-restarts, Slurm or Kubernetes",
    )
    parser.add_argument(
        "--from",
        dest="fork",
        type=Path,
        metavar="RUN",
        help="start a new run from another one (its folder or checkpoint): with its weights and, "
        "where it fits, its optimizer's state; without --cfg with its config; every setting may be "
        "changed",
    )
    parser.add_argument("--weights", type=Path, metavar="FILE", help=weights)
    add_font_argument(parser)
    parser.add_argument(
        "--reset-head",
        action="store_true",
        help="with --weights or --from: re-initialise the class layers, if the classes are others",
    )
    add_device_argument(parser)
    add_trust_argument(parser)
    parser.add_argument("--amp", action="store_true", help="same as train.precision=bf16")
    parser.add_argument("--seed", type=int, help="same as train.seed=N")


def run_training(args: argparse.Namespace, command: str) -> int:
    """Run a training command with its options; returns the exit code."""
    run = train(args, command)
    return run.exit_code if run else 0


def train(args: argparse.Namespace, command: str | None = None) -> TrainedRun | None:
    """Train with the options of ``command``, None: the one that trains what the config or the
    checkpoint is of. Returns None if nothing was to be trained, as in a dry run."""
    from resdet.detection.config.inherited import inherited_data, with_bases
    from resdet.detection.config.paths import PRETRAINED, START, missing_paths
    from resdet.detection.engine.distributed import process_group
    from resdet.detection.files import folder_lock
    from resdet.detection.tasks.base import ALONE
    from resdet.detection.tasks.batch_size import expect_a_gpu, is_auto
    from resdet.detection.tasks.checkpoints import read_checkpoint
    from resdet.detection.tasks.registry import TASKS
    from resdet.detection.tasks.start import Start
    from resdet.tools.preparing import prepared
    from resdet.tools.resumed_config import config_of_fork, config_of_run

    args.overrides += ["train.precision=bf16"] if args.amp else []
    args.overrides += [f"train.seed={args.seed}"] if args.seed is not None else []
    _expect_compatible(args)
    if args.start_or_resume and (args.out / "weights" / "last.pt").is_file():
        args.resume, args.weights, args.reset_head = LATEST, None, False
    config: Any
    tasks = [task for task in TASKS.values() if command in (None, task.command)]
    checkpoint = trained = None
    if args.resume:
        checkpoint = read_checkpoint(_checkpoint_to_resume(args), *tasks)
        task, config = checkpoint.task, config_of_run(checkpoint, args.overrides)
    elif args.fork and args.cfg is None:
        trained = read_checkpoint(_last_of(args.fork), *tasks)
        task, config = trained.task, config_of_fork(trained, args.overrides)
    else:
        task = _task_of_config(args, tasks)
        config = config_from_args(args, task.schema)
    if args.fork or args.weights:
        config = _started_from(config, args)
    if args.print_config:
        print_config(config, None if checkpoint or trained else args.cfg)
        return None
    if (own := checkpoint or trained) and not args.trust_paths:
        own.named_paths(config, args.overrides).expect_none("data", "proposals", "test")
    weights = None if checkpoint else config.train.start_from
    _expect_weights(args, config, weights)
    start_only = args.fork or args.weights
    unused = START if checkpoint or start_only else PRETRAINED if weights else ()
    inherited = [] if checkpoint or trained else inherited_data(config, args.cfg, args.overrides)
    if missing := missing_paths(config, unused=unused):
        raise ConfigError(with_bases(missing, inherited))
    start = Start(checkpoint, resume=True)
    if not checkpoint:
        trained = trained or (read_checkpoint(weights, task) if weights else None)
        start = Start(trained, reset_head=args.reset_head)
    if args.dry_run:
        if args.out and not checkpoint:
            expect_unused(args.out)
        if is_auto(config):
            with process_group(args.device) as group:
                expect_a_gpu(task, group)
        training = prepared(task, config, start, inherited)
        training.rehearse()
        for line in training.banner(ALONE, "none: dry run"):
            say(line)
        say("dry run: data and settings can be used; the same command without --dry-run trains")
        return None
    with process_group(args.device) as group:
        folder = _folder(args, checkpoint, group)
        with folder_lock(folder) if group.is_main else nullcontext():
            if group.is_main and not checkpoint and not _was_begun(args, folder):
                expect_unused(folder)
            if is_auto(config):
                expect_a_gpu(task, group)
            return prepared(task, config, start, inherited).run(folder, group)


def _was_begun(args: argparse.Namespace, folder: Path) -> bool:
    """Whether ``--start-or-resume`` began a run in ``folder`` that ended before its first
    checkpoint; it is then started again there."""
    from resdet.detection.engine.checkpoint import previous_of

    last = folder / "weights" / "last.pt"
    saved = last.exists() or previous_of(last).exists()
    return bool(args.start_or_resume) and (folder / "config.yaml").is_file() and not saved


def _task_of_config(args: argparse.Namespace, tasks: Sequence[Task]) -> Task:
    """The task that the config states, or the first of ``tasks``, whose schema refuses others."""
    from resdet.detection.config.files import stated_task

    if len(tasks) == 1 or args.cfg is None:
        return tasks[0]
    name = stated_task(args.cfg)
    return next((task for task in tasks if task.name == name), tasks[0])


def _expect_compatible(args: argparse.Namespace) -> None:
    """Raise ConfigError for combinations of options that have no effect."""
    if args.start_or_resume and (args.resume or args.fork or not (args.cfg and args.out)):
        raise ConfigError("--start-or-resume goes with --cfg and --out, without --resume or --from")
    if args.resume and args.weights:
        raise ConfigError("--resume continues with its own weights; leave out --weights")
    if args.fork and (args.resume or args.weights):
        other = "--resume" if args.resume else "--weights"
        raise ConfigError(
            f"--from starts a new run, with the weights of another one; leave out {other}"
        )
    if args.resume not in (None, LATEST) and args.out:
        raise ConfigError("--resume FILE continues in the folder of that file; leave out --out")


def _expect_weights(args: argparse.Namespace, config: Any, weights: Path | None) -> None:
    """Raise ConfigError for settings about the weights of a new run that has none."""
    if args.reset_head and not weights:
        raise ConfigError("--reset-head goes with --weights, --from or train.start_from")
    for name in ("start_classes", "start_optimizer"):
        if getattr(config.train, name) and not (weights or args.resume):
            raise ConfigError(f"train.{name} goes with --weights, --from or train.start_from")


def _checkpoint_to_resume(args: argparse.Namespace) -> Path:
    """The file that ``--resume`` means, in the folder ``weights`` of its run."""
    if args.resume != LATEST:
        path = _last_of(Path(args.resume))
    elif args.out:
        path = args.out / "weights" / "last.pt"
    else:
        path = _latest(args)
    if path.parent.name != "weights":
        raise ConfigError(f"--resume {path}: not in the folder `weights` of a run")
    return path


def _last_of(given: Path) -> Path:
    """The last checkpoint of a run folder; a file is taken as it is."""
    return given / "weights" / "last.pt" if given.is_dir() else given.absolute()


def _latest(args: argparse.Namespace) -> Path:
    if args.cfg is None:
        raise ConfigError("--resume: give a checkpoint or run folder, or --cfg to find the latest")
    runs = Path("runs") / Path(args.cfg).stem
    found = sorted(runs.glob("*/weights/last.pt"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise ConfigError(f"--resume: no run with a checkpoint in {runs.resolve()}")
    return found[-1]


def _started_from(config: Any, args: argparse.Namespace) -> Any:
    """``config`` with what ``--weights`` or ``--from`` says about the start."""
    update: dict[str, Any] = {"start_from": (args.weights or _last_of(args.fork)).absolute()}
    if args.fork and not any(word.startswith("train.start_optimizer=") for word in args.overrides):
        update["start_optimizer"] = True
    return config.model_copy(update={"train": config.train.model_copy(update=update)})


def _folder(args: argparse.Namespace, checkpoint: Checkpoint | None, group: Group) -> Path:
    """The folder of the run, the same for all processes; raises ConfigError, in all of them, if
    they are to begin in different ways: each way waits for the others at other places."""
    from resdet.detection.engine.forking import folder_beside
    from resdet.detection.tasks.agreement import expect_same

    given = checkpoint.path.parent.parent if checkpoint else args.out
    start = f"it resumes {checkpoint.path}" if checkpoint else "it starts a new run"
    expect_same({"start": start, "run folder": str(given or "a new one")}, group)
    if checkpoint:
        return checkpoint.path.parent.parent
    if args.cfg is None:  # --from
        default = folder_beside(_last_of(args.fork).absolute().parent.parent)
    else:
        default = Path("runs") / Path(args.cfg).stem / time.strftime("%Y%m%d-%H%M%S")
    return Path(group.broadcast("folder", str(args.out or default)))
