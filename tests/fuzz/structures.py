"""Well-formed files with wrong contents: trees with unusual values, as bytes."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from random import Random
from typing import Any
from xml.sax.saxutils import escape

#: Values that some reader does not expect at some place.
ODD: Sequence[Any] = (
    *(None, True, False, 0, 1, -1, 2**31, -(2**63), 10**30, 0.5, -0.0, 1e308, 1e-320),
    *(float("nan"), float("inf"), float("-inf"), "", " ", "0", "1e5", "nan", "dog", "Dog", "\0"),
    *("\ud800", "é\n", "../../x", "a" * 300, [], [1], [[]], {}, {"id": 1}, ["dog"], [None] * 4),
)


def spoil(tree: Any, random: Random, chance: float = 0.06) -> Any:
    """A copy of a tree of dicts and lists with odd values, lacking or doubled items here and
    there."""
    if random.random() < chance:
        return random.choice(ODD)
    if isinstance(tree, dict):
        kept = {k: spoil(v, random, chance) for k, v in tree.items() if random.random() > chance}
        return kept | ({"extra": random.choice(ODD)} if random.random() < chance else {})
    if isinstance(tree, list):
        items = [spoil(item, random, chance) for item in tree if random.random() > chance]
        return items + ([random.choice(items)] if items and random.random() < chance else [])
    return tree


def as_json(tree: Any) -> bytes:
    return json.dumps(tree).encode("utf-8", "surrogatepass")


def coco(random: Random) -> dict[str, Any]:
    """A valid instances file over the images a.jpg and b.jpg."""
    images = [
        {"id": 1, "file_name": "a.jpg", "height": 48, "width": 64},
        {"id": 2, "file_name": "b.jpg", "height": 48, "width": 64},
    ]
    categories = [{"id": 3, "name": "dog"}, {"id": 9, "name": "cat"}]
    annotations = [
        {
            "id": number,
            "image_id": random.choice((1, 2)),
            "category_id": random.choice((3, 9)),
            "bbox": [random.randint(0, 40), 5, random.randint(1, 20), 7.5],
            "area": 12,
            "iscrowd": random.choice((0, 1)),
        }
        for number in range(random.randint(0, 5))
    ]
    return {"info": {}, "images": images, "annotations": annotations, "categories": categories}


def voc_xml(random: Random) -> bytes:
    """An annotation with all the tags, some of them odd, missing or doubled."""
    objects = "".join(
        _tag(
            "object",
            random,
            _tag("name", random, random.choice(("dog", "cat", " dog ", "", "<b>", "dog,cat"))),
            _tag("difficult", random, random.choice(("0", "1", "", "Unspecified", "nan", "x"))),
            _tag("bndbox", random, *(_tag(side, random, _coordinate(random)) for side in _SIDES)),
        )
        for _ in range(random.randint(0, 4))
    )
    size = "".join(_tag(side, random, _coordinate(random, usual)) for side, usual in _SIZE)
    name = _tag("filename", random, random.choice(("a.jpg", "../a.jpg", "")))
    return _tag("annotation", random, name, _tag("size", random, size), objects, raw=True).encode()


_SIZE = (("width", "64"), ("height", "48"))
_SIDES = ("xmin", "ymin", "xmax", "ymax")


def _coordinate(random: Random, usual: str = "") -> str:
    odd = random.choice(("nan", "inf", "-5", "1e400", "12,5", "", "0x1", "9" * 400, "٣", " 7\n"))
    return odd if random.random() < 0.1 else usual or str(random.randint(1, 48))


def _tag(name: str, random: Random, *parts: str, raw: bool = False) -> str:
    """``parts`` are text or tags; now and then the tag is missing, doubled or misspelt."""
    body = "".join(part if part.startswith("<") else escape(part) for part in parts)
    whole = f"<{name}>{body}</{name}>"
    luck = 1.0 if raw else random.random()
    if luck < 0.03:
        return ""
    if luck < 0.06:
        return whole + whole
    return whole if luck > 0.08 else f"<{name}s>{body}</{name}s>"


def yaml_text(random: Random, make: Callable[[Random], Any]) -> bytes:
    """YAML in flow and block style, with quotes, anchors and comments where they may stand."""
    return ("\n".join(_block(make(random), random, 0)) + "\n").encode("utf-8", "surrogatepass")


def _block(value: Any, random: Random, depth: int) -> list[str]:
    indent = "  " * depth
    if isinstance(value, dict) and value and random.random() < 0.9:
        lines = []
        for key, item in value.items():
            nested = isinstance(item, dict) and item
            text = "" if nested else f" {_flow(item, random)}"
            lines.append(f"{indent}{key}:{text}{random.choice(('', '', ' # note'))}")
            lines += _block(item, random, depth + 1) if nested else []
        return lines
    return [indent + _flow(value, random)]


def _flow(value: Any, random: Random) -> str:
    if isinstance(value, str) and value.isalnum() and random.random() < 0.5:
        return value
    text = json.dumps(value)
    return random.choice((text, text, text, f"&a {text}", f"*a {text}", f"!!str {text}"))
