"""Checkpoints go to the Hugging Face Hub and come back, through its library and a small Hub."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import safetensors.torch
import torch
from resdet.detection.engine.checkpoint import load_checkpoint, write_portable
from resdet.detection.errors import ConfigError, WeightsError
from resdet.detection.files import sha256_of
from resdet.detection.predictor import load
from resdet.detection.tasks.hub import measured_part, pulled, push
from resdet.tests.hub_server import TOKEN, HubServer

if TYPE_CHECKING:
    from resdet.tests.conftest import Command


@pytest.fixture
def hub() -> Iterator[HubServer]:
    pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
    with HubServer() as server:
        yield server


def test_a_checkpoint_comes_back(
    resdet: Command, hub: HubServer, tiny_run: Path, scenes: Path, tmp_path: Path
) -> None:
    env = environment(hub, tmp_path)
    weights = Path(shutil.copy(tiny_run / "weights" / "best.pt", tmp_path))
    report = report_of(tmp_path / "eval", [sha256_of(weights)], testing="nms at 0.5")
    words = ("push", "--weights", weights, "--license", "mit", "--report", report)
    done = resdet(*words, "me/tiny", env=env)
    assert done.code == 0, done.err
    assert done.out.startswith(f"uploaded: {hub.address}/me/tiny\nnext: resdet infer --weights hf:")
    card = hub.files["me/tiny"]["README.md"].decode()
    assert card.startswith("---\nlicense: mit\nlibrary_name: resdet\n")
    for part in ("pipeline_tag: object-detection", "of 6 classes (circle, cross,", "hf://me/tiny"):
        assert part in card
    assert "on 6 images" in card and "| voc_ap50 | 0.25 |" in card and "large" not in card
    assert str(scenes.parent).encode() not in hub.files["me/tiny"]["model.safetensors"]

    image, found = next((scenes / "JPEGImages").iterdir()), []
    for place in (weights, "hf://me/tiny", "hf://me/tiny@main"):
        out = tmp_path / f"out{len(found)}"
        done = resdet("infer", "--weights", place, image, "--out", out, "--conf", "0", env=env)
        assert done.code == 0, done.err
        found.append((out / "detections.jsonl").read_text())
    assert found[0] == found[1] == found[2] and '"label"' in found[0]
    done = resdet("infer", "--weights", "hf://me/no", image, "--out", tmp_path / "no", env=env)
    assert done.code == 3 and done.err.startswith("error: hf://me/no: not downloaded: ")
    done = resdet(*words, "me/other", env=env | {"HF_TOKEN": "hf_wrong"})
    assert done.code == 3 and done.err.startswith("error: hf://me/other: not uploaded: ")
    assert "Invalid" in done.err and "me/other" not in hub.files


def report_of(folder: Path, hashes: list[str] | None, *, testing: str) -> Path:
    """A folder with what `push` reads of an evaluation of the weights with ``hashes``."""
    folder.mkdir()
    metrics = {"voc_ap50": 0.25, "coco_ap_large": None}
    content = {"metrics": metrics, "images": 6, "testing": testing, "weights": hashes}
    (folder / "metrics.json").write_text(json.dumps(content))
    return folder


def environment(hub: HubServer, folder: Path) -> dict[str, str]:
    """The Hub's library speaks to ``hub``, and by the plain protocol of Git LFS."""
    cache = str(folder / "cache")
    names = ("HF_ENDPOINT", "HF_HOME", "HF_TOKEN", "HF_HUB_DISABLE_XET")
    return dict(zip(names, (hub.address, cache, TOKEN, "1"), strict=True))


def test_an_upload_spares_what_is_there(
    resdet: Command, hub: HubServer, tiny_run: Path, tmp_path: Path
) -> None:
    """A private upload does not go to a public repository, and a card stays."""
    env = environment(hub, tmp_path)
    words = ("push", "--weights", tiny_run / "weights" / "best.pt", "--license", "mit", "me/a")
    files = hub.files["me/a"] = {"README.md": b"mine"}
    done = resdet(*words, "--private", env=env)
    assert done.code == 2 and done.err.startswith("error: --private: hf://me/a is public, nothing")
    assert files == {"README.md": b"mine"}
    hub.private.add("me/a")
    done = resdet(*words, "--private", env=env)
    assert done.code == 0, done.err
    assert "README.md: kept as it is in hf://me/a; --replace-card" in done.out
    assert files["README.md"] == b"mine" and "model.safetensors" in files
    done = resdet(*words, "--replace-card", env=env)
    assert done.code == 0 and "kept" not in done.out
    assert b"license: mit" in files["README.md"]


