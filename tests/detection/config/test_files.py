"""Configs: what is read, what is refused and how, and which paths come out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from resdet.datasets.formats.coco import CocoSource
from resdet.datasets.formats.voc import VocSource
from resdet.detection.config.detector import DetectorConfig
from resdet.detection.config.files import (
    config_from_dict,
    dump_config,
    find_config,
    load_config,
    override,
    shipped_configs,
)
from resdet.detection.config.layers import config_chain
from resdet.detection.config.paths import missing_paths
from resdet.detection.config.strict_yaml import to_yaml
from resdet.detection.errors import ConfigError

VOC = "{format: voc, root: VOC, split: train}"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of configs that is not the working folder."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    configs = tmp_path / "configs"
    configs.mkdir()
    return configs


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def errors_of(path: Path, *overrides: str) -> list[str]:
    """The lines of the error that loading ends with."""
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    assert caught.value.exit_code == 2
    return str(caught.value).splitlines()


# -- errors ------------------------------------------------------------------------------------


def test_every_error_has_file_line_key_and_value(folder: Path) -> None:
    path = write(
        folder / "mine.yaml",
        f"""\
# a comment moves the lines
data:
  train:
    - {VOC}
    - format: coco
      imges: x
      annotations: y
    - {{format: vox, root: VOC}}
train:
  lr: abc
  iterations: 10.0
  seed: true
  milestones: [5, 3]
