"""``--conf best``: the scores that the evaluation of the same weights found."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from resdet.detection.errors import ConfigError, first_few
from resdet.detection.files import read_limited
from resdet.tools.arguments import beside_weights

#: The word in place of a score.
BEST = "best"


def best_scores(
    weights: Sequence[Path], hashes: Sequence[str], classes: Sequence[str]
) -> tuple[float | None, dict[str, float]]:
    """The score with the largest F1 of all classes together, None where nothing was right, and
    those of single classes, from the folder where `eval` of ``weights`` writes.

    ``hashes`` are those of the weights. Raises ConfigError without an evaluation of them.
    """
    path = beside_weights(weights[0], "eval") / "metrics.json"
    command = " ".join(f"--weights {each}" for each in weights)
    hint = f"`resdet eval {command}` writes it; or give a score, such as --conf 0.3"
    try:
        content = json.loads(read_limited(path).decode("utf-8"))
        evaluated, rows = content.get("weights"), content["per_class"]
        if list(hashes) != evaluated:
            raise ConfigError(f"--conf {BEST}: {path} is of other weights; {hint}")
        if "operating_points" not in content:
            raise ConfigError(f"--conf {BEST}: only the evaluation of a detector finds scores")
        together = _score(content["operating_points"]["best_f1"]["score"])
        found = {str(row["name"]): _score(row["threshold"]) for row in rows}
    except FileNotFoundError:
        raise ConfigError(f"--conf {BEST}: {path}: no such file; {hint}") from None
    except OSError as error:
        raise ConfigError(f"--conf {BEST}: {path}: {error.strerror}; {hint}") from error
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(f"--conf {BEST}: {path}: damaged; {hint}") from error
    known = {name: found[name] for name in classes if name in found}
    return together, {name: score for name, score in known.items() if score is not None}


def _score(value: Any) -> float | None:
    """Rounded down, as other batches change the last digits of a score."""
    return None if value is None else math.floor(float(value) * 1e4) / 1e4


def describe_scores(least: float, of_classes: Mapping[str, float], classes: Sequence[str]) -> str:
    """The scores of ``classes`` in words."""
    words = [f"{name} {of_classes.get(name, least):.4g}" for name in classes]
    return f"--conf {BEST}: {first_few(words, 20)}"