@pytest.mark.parametrize("change", [[], ["0" * 64], ["same", "0" * 64], None])
def test_a_card_has_only_numbers_of_its_weights(
    change: list[str] | None, tiny_run: Path, tmp_path: Path
) -> None:
    weights = tiny_run / "weights" / "best.pt"
    hashes = change and [sha256_of(weights) if each == "same" else each for each in change]
    of = f"detections in {tmp_path}/found.json"
    report = report_of(tmp_path / "eval", hashes, testing=of)
    text, note = measured_part(report, weights)
    assert text == "" and note.startswith(f"{report / 'metrics.json'}: not said to be of {weights}")


@pytest.mark.parametrize("name", ["tiny", "a/b/c", "hf://me/tiny", "me/a--b", "me/", "me/a b"])
def test_other_names_of_repositories_are_refused(name: str, tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
    with pytest.raises(ConfigError, match="expected OWNER/NAME"):
        push(tmp_path / "none.pt", name, licence="mit")


def test_an_evaluation_of_an_address_stays_out_of_the_cache(
    resdet: Command, hub: HubServer, tiny_run: Path, tiny_config: Path, tmp_path: Path
) -> None:
    write_portable(tmp_path / "a.safetensors", load_checkpoint(tiny_run / "weights" / "best.pt"))
    hub.files["me/tiny"] = {"model.safetensors": (tmp_path / "a.safetensors").read_bytes()}
    words = ("--weights", "hf://me/tiny@main", "--cfg", tiny_config, "--dry-run")
    done = resdet("eval", *words, env=environment(hub, tmp_path), cwd=tmp_path)
    assert done.code == 0, done.err
    assert (tmp_path / "runs" / "eval" / "tiny").is_dir()
    assert not [*(tmp_path / "cache").rglob("eval")]


def test_commands_that_take_files_say_how_to_fetch_one() -> None:
    how = "hf://me/tiny: .*`hf download me/tiny model.safetensors` fetches it"
    with pytest.raises(WeightsError, match=how):
        load_checkpoint(Path("hf://me/tiny"))
    with pytest.raises(WeightsError, match=r"--revision v1\.0` fetches"):
        load_checkpoint(Path("hf://me/tiny@v1.0"))


def test_a_portable_checkpoint_is_the_same_network(tiny_run: Path, tmp_path: Path) -> None:
    """The moving average, without the optimizer, and with no path of the config."""
    state = load_checkpoint(tiny_run / "weights" / "last.pt")
    path = tmp_path / "model.safetensors"
    write_portable(path, state)
    read = load_checkpoint(path)
    assert read["classes"] == state["classes"] and "optimizer" not in read
    assert read["model"].keys() == state["average"].keys()
    assert all(torch.equal(read["model"][name], state["average"][name]) for name in read["model"])
    assert read["config"]["data"]["train"] == [] and read["config"]["rpn"] == state["config"]["rpn"]
    assert load(path).classes == load(tiny_run / "weights" / "last.pt").classes


@pytest.mark.parametrize("header", ["{", "[1]", '{"format_version": 1}', '{"a": 1e999}'])
def test_a_damaged_header_is_refused(header: str, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(safetensors.torch.save({"a": torch.ones(1)}, {"resdet_checkpoint": header}))
    with pytest.raises(WeightsError, match=r"a\.safetensors: "):
        load_checkpoint(path)


def test_addresses_of_the_hub(tmp_path: Path) -> None:
    for path in ("best.pt", "hf/a/b", "hf:x", str(tmp_path)):
        assert pulled(path) == Path(path)
    if find_spec("huggingface_hub") is None:
        with pytest.raises(ConfigError, match=r"pip install 'resdet\[hub\]'"):
            pulled(Path("hf://me/tiny"))