eval: {{metric: map}}
rpn: 5
""",
    )
    lines = errors_of(path, "train.batch_size='8'", "trian.lr=1")
    assert sorted(lines) == sorted(
        [
            f"{path}:5: data.train.1.images: is required",
            f"{path}:6: data.train.1.imges: unknown key; did you mean 'images'?",
            f"{path}:8: data.train.2: unknown format 'vox'; did you mean 'voc'? "
            "(known here: ilsvrc_det, voc, coco, yolo, labelme, label_studio, cvat, csv)",
            f"{path}:10: train.lr: must be a valid number (got 'abc')",
            f"{path}:11: train.iterations: must be a valid integer (got 10.0)",
            f"{path}:12: train.seed: must be a valid integer (got true)",
            f"{path}:14: eval.metric: must be 'voc_ap50', 'voc_ap50_11point', 'coco_ap', "
            "'coco_ap50' or 'ilsvrc_ap' (got 'map')",
            f"{path}:15: rpn: must be an object (got 5)",
            "override train.batch_size='8': train.batch_size: must be a whole number or 'auto' "
            "(got '8')",
            "override trian.lr=1: trian: unknown key; did you mean 'train'?",
        ]
    )


def test_a_missing_split_may_be_null(folder: Path) -> None:
    sources = "{format: yolo, root: a}, {format: ilsvrc_det, root: a}, {format: voc, split: null}"
    path = write(folder / "a.yaml", f"data: {{train: [{sources}]}}\n")
    assert errors_of(path) == [
        f"{path}:1: data.train.0.split: is required; `split: null` takes all images",
        f"{path}:1: data.train.1.split: is required",
        f"{path}:1: data.train.2.root: is required",
    ]


def test_a_rule_between_fields_names_its_section(folder: Path) -> None:
    path = write(folder / "a.yaml", "test: {}\ntrain: {milestones: [5, 3]}\n")
    assert errors_of(path) == [f"{path}:2: train: milestones must rise: [5, 3]"]


@pytest.mark.parametrize(
    ("text", "suggestion"),
    [
        ("backbone: {wieghts: a}", "backbone.wieghts: unknown key; did you mean 'weights'?"),
        ("bakbone: {}", "bakbone: unknown key; did you mean 'backbone'?"),
        ("data: {root_: a}", "data.root_: unknown key; did you mean 'root'?"),
        (
            "data: {val: [{format: voc, root: a, split: b, coordinate: zero_based}]}",
            "data.val.0.coordinate: unknown key; did you mean 'coordinates'?",
        ),
        (
            "data: {val: [{format: voc, root: a, split: b, boxs: c}]}",
            "data.val.0.boxs: unknown key; known here: annotated, coordinates, format, root, split",
        ),
        (
            "data: {val: [{format: voc, root: a, split: b, coco: c}]}",
            "data.val.0.coco: unknown key; known here: annotated, coordinates, format, root, split",
        ),
        (
            "image: {augment: [{name: Blur, prams: {}}]}",
            "image.augment.0.prams: unknown key; did you mean 'params'?",
        ),
        (
            "test: {agnostic_nms: true}",
            "test.agnostic_nms: unknown key; did you mean 'test.nms_iou' or "
            "'test.suppress.class_agnostic'?",
        ),
        (
            "train: {short_side_train: [480]}",
            "train.short_side_train: unknown key; did you mean 'image.short_side_train'?",
        ),
        ("eval: {zzz: 1}", "eval.zzz: unknown key; known here: coco_library, metric, sizes"),
    ],
)
def test_unknown_keys_suggest_what_is_known_there(folder: Path, text: str, suggestion: str) -> None:
    path = write(folder / "a.yaml", text)
    assert errors_of(path) == [f"{path}:1: {suggestion}"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [("", "is empty"), ("# only\n", "is empty"), ("[1]", "holds [1]"), ("voc", "holds 'voc'")],
)
def test_a_file_without_sections(folder: Path, text: str, reason: str) -> None:
    path = write(folder / "a.yaml", text)
    assert errors_of(path) == [f"{path}: a config is a mapping of sections; this file {reason}"]


def test_unreadable_files(folder: Path) -> None:
    binary = folder / "a.yaml"
    binary.write_bytes(b"\xff\xfe\x00\xd8\x89PNG")
    assert errors_of(binary)[0].startswith(f"{binary}: not readable as YAML: ")


# -- finding and bases -------------------------------------------------------------------------


def test_find_by_path_and_by_shipped_name(folder: Path) -> None:
    mine = write(folder / "voc_r101.yaml", "{}")
    assert find_config(mine) == mine
    shipped = find_config("voc_r101.yaml")
    assert shipped == find_config("voc_r101") != mine
    assert shipped.name in shipped_configs()


def test_not_found_lists_paths_and_near_names(folder: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        find_config("voc_r10.yaml")
    shipped = find_config("voc_r101").with_name("voc_r10.yaml")
    expected = (
        f"config voc_r10.yaml not found, tried voc_r10.yaml, {shipped}; did you mean voc_r101"
    )
    assert str(caught.value).startswith(expected)
    with pytest.raises(ConfigError, match=r"not found, tried elsewhere/voc_r101\.yaml; did"):
        find_config("elsewhere/voc_r101.yaml")  # a path is never a shipped name
    with pytest.raises(ConfigError, match="not found"):
        find_config(folder)
    with pytest.raises(ConfigError, match="not found"):
        find_config("a\0b" + "c" * 5000)


def test_base_merges_mappings_and_replaces_lists(folder: Path) -> None:
    write(
        folder / "base.yaml",
        "train: {lr: 0.5, milestones: [1, 2, 3], seed: 4}\nrpn: {anchor_sizes: [8, 16]}\n",
    )
    path = write(folder / "top.yaml", "base: base.yaml\ntrain: {milestones: [9], iterations: 10}\n")
    config = load_config(path)
    assert config.train.lr == 0.5
    assert config.train.seed == 4
    assert config.train.milestones == (9,)
    assert config.train.iterations == 10
    assert config.rpn.anchor_sizes == (8.0, 16.0)


def test_an_error_in_the_base_names_the_base(folder: Path) -> None:
    base = write(folder / "base.yaml", "train:\n  lr: x\n  seed: y\n  milestones: [a]\n")
    top = write(folder / "top.yaml", "train:\n  seed: z\n  milestones: [1, b]\nbase: base.yaml\n")
    assert sorted(errors_of(top)) == sorted(
        [
            f"{base}:2: train.lr: must be a valid number (got 'x')",
            f"{top}:2: train.seed: must be a valid integer (got 'z')",
            f"{top}:3: train.milestones.1: must be a valid integer (got 'b')",
        ]
    )


def test_a_base_may_have_a_base(folder: Path) -> None:
    """The nearest file decides, and each value has the line and the folder of its own file."""
    write(folder / "a.yaml", "train: {lr: 0.1, seed: 1, iterations: 7}\n")
    inner = folder / "inner"
    inner.mkdir()
    source = "{format: voc, root: ., split: train}"
    write(inner / "b.yaml", f"base: ../a.yaml\ntrain: {{seed: 2}}\ndata: {{train: [{source}]}}\n")
    write(folder / "c.yaml", "base: inner/b.yaml\ntrain: {lr: 0.3}\n")
    top = write(folder / "d.yaml", "base: c.yaml\n")
    config = load_config(top)
    assert (config.train.lr, config.train.seed, config.train.iterations) == (0.3, 2, 7)
    assert config.data.train[0].root == inner.absolute()  # type: ignore[attr-defined]
    names = [path.name for path in config_chain(top)]
    assert names == ["d.yaml", "c.yaml", "b.yaml", "a.yaml"]
    write(folder / "a.yaml", "train:\n  lr: 0.1\n  seeds: 1\n")
    [error] = errors_of(top)
    assert error.startswith(f"{inner / '..' / 'a.yaml'}:3: train.seeds: unknown key")


def test_bases_in_a_circle(folder: Path) -> None:
    one = write(folder / "one.yaml", "base: two.yaml\n")
    two = write(folder / "two.yaml", "train: {seed: 1}\nbase: one.yaml\n")
    chain = f"{one} -> {two} -> {one}"
    assert errors_of(one) == [f"{two}:2: base: the bases form a circle: {chain}"]
    itself = write(folder / "self.yaml", f"base: ../{folder.name}/self.yaml\n")
    assert "the bases form a circle" in errors_of(itself)[0]
    itself = write(folder / "me.yaml", "base: me.yaml\n")
    assert errors_of(itself)[0].startswith(f"{itself}:1: base: config me.yaml not found")
    assert errors_of(itself)[0].endswith("; a file is not its own base")


@pytest.mark.parametrize("name", ["voc0712_r101.yaml", "imagenet_plain18.yaml", "voc_r101"])
def test_a_file_on_top_of_the_shipped_config_of_its_name(name: str, folder: Path) -> None:
    """Twelve shipped configs have a base."""
    path = write(folder / f"{Path(name).stem}.yaml", f"base: {name}\n")
    first, second, *_ = config_chain(path)
    assert first == path and second.name == first.name and second.parent.name == "configs"


def test_a_base_may_be_shipped(folder: Path) -> None:
    top = write(folder / "top.yaml", "base: quickstart_r18\ntrain: {seed: 5}\n")
    assert load_config(top).train.seed == 5
    assert load_config(top).backbone.depth == 18
    lost = write(folder / "lost.yaml", "\n\nbase: nowhere.yaml\n")
    assert errors_of(lost)[0].startswith(f"{lost}:3: base: config nowhere.yaml not found, tried ")
    number = write(folder / "number.yaml", "base: [a]\n")
    assert errors_of(number) == [f'{number}:1: base: must be the name of a config (got ["a"])']


# -- overrides ---------------------------------------------------------------------------------


def test_overrides_are_typed_and_the_last_wins(folder: Path) -> None:
    path = write(folder / "a.yaml", "train: {lr: 1.0, seed: 7}\n")
    config = load_config(
        path,
        [
            "train.lr=1e-2",
            "train.lr=1e-3",
            "data.classes=[no, 'on', 007]",
            "backbone.weights=null",
            "rpn={nms_iou: 0.6}",
            "rpn.low_quality_matches=false",
            "image.augment=[{name: Blur, params: {p: 0.5}}]",
        ],
    )
    assert config.train.lr == 0.001
    assert config.train.seed == 7
    assert config.data.classes == ("no", "on", "007")
    assert config.backbone.weights is None
    assert config.rpn.nms_iou == 0.6
    assert config.rpn.low_quality_matches is False
    assert config.image.augment[0].params == {"p": 0.5}


def test_an_override_of_one_list_item_leaves_the_others(folder: Path) -> None:
    path = write(folder / "a.yaml", f"data:\n  train:\n    - {VOC}\n    - {VOC}\n")
    config = load_config(path, ["data.train.1.split=test"])
    splits = [source.split for source in config.data.train if isinstance(source, VocSource)]
    assert splits == ["train", "test"]
    assert errors_of(path, "data.train.1.splt=test") == [
        "override data.train.1.splt=test: data.train.1.splt: unknown key; did you mean 'split'?"
    ]


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("train.lr", "expected key=value, such as train.lr=0.01"),
        ("=1", "expected key=value, such as train.lr=0.01"),
        ("train..lr=1", "expected key=value, such as train.lr=0.01"),
        ("train.lr=", "no value after '='; write null for none, '' for empty text"),
        ("data.train.2.split=a", "no item '2' in a list of 1, counted from 0"),
        ("data.train.-1.split=a", "no item '-1' in a list of 1, counted from 0"),
        ("data.train.00.split=a", "no item '00' in a list of 1, counted from 0"),
        ("data.train.²=a", "no item '²' in a list of 1, counted from 0"),
        ("train.lrr=1", "train.lrr: unknown key; did you mean 'lr'?"),
        ("train.lr.x=1", 'train.lr: must be a valid number (got {"x": 1})'),
        ("train.lr=.nan", ".nan is not a finite number"),
        ("train.lr=1e400", "1e400 is not a finite number"),
        ("train.lr=1 # one", "train.lr: must be a valid number (got '1 # one')"),
        ("backbone.pixels=!!str msra", None),
        ("data.classes=[!!str a]", None),
        ("data.classes=[a, ", None),
        ("data.classes={a: 1, a: 2}", None),
    ],
)
def test_bad_overrides_are_quoted(folder: Path, override: str, reason: str | None) -> None:
    path = write(folder / "a.yaml", f"data: {{train: [{VOC}]}}\n")
    lines = errors_of(path, override)
    assert len(lines) == 1
    assert lines[0].startswith(f"override {override}")
    if reason is not None:
        assert lines[0] == f"override {override}: {reason}"


# -- paths -------------------------------------------------------------------------------------


def root_of(config: DetectorConfig, index: int = 0) -> Path:
    source = config.data.train[index]
    assert isinstance(source, VocSource)
    return source.root


def test_paths_prefer_the_config_folder_then_the_working_folder(folder: Path) -> None:
    path = write(folder / "a.yaml", f"data: {{train: [{VOC}]}}\n")
    beside, work = folder / "VOC", Path.cwd() / "VOC"
    config = load_config(path)
    assert root_of(config) == beside  # neither exists: the first
    assert missing_paths(config) == [
        f"data.train.0.root: not found, tried {beside}, {work}; set data.root=DIR"
    ]
    work.mkdir()
    assert root_of(load_config(path)) == work
    beside.mkdir()
    assert root_of(load_config(path)) == beside
    assert missing_paths(load_config(path)) == []


def test_a_relative_config_path_gives_absolute_data_paths(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder / "a.yaml", f"data: {{root: d, train: [{VOC}]}}\n")
    monkeypatch.chdir(folder)
    config = load_config("a.yaml")
    assert config.data.root == folder / "d"
    assert root_of(config) == folder / "d" / "VOC"


def test_data_root_is_the_prefix_of_every_relative_source(folder: Path) -> None:
    path = write(
        folder / "a.yaml",
        f"""\
