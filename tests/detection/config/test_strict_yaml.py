"""YAML: what a scalar means, what is refused, and that what is written is read back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from resdet.detection.config.strict_yaml import MAX_BYTES, parse_scalar, parse_yaml, to_yaml
from resdet.detection.errors import ConfigError


def test_another_encoding_is_named() -> None:
    with pytest.raises(ConfigError, match=r"a\.yaml: .*line 2 is not UTF-8 \(byte 0xe9\); save it"):
        parse_yaml("a: 1\nb: café\n".encode("latin-1"), "a.yaml")
    assert parse_yaml("b: café\n".encode("utf-16"), "a.yaml").value == {"b": "café"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E5", 100000.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("+7", 7),
        ("-0", 0),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        # strings, in spite of YAML 1.1
        ("no", "no"),
        ("on", "on"),
        ("y", "y"),
        ("Off", "Off"),
        ("007", "007"),
        ("0o7", "0o7"),
        ("0x1f", "0x1f"),
        ("0b1", "0b1"),
        ("1_000", "1_000"),
        ("12:30:45", "12:30:45"),
        ("2026-01-01", "2026-01-01"),
        ("<<", "<<"),
        ("=", "="),
        ("١", "١"),  # an Arabic digit is a digit for str.isdigit and \d  # noqa: RUF001
    ],
)
def test_plain_scalars_are_yaml_1_2(text: str, value: object) -> None:
    document = parse_yaml(f"key: {text}\n", "x.yaml").value
    assert document == {"key": value}
    assert type(document["key"]) is type(value)
    literal = parse_scalar(text, "x")
    assert literal == value
    assert type(literal) is type(value)


def test_quoted_scalars_are_strings() -> None:
    assert parse_yaml("['1', \"true\", 'null']", "x").value == ["1", "true", "null"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("train:\n  lr: 1\n  lr: 2\n", "x:3: key 'lr' is already given in line 2"),
        ("a: !!python/name:os.system\n", "x:1: tags are not allowed"),
        ("a:\n- !!str 1\n", "x:2: tags are not allowed"),
        ("a: ! 1\n", "x:1: tags are not allowed"),
        ("a: .nan\n", "x:1: .nan is not a finite number"),
        ("a:\n  b: -.INF\n", "x:2: -.INF is not a finite number"),
        ("a: 1e400\n", "x:1: 1e400 is not a finite number"),
        ("1: a\n", "x:1: a key must be a name"),
        ("[1, 2]: a\n", "x:1: a key must be a name"),
        ("true: a\n", "x:1: a key must be a name"),
        ("a: 1\n---\na: 2\n", "x:2: but found another document"),
        ("a: [1\n", "x:2: "),
        ("a: *b\n", "x:1: found undefined alias 'b'"),
        ("a: &a [*a]\n", "x:1: nested deeper than 50 levels"),
        ("[" * 60, "x:1: nested deeper than 50 levels"),
        ("[" * 100_000, "x:1: nested deeper than 50 levels"),
        ('a: "\\ud800"\n', 'x:1: "\\ud800" is not valid Unicode text'),
        ('a: "\\UFFFFFFFF"\n', "x: not readable as YAML: "),
        ("a: " + "9" * 5000, "x:1: a number of 5000 digits is too large"),
        ("#" * (MAX_BYTES + 1), "x: larger than 1000000 bytes"),
    ],
)
def test_what_yaml_may_not_say(text: str, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_yaml(text, "x")
    assert str(caught.value).startswith(reason)
    assert "\n" not in str(caught.value)


def test_every_duplicate_is_reported() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_yaml("a: 1\na: 2\nb: {c: 1, c: 2}\n", "x")
    assert str(caught.value).splitlines() == [
        "x:2: key 'a' is already given in line 1",
        "x:3: key 'c' is already given in line 3",
    ]


def test_aliases_work_and_an_alias_bomb_does_not() -> None:
    assert parse_yaml("a: &x [1]\nb: *x\n", "x").value == {"a": [1], "b": [1]}
    levels = ["a0: &a0 [1, 1]"]
    levels += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
    with pytest.raises(ConfigError, match=r"^x:\d+: more than 100000 values$"):
        parse_yaml("\n".join(levels), "x")


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(json_values)
def test_to_yaml_is_read_back(value: object) -> None:
    assert parse_yaml(to_yaml(value), "x").value == value


LOOK_ALIKES = "yes no null ~ 1e3 007 .inf 1_0 0x1 <<  [ # : - ! & * @ `"


@given(st.sampled_from(LOOK_ALIKES.split(" ")))
def test_strings_that_look_like_something_else_are_quoted(text: str) -> None:
    assert parse_yaml(to_yaml([text, {text: text}]), "x").value == [text, {text: text}]
