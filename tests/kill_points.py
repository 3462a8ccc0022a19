"""Commands that are killed at a file operation and run again: the result must be that of an
undisturbed run, without temporary files, and no file may be half written.

    python tests/kill_points.py --seconds 600 [--only infer split] [--seed 1]

A point is the n-th time that a command opens a file for writing, or makes, renames, flushes or
removes a file or folder below its working folder (`fork_server.count_operations`). Points are drawn
at random. What a command leaves after the kill is checked, and the command, or its ``--resume``, is
run once more. Exit code 1 where there are faults, which are printed with their case and point.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from random import Random

import cv2
import torch
from resdet.backbones.weights.reading import read_tensors
from resdet.detection.engine.checkpoint import load_checkpoint
from resdet.tests.conftest import TINY_CONFIG, Command
from torchvision.models import resnet18

Words = Sequence[object]
Tree = Mapping[str, object]

#: What differs between two runs of a command: moments, durations, speeds.
_VARIES = re.compile(
    rb"\d{4}-\d\d-\d\d[T ][\d:.]+(\+[\d:]+)?|\d+(\.\d+)? (s|ms|min)\b|[\d.]+/s"
    rb"|(seconds([_ ]per[_ ]image)?|cost)\W+[\d.e-]+|data:image/svg.xml;base64,[\w+/=]+"
)


@dataclass(frozen=True)
class Case:
    """A command: ``words(inputs, work)`` writes below ``work``, where ``copied`` inputs are copied
    to before; ``again`` is run after the kill if it is not the same. Files that match ``unlike``
    may differ, such as logs, which tell of the interruption."""

    words: Callable[[Path, Path], Words]
    again: Callable[[Path, Path], Words] | None = None
    copied: tuple[str, ...] = ()
    unlike: tuple[str, ...] = ()


def _train(command: str, config: str, *more: str, resumed: str = "") -> Case:
    """A training in a new folder, or the rest of the one of that name."""

    def words(inputs: Path, work: Path) -> Words:
        given = ("--cfg", inputs / config, "--out", work / (resumed or "run"), "--start-or-resume")
        return (command, *given, *more)

    unlike = ("*.log", "*.jsonl", "*.txt", "*.png", "*.svg", "*.html", "tb/*")
    return Case(words, copied=(resumed,) if resumed else (), unlike=unlike)


def _infer(*more: object) -> Case:
    def words(inputs: Path, work: Path) -> Words:
        weights = inputs / "detector" / "weights" / "best.pt"
        images = inputs / "scenes" / "JPEGImages"
        return ("infer", "--weights", weights, images, "--out", work / "out", *more)

    def again(inputs: Path, work: Path) -> Words:
        return (*words(inputs, work), *["--resume"] * (work / "out" / "meta.json").exists())

    return Case(words, again)


def _best(inputs: Path, name: str) -> Path:
    return inputs / name / "weights" / "best.pt"


CASES: dict[str, Case] = {
    "get-data": Case(
        lambda inputs, work: (
            *("get-data", "synthetic", "--out", work / "data", "--train", 3, "--val", 2),
        )
    ),
    "crop-objects": Case(
        lambda inputs, work: (
            *("crop-objects", inputs / "scenes", "--from", "voc", "--split", "val"),
            *("--background", 1, "--out", work / "objects"),
        )
    ),
    **{
        f"convert-data {format}": Case(
            lambda inputs, work, format=format: (  # type: ignore[misc]
                *("convert-data", inputs / "scenes", "--from", "voc", "--split", "val"),
                *("--to", format, "--allow-loss", "--out", work / "out"),
            )
        )
        for format in ("coco", "yolo", "csv", "labelme")
    },
    "split": Case(
        lambda inputs, work: (
            *("split", work / "scenes", "--from", "voc", "--split", "train", "--force"),
            *("--parts", "a=0.5", "b=0.5"),
        ),
        copied=("scenes",),
    ),
    "write-shards": Case(
        lambda inputs, work: ("write-shards", inputs / "objects", "--out", work / "shards")
    ),
    "manifest": Case(
        lambda inputs, work: (
            *("manifest", inputs / "scenes" / "JPEGImages", "--per-shard", 4, "--out", work / "m"),
        )
    ),
    "check-data": Case(
        lambda inputs, work: ("check-data", inputs / "scenes", "--out", work / "checked"),
        unlike=("images.jsonl",),  # a cache
    ),
    "write-config": Case(
        lambda inputs, work: (
            *("check-data", inputs / "scenes", "--write-config", work / "mine.yaml"),
        )
    ),
    "infer": _infer(),
    "infer --page": _infer("--page", "--conf", 0.05),
    "eval": Case(
        lambda inputs, work: (
            *("eval", "--weights", _best(inputs, "detector"), "--cfg", inputs / "tiny.yaml"),
            *("--out", work / "eval"),
        )
    ),
    "eval --manifest": Case(
        lambda inputs, work: (
            *("eval", "--manifest", inputs / "m", "--predictions", inputs / "found"),
            *("--annotations", inputs / "scenes", "--split", "val", "--out", work / "eval"),
        )
    ),
    "ablate": Case(
        lambda inputs, work: (
            *("ablate", "--weights", _best(inputs, "detector"), "--cfg", inputs / "tiny.yaml"),
            *("--steps", "baseline,voting", "--resamples", 20, "--out", work / "ablation"),
        )
    ),
    "report": Case(
        lambda inputs, work: (*("report", inputs / "detector", "--out", work / "page.html"),)
    ),
    "curves": Case(
        lambda inputs, work: ("curves", inputs / "detector", "--out", work / "curves.png")
    ),
    "convert-weights": Case(
        lambda inputs, work: ("convert-weights", inputs / "w.pth", work / "w.safetensors")
    ),
    "freeze-bn": Case(
        lambda inputs, work: (
            *("freeze-bn", _best(inputs, "classifier"), "--out", work / "frozen.safetensors"),
            "--trust-paths",
        )
    ),
    "export": Case(
        lambda inputs, work: (
            *("export", "--weights", _best(inputs, "classifier"), "--out", work / "exported"),
            "--trust-paths",
        )
    ),
    "train-det": _train("train-det", "tiny.yaml", "train.iterations=4"),
    "train-cls": _train("train-cls", "classes.yaml"),
    "train-loc": _train("train-loc", "first.yaml", "train.iterations=4"),
    "resume train-det": _train("train-det", "tiny.yaml", "train.iterations=4", resumed="detector"),
    "resume train-cls": _train("train-cls", "classes.yaml", resumed="classifier"),
}


class Harness:
    """Runs the cases in ``folder``, with inputs that commands make there."""

    def __init__(self, resdet: Command, folder: Path) -> None:
        self.resdet, self.folder = resdet, folder
        self.inputs = folder / "inputs"
        self._undisturbed: dict[str, tuple[int, Tree]] = {}
        self._numbers = iter(range(10**9))

    def make_inputs(self) -> None:
        from resdet.datasets.acquire.synthetic import make_scenes
        from resdet.tests.tools import test_train_loc
        from resdet.tests.tools.test_train_cls import CONFIG, make_colours

        make_scenes(self.inputs / "scenes", train=6, val=4, size=(96, 128))
        (self.inputs / "tiny.yaml").write_text(TINY_CONFIG)
        make_colours(self.inputs / "colours")
        (self.inputs / "objects").symlink_to(self.inputs / "colours")
        (self.inputs / "classes.yaml").write_text(CONFIG)
        test_train_loc.make_squares(self.inputs / "squares")
        (self.inputs / "first.yaml").write_text(test_train_loc.FIRST)
        torch.manual_seed(0)
        torch.save(resnet18(num_classes=3).state_dict(), self.inputs / "w.pth")
        trained = {
            "detector": ("train-det", "tiny.yaml"),
            "classifier": ("train-cls", "classes.yaml"),
        }
        for name, (command, config) in trained.items():
            self._ran(
                *(command, "--cfg", self.inputs / config, "--out", self.inputs / name),
                *("train.iterations=2", "train.eval_every=2"),
            )

        self._ran("manifest", self.inputs / "scenes" / "JPEGImages", "--out", self.inputs / "m")
        self._ran(
            *("infer", "--weights", _best(self.inputs, "detector"), "--manifest"),
            *(self.inputs / "m", "--conf", 0.01, "--out", self.inputs / "found"),
        )

    def _ran(self, *words: object) -> None:
        done = self.resdet(*words)
        if done.code:
            raise RuntimeError(f"{words}: {done.err}")

    def undisturbed(self, name: str) -> tuple[int, Tree]:
        """The number of file operations of a case, and what it leaves."""
        if name not in self._undisturbed:
            work = self._new_work(name)
            code, count, err = self._run(CASES[name].words(self.inputs, work), work)
            if code:
                raise RuntimeError(f"{name}: {err}")
            self._undisturbed[name] = count, contents(work, CASES[name].unlike)
        return self._undisturbed[name]

    def fault_at(self, name: str, point: int) -> str:
        """What is wrong after a kill at the point, "" if nothing is."""
        case = CASES[name]
        work = self._new_work(name)
        code, _, err = self._run(case.words(self.inputs, work), work, point)
        if code == 0:  # it has fewer operations this time
            return ""
        if code != -9:
            return f"ended with {code}: {err}"
        if half := [str(path) for path in visible(work) if not is_whole(path)]:
            return f"half written: {half}"
        expected = self.undisturbed(name)[1]
        code, _, err = self._run((case.again or case.words)(self.inputs, work), work)
        found = contents(work, case.unlike)
        if code and found != expected:  # it may refuse to replace what was finished before the kill
            return f"the second run ended with {code}: {err}"
        differing = [
            path for path in {**found, **expected} if found.get(path) != expected.get(path)
        ]
        shutil.rmtree(work)
        return f"other results: {sorted(differing)}" if differing else ""

    def _new_work(self, name: str) -> Path:
        """An empty folder; all of a case have names of the same length, which some files hold."""
        work = self.folder / "work" / f"{next(self._numbers):09}"
        work.mkdir(parents=True)
        for each in CASES[name].copied:
            shutil.copytree(self.inputs / each, work / each)
        return work

    def _run(self, words: Words, work: Path, point: int = 0) -> tuple[int, int, str]:
        """The exit code, the number of operations, and stderr."""
        told = self.folder / "operations"
        told.write_text("0")
        running = self.resdet.start(
            *words,
            cwd=self.folder,
            env={"RESDET_CACHE": str(work / ".cache")},
            kill=(point, str(work), str(told)),
        )
        done = running.wait()
        return done.code, int(told.read_text()), done.err


def visible(work: Path) -> Iterator[Path]:
    """The files that do not look temporary."""
    for path in sorted(work.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(work).parts)
        if path.is_file() and not hidden:
            yield path


def is_whole(path: Path) -> bool:
    """Whether a file can be read to its end; a last line that is cut is left out by its reader."""
    content = path.read_bytes()
    try:
        match path.suffix:
            case ".json":
                json.loads(content)
            case ".jsonl":
                [json.loads(line) for line in content.split(b"\n")[:-1] if line]
            case ".pt":
                load_checkpoint(path)
            case ".safetensors" | ".pth":
                read_tensors(path)
            case ".jpg" | ".png":
                return cv2.imread(str(path)) is not None
            case ".html" | ".xml" | ".svg":
                return content.rstrip().endswith(b">")
            case ".parquet":
                return content.endswith(b"PAR1")
            case ".yaml" | ".txt" | ".csv":
                return content.endswith(b"\n") or not content
    except Exception:
        return False
    return True


def contents(work: Path, unlike: Sequence[str] = ()) -> Tree:
    """{path: content} of everything below the folder but its cache, comparable between runs."""
    found: dict[str, object] = {}
    for path in sorted(work.rglob("*")):
        name = path.relative_to(work).as_posix()
        if name.split("/")[0] == ".cache" or path.is_dir():
            continue
        if any(fnmatch(name, pattern) or fnmatch(path.name, pattern) for pattern in unlike):
            found[name] = "exists"
        elif path.suffix == ".pt":
            state = load_checkpoint(path)
            found[name] = state["step"], [each.sum().item() for each in state["model"].values()]
        else:
            content = path.read_bytes().replace(str(work).encode(), b"WORK")
            found[name] = _VARIES.sub(b"#", content)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES), metavar="CASE")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--point", type=int, help="one point of the case of --only")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        resdet = Command(Path(name))
        harness = Harness(resdet, Path(name))
        harness.make_inputs()
        faults = search(harness, args.only, args.seconds, args.seed, args.point)
        resdet.close()
    return int(faults > 0)


def search(
    harness: Harness, names: Sequence[str], seconds: float, seed: int, point: int | None = None
) -> int:
    """Kill at random points, the cases in turns; returns the number of faults."""
    random, tried, faults = Random(seed), dict.fromkeys(names, 0), 0  # noqa: S311
    end = time.monotonic() + seconds
    while time.monotonic() < end and not (point and faults + sum(tried.values())):
        for name in names:
            at = point or random.randint(1, max(1, harness.undisturbed(name)[0]))
            tried[name] += 1
            if fault := harness.fault_at(name, at):
                faults += 1
                print(f"FAULT {name} at {at}: {fault}", flush=True)
            if time.monotonic() > end:
                break
    for name, count in tried.items():
        if count:
            print(f"{name:20s} {harness.undisturbed(name)[0]:4d} operations, {count} kills")
    print(f"{sum(tried.values())} kills, {faults} faults")
    return faults


if __name__ == "__main__":
    sys.exit(main())
