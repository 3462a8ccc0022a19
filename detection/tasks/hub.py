"""Trained networks on the Hugging Face Hub, with a model card: checkpoints and exported models."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from ..config.paths import without_paths
from ..config.strict_yaml import to_yaml
from ..engine.checkpoint import HUB_ADDRESS, HUB_FILE, write_portable
from ..errors import ConfigError, WeightsError, one_line
from ..export.folder import (
    META,
    PARTS_RUNNER,
    RUNNER,
    files_of,
    is_export,
    read_description,
    weights_hash,
    write_meta,
)
from ..export.runtimes import RUNTIMES
from ..extras import require_extra
from ..files import read_limited
from .checkpoints import Checkpoint, read_applicable
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
pip install "resdet[{extras}]"
resdet infer --weights hf://{repo} street.jpg
```

```python
import resdet

model = resdet.load("hf://{repo}")
print(model("street.jpg"))
```

{what}
{measured}"""
_CHECKPOINT = (
    "The file is a checkpoint of resdet: weights, classes and settings, without the optimizer."
)
_EXPORT = (
    "The files are a model that `resdet export` wrote: graphs for {runtime}, classes and settings, "
    "compared with the checkpoint that they were made of; `meta.json` describes them."
)


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
    """Write the network of a checkpoint, which is the moving average if it has one, or an exported
    model to the repository ``owner/name``, which is made if there is none; ``private`` makes a
    private one.

    ``licence`` is the Hub's name of one, such as ``cc-by-4.0``. The model card has the metrics in
    ``report``, a folder of `resdet eval` for these very weights; None leaves them out. A card that
    the repository has is kept unless ``replace_card``. The token is that of ``HF_TOKEN`` or of
    ``hf auth login``.

    Raises ConfigError without the extra ``hub``, for another form of ``repo``, for a report that
    cannot be read, for ``private`` with a repository that is public, and for an export where a
    checkpoint is, or the reverse; WeightsError for weights that are neither and where the Hub
    refuses.
    """
    require_extra("hub")
    import huggingface_hub

    _expect_repository(repo)
    checkpoint = read_applicable(weights, *TASKS.values())
    exported = is_export(weights)
    if not (checkpoint.state or exported):
        raise WeightsError(f"{weights}: converted weights; only a trained checkpoint is uploaded")
    with TemporaryDirectory() as name:
        folder = Path(name)
        if exported:
            about = _copy_export(weights, folder)
        else:
            write_portable(folder / HUB_FILE, checkpoint.state)
            about = {"extras": "hub", "what": _CHECKPOINT}
        about["measured"], *notes = measured_part(report, weights) if report else ("",)
        card = folder / CARD
        card.write_text(model_card(checkpoint, repo, licence, **about), encoding="utf-8")
        try:
            hub = huggingface_hub.HfApi()
            made = hub.create_repo(repo, private=private, exist_ok=True)
            if private and not hub.repo_info(repo).private:  # it was there before
                raise ConfigError(
                    f"--private: hf://{repo} is public, nothing was uploaded; make it private in "
                    "its settings, or name another one"
                )
            if hub.file_exists(repo, HUB_FILE if exported else META):
                there, here = ("a checkpoint", "an export")[:: 1 if exported else -1]
                raise ConfigError(
                    f"hf://{repo}: holds {there}, nothing was uploaded; name another repository "
                    f"for {here}"
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


def _copy_export(source: Path, folder: Path) -> dict[str, str]:
    """Copy the files of an exported model, without the paths in its config; what `model_card` says
    of it."""
    meta = read_description(source)
    names = files_of(meta)
    runners = [each.name for each in (RUNNER, PARTS_RUNNER) if (source / each.name).is_file()]
    for name in (*names, *runners):
        shutil.copyfile(source / name, folder / name)
    write_meta(folder, {**meta, "config": without_paths(meta["config"])})
    runtime = next(RUNTIMES[end] for end in RUNTIMES if any(name.endswith(end) for name in names))
    what = _EXPORT.format(runtime=runtime.package)
    return {"extras": f"hub,{runtime.extra}", "what": what}


def _expect_repository(repo: str) -> None:
    """Raise ConfigError for another form than ``owner/name``, as the Hub allows it."""
    from huggingface_hub.utils import validate_repo_id

    if repo.count("/") != 1:
        raise ConfigError(f"{repo}: expected OWNER/NAME, as in my-name/street-signs")
    try:
        validate_repo_id(repo)
    except ValueError as error:
        raise ConfigError(f"{repo}: expected OWNER/NAME: {one_line(error)}") from error


def model_card(
    checkpoint: Checkpoint,
    repo: str,
    licence: str,
    *,
    extras: str = "hub",
    what: str = _CHECKPOINT,
    measured: str = "",
) -> str:
    """The ``README.md`` of a repository: task, classes, use with the ``extras`` that it needs,
    ``what`` its files are, and the metrics in ``measured``."""
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
        extras=extras,
        what=what,
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
    if evaluated != [weights_hash(weights)]:
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
    """The checkpoint at ``hf://owner/name`` or ``hf://owner/name@revision``, or the folder of the
    exported model there, downloaded once into the cache of the Hub's library; any other path as it
    is.

    Raises ConfigError without the extra ``hub``, WeightsError where there is neither.
    """
    text = os.fspath(weights)
    address = HUB_ADDRESS.fullmatch(text)
    if address is None:
        return Path(text)
    require_extra("hub")
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    repo, revision = address.groups()
    try:
        try:
            return Path(hf_hub_download(repo, HUB_FILE, revision=revision))
        except EntryNotFoundError:
            return _pulled_export(repo, revision)
    except WeightsError:
        raise
    except Exception as error:  # of its HTTP client too, which changes with its versions
        raise WeightsError(f"hf://{repo}: not downloaded: {one_line(error)}") from error


def _pulled_export(repo: str, revision: str | None) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        folder = Path(hf_hub_download(repo, META, revision=revision)).parent
    except EntryNotFoundError as error:
        if isinstance(error, LocalEntryNotFoundError):  # the Hub was not reached
            raise
        raise WeightsError(f"hf://{repo}: has neither {HUB_FILE} nor {META} of resdet") from error
    for name in files_of(read_description(folder)):
        hf_hub_download(repo, name, revision=folder.name)  # the commit of what was read
    return folder