data:
  root: files
  train: [{VOC}, {{format: voc, root: /else/where, split: a}}]
  val: [{{format: coco, images: im, annotations: an/a.json}}]
""",
    )
    (folder / "VOC").mkdir()  # a decoy: with data.root set, the config folder is no longer searched
    work = Path.cwd() / "files"
    config = load_config(path)
    assert missing_paths(config)[0] == (
        f"data.train.0.root: not found, tried {folder}/files/VOC, {work}/VOC; set data.root=DIR"
    )
    (work / "VOC").mkdir(parents=True)
    config = load_config(path)
    assert config.data.root == work
    assert root_of(config) == work / "VOC"
    assert root_of(config, 1) == Path("/else/where")
    val = config.data.val[0]
    assert isinstance(val, CocoSource)
    assert (val.images, val.annotations) == (work / "im", work / "an/a.json")
    assert [line.split(":")[0] for line in missing_paths(config)] == [
        "data.train.1.root",
        "data.val.0.images",
        "data.val.0.annotations",
    ]


def test_a_new_data_root_moves_a_stored_config(folder: Path, tmp_path: Path) -> None:
    (folder / "a.yaml").write_text(
        f"data: {{root: {tmp_path}/old, train: [{VOC}, {VOC.replace('VOC', '/fixed/VOC')}]}}"
    )
    stored = load_config(folder / "a.yaml")
    moved = override(stored, [f"data.root={tmp_path}/new"])
    assert [source.root for source in moved.data.train if isinstance(source, VocSource)] == [
        tmp_path / "new" / "VOC",
        Path("/fixed/VOC"),
    ]
    assert override(stored, ["train.lr=0.5"]).data == stored.data


def test_override_paths_mean_the_working_folder(folder: Path) -> None:
    path = write(folder / "a.yaml", f"data: {{train: [{VOC}, {VOC}]}}\n")
    (folder / "d").mkdir()
    config = load_config(path, ["data.root=d"])
    assert config.data.root == Path.cwd() / "d"
    config = load_config(path, ["data.train.1.root=d"])
    assert [root_of(config, 0), root_of(config, 1)] == [folder / "VOC", Path.cwd() / "d"]


def test_each_file_looks_beside_itself(folder: Path) -> None:
    inner = folder / "inner"
    inner.mkdir()
    write(inner / "base.yaml", f"data: {{train: [{VOC}]}}\nbackbone: {{weights: w.pt}}\n")
    path = write(folder / "a.yaml", f"base: inner/base.yaml\ndata: {{val: [{VOC}]}}\n")
    config = load_config(path)
    val = config.data.val[0]
    assert isinstance(val, VocSource)
    assert (root_of(config), val.root) == (inner / "VOC", folder / "VOC")
    assert config.backbone.weights == str(inner / "w.pt")


def test_shipped_configs_look_in_the_working_folder_only(folder: Path) -> None:
    config = load_config("voc_r101.yaml")
    assert root_of(config) == Path.cwd() / "VOCdevkit" / "VOC2007"
    by_path = load_config(find_config("voc_r101.yaml"))
    assert by_path == config


def test_weights(folder: Path) -> None:
    path = write(folder / "a.yaml", "backbone: {weights: R-101.pkl}\n")
    beside, work = folder / "R-101.pkl", Path.cwd() / "R-101.pkl"
    assert missing_paths(load_config(path)) == [
        f"backbone.weights: not found, tried {beside}, {work}"
    ]
    work.touch()
    assert load_config(path).backbone.weights == str(work)
    assert missing_paths(load_config(path)) == []
    for name in ("torchvision:ResNet101_Weights.IMAGENET1K_V2", "https://host/R-101.pkl"):
        config = load_config(path, [f"backbone.weights={name}"])
        assert config.backbone.weights == name
        assert missing_paths(config) == []


def test_home_and_impossible_paths(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    path = write(folder / "a.yaml", f"data: {{train: [{VOC}]}}\n")
    assert load_config(path, ["data.root=~/d"]).data.root == Path("/home/someone/d")
    for impossible in ("a" * 5000, '"a\\0b"'):
        config = load_config(path, [f"data.root={impossible}"])
        assert len(missing_paths(config)) == 1


# -- round trips and fuzz ----------------------------------------------------------------------

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
positive = st.floats(min_value=1e-300, max_value=1e9)
sides = st.floats(min_value=0.01, max_value=1e5)
absolute = st.text(max_size=8).map(lambda text: str(Path(f"/{text}")))  # as paths are written
sources = st.one_of(
    st.fixed_dictionaries({"format": st.just("voc"), "root": absolute, "split": st.text()}),
    st.fixed_dictionaries({"format": st.just("coco"), "images": absolute, "annotations": absolute}),
)
valid_values = st.fixed_dictionaries(
    {
        "data": st.fixed_dictionaries(
            {
                "root": st.none() | absolute,
                "train": st.lists(sources, max_size=2),
                "classes": st.none() | st.lists(st.text()),
            }
        ),
        "image": st.fixed_dictionaries(
            {
                "augment": st.lists(
                    st.fixed_dictionaries(
                        {
                            "name": st.text(),
                            "params": st.dictionaries(st.text(), json_values, max_size=3),
                        }
                    ),
                    max_size=2,
                )
            }
        ),
        "backbone": st.fixed_dictionaries({"weights": st.none() | absolute}),
        "rpn": st.fixed_dictionaries({"anchor_sizes": st.lists(sides, min_size=1)}),
        "train": st.fixed_dictionaries(
            {"lr": positive, "clip_norm": st.none() | positive, "seed": st.integers(0, 2**63 - 1)}
        ),
    }
)


@settings(max_examples=40)
@given(valid_values)
def test_dump_is_loaded_back_and_so_is_the_dict(
    tmp_path_factory: pytest.TempPathFactory, values: dict[str, object]
) -> None:
    config = config_from_dict(values)
    path = write(tmp_path_factory.getbasetemp() / "dump.yaml", dump_config(config))
    assert load_config(path) == config
    assert config_from_dict(json.loads(json.dumps(config.model_dump(mode="json")))) == config


@pytest.mark.parametrize(
    "values",
    [None, 5, [], {"train": {"lr": object()}}, {1: 2}, {"train": {"lr": float("nan")}}, {"x": 1}],
)
def test_a_stored_config_is_checked_too(values: object) -> None:
    with pytest.raises(ConfigError, match=r"^run\.pt: "):
        config_from_dict(values, "run.pt")


def test_a_stored_config_may_be_bottomless() -> None:
    loop: list[object] = []
    loop.append(loop)
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    for values in (loop, deep):
        with pytest.raises(ConfigError, match=r"^run\.pt: not a config"):
            config_from_dict({"train": values}, "run.pt")


WORDS = (
    "data train val root format voc coco split images lr seed rpn roi base augment name params "
    "anchor_sizes milestones weights null true 1 -1 1e9 1e999 .nan .inf 0.5 007 '' \"x\" [] {} "
    "[1,2] {a:1} - --- ... ? | > & * ! !!int # %YAML : @ ` \t \x00 \x85 \ufeff 😀"
)
FRAGMENTS = st.sampled_from(WORDS.split(" "))
SEPARATORS = st.sampled_from([" ", "\n", "\n  ", "\n    ", ": ", ":\n  ", ", ", "\n- "])
yaml_like = st.lists(st.tuples(FRAGMENTS, SEPARATORS), max_size=20).map(
    lambda pairs: "".join(part + separator for part, separator in pairs)
)


def loads_or_explains(path: Path, overrides: list[str]) -> None:
    try:
        assert isinstance(load_config(path, overrides), DetectorConfig)
    except ConfigError as error:
        assert str(error)


@settings(max_examples=100)
@given(text=yaml_like | st.text() | st.binary())
def test_any_file_is_a_config_or_a_config_error(
    tmp_path_factory: pytest.TempPathFactory, text: str | bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    loads_or_explains(path, [])


KEYS = st.sampled_from(
    ["data", "train", "val", "0", "root", "lr", "x", "classes", "rpn", "anchor_sizes"]
)


@settings(max_examples=100)
@given(keys=st.lists(KEYS | st.text(max_size=3), max_size=4), value=yaml_like | st.text())
def test_any_override_is_a_config_or_a_config_error(
    tmp_path_factory: pytest.TempPathFactory, keys: list[str], value: str
) -> None:
    path = write(tmp_path_factory.getbasetemp() / "a.yaml", f"data: {{train: [{VOC}]}}\n")
    loads_or_explains(path, [f"{'.'.join(keys)}={value}"])


@settings(max_examples=50)
@given(
    st.dictionaries(
        st.sampled_from([*DetectorConfig.model_fields, "base"]),
        json_values
        | st.dictionaries(
            st.sampled_from(
                ["lr", "train", "val", "classes", "anchor_sizes", "weights", "augment", "seed"]
            ),
            json_values,
        ),
        max_size=3,
    )
)
def test_any_sections_are_a_config_or_a_config_error(
    tmp_path_factory: pytest.TempPathFactory, values: dict[str, object]
) -> None:
    path = write(tmp_path_factory.getbasetemp() / "sections.yaml", to_yaml(values))
    loads_or_explains(path, [])
