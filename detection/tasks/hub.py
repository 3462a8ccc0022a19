"""Checkpoints on the Hugging Face Hub: a safetensors file with a model card, written and read."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from ..config.strict_yaml import to_yaml
from ..engine.checkpoint import HUB_ADDRESS, HUB_FILE, write_portable
from ..errors import ConfigError, WeightsError, one_line
from ..extras import require_extra
from ..files import read_limited, sha256_of
from .checkpoints import Checkpoint, read_checkpoint
from .registry import TASKS

#: The file of the model card.
CARD = "README.md"
#: The Hub's names of what the models do.
_PIPELINES = {"detection": "object-detection", "classification": "image-classification"}

_CARD = """---
{facts}---

# {name}

{noun} of {count} classes ({classes}), trained with resdet: {network}.

```
pip install "resdet[hub]"
resdet infer --weights hf://{repo} street.jpg
```

```python
import resdet

model = resdet.load("hf://{repo}")
print(model("street.jpg"))
```

The file is a checkpoint of resdet: weights, classes and settings, without the optimizer.
{measured}"""


class Pushed(NamedTuple):
    """The address of a repository that was written, and what to know about its card, in lines."""

    address: str
    notes: tuple[str, ...]


def push(
    weights: Path,
    repo: str,
    *,
    licence: str,
    report: Path | None = None,
    private: bool = False,
    replace_card: bool = False,
) -> Pushed:
    """Write the network of a checkpoint, which is the moving average if it has one, to the
    repository ``owner/name``, which is made if there is none; ``private`` makes a private one.

    ``licence`` is the Hub's name of one, such as ``cc-by-4.0``. The model card has the metrics in
    ``report``, a folder of `resdet eval` for this very file; None leaves them out. A card that the
    repository has is kept unless ``replace_card``. The token is that of ``HF_TOKEN`` or of
    ``hf auth login``.

    Raises ConfigError without the extra ``hub``, for another form of ``repo``, for a report that
    cannot be read, and for ``private`` with a repository that is public; WeightsError for weights
    that are no checkpoint of a training and where the Hub refuses.
    """
    require_extra("hub")
    import huggingface_hub

    _expect_repository(repo)
    checkpoint = read_checkpoint(weights, *TASKS.values())
    if not checkpoint.state:
        raise WeightsError(f"{weights}: converted weights; only a trained checkpoint is uploaded")
    with TemporaryDirectory() as folder:
        write_portable(Path(folder, HUB_FILE), checkpoint.state)
        measured, *notes = measured_part(report, weights) if report else ("",)
        card = Path(folder, CARD)
        card.write_text(model_card(checkpoint, repo, licence, measured), encoding="utf-8")
        try:
            hub = huggingface_hub.HfApi()
            made = hub.create_repo(repo, private=private, exist_ok=True)
            if private and not hub.repo_info(repo).private:  # it was there before
                raise ConfigError(
                    f"--private: hf://{repo} is public, nothing was uploaded; make it private in "
                    "its settings, or name another one"
                )
            if not replace_card and hub.file_exists(repo, CARD):
                card.unlink()
                notes = [f"{CARD}: kept as it is in hf://{repo}; --replace-card writes a new one"]
            hub.upload_folder(repo_id=repo, folder_path=folder, commit_message="Trained by resdet")
        except ConfigError:
            raise
        except Exception as error:  # of its HTTP client too, which changes with its versions
            raise WeightsError(f"hf://{repo}: not uploaded: {one_line(error)}") from error
    return Pushed(str(made), tuple(notes))


def _expect_repository(repo: str) -> None:
    """Raise ConfigError for another form than ``owner/name``, as the Hub allows it."""
    from huggingface_hub.utils import validate_repo_id

    if repo.count("/") != 1:
        raise ConfigError(f"{repo}: expected OWNER/NAME, as in my-name/street-signs")
    try:
        validate_repo_id(repo)
    except ValueError as error:
        raise ConfigError(f"{repo}: expected OWNER/NAME: {one_line(error)}") from error


def model_card(checkpoint: Checkpoint, repo: str, licence: str, measured: str = "") -> str:
    """The ``README.md`` of a repository: task, classes, use, and the metrics in ``measured``."""
    task = checkpoint.task
    facts: dict[str, Any] = {"license": licence, "library_name": "resdet", "tags": [task.name]}
    if task.name in _PIPELINES:
        facts["pipeline_tag"] = _PIPELINES[task.name]
    return _CARD.format(
        facts=to_yaml(facts),
        name=repo.partition("/")[2],
        noun=task.noun.capitalize(),
        count=len(checkpoint.classes),
        classes=", ".join(checkpoint.classes),
        network=task.facts(checkpoint.config)[0][1],
        repo=repo,
        measured=measured,
    )


def measured_part(report: Path, weights: Path) -> tuple[str, ...]:
    """The card's part with the metrics of ``report``, or "" and a line that says why not."""
    path = report / "metrics.json"
    try:
        content = json.loads(read_limited(path))
        rows = [(name, _number(value)) for name, value in content["metrics"].items()]
        images, testing = content["images"], content["testing"]
        evaluated = content.get("weights")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path}: no report of resdet eval: {one_line(error)}") from error
    if evaluated != [sha256_of(weights)]:
        return "", (
            f"{path}: not said to be of {weights}, the card has no metrics; "
            f"`resdet eval --weights {weights}` writes a report that is"
        )
    table = "".join(f"| {name} | {value} |\n" for name, value in rows if value)
    return (
        f"\n## Measured\n\nBy `resdet eval` on {images} images, tested with: {testing}.\n\n"
        f"| metric | value |\n|---|---|\n{table}",
    )


def _number(value: Any) -> str:
    value = value.get("value") if isinstance(value, Mapping) else value
    return "" if value is None else f"{value:.4g}"


def pulled(weights: str | os.PathLike[str]) -> Path:
    """The file at ``hf://owner/name`` or ``hf://owner/name@revision``, downloaded once into the
    cache of the Hub's library; any other path as it is.

    Raises ConfigError without the extra ``hub``, WeightsError where there is no such file.
    """
    text = os.fspath(weights)
    address = HUB_ADDRESS.fullmatch(text)
    if address is None:
        return Path(text)
    require_extra("hub")
    import huggingface_hub

    try:
        return Path(huggingface_hub.hf_hub_download(address[1], HUB_FILE, revision=address[2]))
    except Exception as error:  # of its HTTP client too, which changes with its versions
        raise WeightsError(f"hf://{address[1]}: not downloaded: {one_line(error)}") from error
