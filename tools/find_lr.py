"""Look for a learning rate: train a few steps with a rising one, and plot the losses.

  resdet find-lr --cfg voc_r101.yaml data.root=data
  resdet find-lr --cfg mine.yaml --weights best.pt --steps 200 --highest 1 --out rates.png

Each step has a higher train.lr than the last, without warm-up or schedule; the test ends where the
loss diverges. Suggested is a tenth of the train.lr with the lowest smoothed loss, before the loss
gives back half of its fall; nothing is suggested where it falls by no more than its noise. Only
the figure is written. The same seed gives the same result on a CPU.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from resdet.detection.errors import ConfigError
from resdet.detection.printing import say
from resdet.tools.arguments import (
    add_config_arguments,
    add_device_argument,
    config_from_args,
    expect_writable,
    print_config,
)
from resdet.tools.curves import expect_image

HELP = "look for a learning rate: plot the loss of a few steps against it"

#: Fewer say nothing about the rates between them.
FEWEST_STEPS = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    parser.add_argument("--weights", type=Path, metavar="FILE", help="same as train.start_from")
    parser.add_argument("--lowest", type=float, default=1e-5, help="train.lr of the first step")
    parser.add_argument("--highest", type=float, default=10.0, help="train.lr of the last step")
    parser.add_argument("--steps", type=int, default=100, help="number of steps")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("find_lr.png"),
        metavar="FILE",
        help="figure to write: png, jpg, pdf or svg",
    )
    add_device_argument(parser)


def run(args: argparse.Namespace) -> int:
    _expect_options(args)
    from resdet.detection.config.files import stated_task
    from resdet.detection.config.inherited import inherited_data, with_bases
    from resdet.detection.config.paths import PRETRAINED, missing_paths
    from resdet.detection.engine.distributed import process_group
    from resdet.detection.engine.range_test import plot_range_test
    from resdet.detection.tasks.batch_size import expect_number
    from resdet.detection.tasks.checkpoints import read_checkpoint
    from resdet.detection.tasks.find_rate import TESTED, find_rate, for_range_test
    from resdet.detection.tasks.registry import TASKS
    from resdet.detection.tasks.start import Start
    from resdet.tools.preparing import prepared

    task = TASKS.get(stated_task(args.cfg), TASKS["detection"])
    given = config_from_args(args, task.schema)
    config = for_range_test(given, args.steps, args.weights)
    if args.print_config:
        print_config(config, args.cfg)
        return 0
    expect_number(config)
    weights = config.train.start_from
    inherited = inherited_data(config, args.cfg, args.overrides)
    if missing := missing_paths(config, unused=PRETRAINED if weights else ()):
        raise ConfigError(with_bases(missing, inherited))
    start = Start(read_checkpoint(weights, task) if weights else None)
    with process_group(args.device) as group:
        if group.world > 1:
            raise ConfigError("find-lr runs in one process; start it without torchrun")
        training = prepared(task, config, start, inherited)
        if args.dry_run:
            training.rehearse()
        else:
            expect_writable(args.out.parent)
        for line in training.notes:
            say(line)
        say(
            f"{args.steps} steps of {config.train.batch_size} images, train.lr from "
            f"{args.lowest:g} to {args.highest:g}"
        )
        if args.dry_run:
            return 0
        test = find_rate(training, args.lowest, args.highest, args.steps, group)
    if not test.losses:
        raise ConfigError("the loss of the first step is not finite, before any rate had an effect")
    means, best, last = test.smoothed, test.lowest, test.rates[len(test.losses) - 1]
    end = "diverged at" if test.diverged else "tested up to"
    say(
        f"smoothed loss {means[0]:.4g} at first, lowest {means[best]:.4g} at {TESTED}="
        f"{test.rates[best]:.2g}; {end} {last:.2g}"
    )
    suggestion = test.suggestion()
    if suggestion is None:
        say(f"no suggestion: {test.objection()}")
    else:
        say(
            f"suggestion: {TESTED}={suggestion:.2g}, a tenth of the rate with the lowest smoothed "
            f"loss (for train.base_batch_size={config.train.base_batch_size})"
        )
    try:
        plot_range_test(test, f"{args.cfg}, batch {config.train.batch_size}", TESTED, args.out)
    except OSError as error:
        raise ConfigError(f"{args.out}: cannot be written: {error.strerror}") from error
    say(f"written: {args.out}")
    return 0


def _expect_options(args: argparse.Namespace) -> None:
    """Raise ConfigError for options that make no test."""
    if args.steps < FEWEST_STEPS:
        raise ConfigError(f"--steps {args.steps}: expected at least {FEWEST_STEPS}")
    if not 0 < args.lowest < args.highest < float("inf"):
        raise ConfigError(
            f"--lowest {args.lowest:g} --highest {args.highest:g}: expected rates above 0, the "
            "second one higher"
        )
    expect_image(args.out)


if __name__ == "__main__":
    from resdet.tools.cli import run_tool

    raise SystemExit(run_tool("find-lr"))
