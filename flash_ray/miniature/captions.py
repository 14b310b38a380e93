"""Captions of scenes and instructions of edits, exact or as careless as the web's.

Training captions leave attributes out and get some wrong; the benchmark's state all, and rightly.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from flash_ray.miniature.edits import Edit, random_edit
from flash_ray.miniature.scenes import (
    COLOURS,
    EDIT_CATEGORIES,
    FACTORS,
    SLOTS,
    T2I_CATEGORIES,
    Scene,
    named_values,
    random_scene,
)

WRONG = {"t2i": 0.1, "edit": 0.35}  # share of what careless captions, instructions state wrongly
OMITTED = 0.15  # share of attributes that captions leave out

_WEARS = {"nothing": "nothing on the head", "glasses": "glasses", "hat": "a hat"}
_MOUTH = {"smile": "smiling", "frown": "frowning", "open": "with an open mouth"}
_STYLE = {
    "sepia": "an old sepia photo",
    "negative": "a negative",
    "tiled": "a tiled mosaic",
    "hatched": "a hatched drawing",
}
_PATTERN = {"plain": "plain", "stripes": "striped", "dots": "dotted", "checks": "checked"}


_SLOT = {"left": "on the left", "middle": "in the middle", "right": "on the right"}


def _place(scene: Scene) -> str:
    """Where the person or the word is, from the unstated numbers x and y."""
    x, y = scene.factors["x"], scene.factors["y"]
    row = "at the top" if y < 0.4 else "at the bottom" if y > 0.6 else ""
    return f"{row} {_SLOT['left' if x < 0.5 else 'right']}"


def careless(scene: Scene, rng: np.random.Generator, wrong: float) -> Scene:
    """The scene as a careless writer sees it: each stated factor wrong with probability `wrong`."""
    changes = {}
    for factor in FACTORS[scene.category]:
        if factor.values is None or factor.name == "style" or rng.random() >= wrong:
            continue
        lowest = 1 if factor.name in SLOTS else 0  # an object is mistaken, not overlooked
        if scene.factors[factor.name] >= lowest:
            others = [
                i for i in range(lowest, len(factor.values)) if i != scene.factors[factor.name]
            ]
            changes[factor.name] = int(rng.choice(others))
    return scene.with_(**changes)


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def caption(
    scene: Scene, rng: np.random.Generator, omitted: float = 0.0, placed: float = 0.0
) -> str:
    """Describes a scene.

    Args:
        omitted: probability to leave an attribute out, each by itself.
        placed: probability to say, besides, where things stand, which are unstated factors.
    """

    def said(text: str) -> str:
        return text if rng.random() >= omitted else ""

    places = bool(placed) and rng.random() < placed

    def clean(text: str) -> str:
        return " ".join(text.replace(" ,", ",").split())

    value = scene.value
    if scene.category == "landscape":
        things = [
            f"a {said(colour)} {kind} {_SLOT[slot] if places else ''}"
            for colour, kind, slot in rng.permutation(scene.placed_objects).tolist()
        ]
        things = [thing for thing in things if rng.random() >= omitted]
        where = said(f"a {value('sky')} sky"), said(f"over {value('ground')}")
        held = f"with {_listed(things)}" if things else ""
        return clean(f"a landscape, {where[0]} {where[1]} {held}")
    place = _place(scene) if places else ""
    if scene.category == "portrait":
        hair = f"{said(value('hair'))} {said(value('hair_colour'))} hair"
        wears = said(f"wearing {_WEARS[value('wears')]},")
        shirt = said(f"in a {value('shirt')} shirt,")
        mouth = said(f"{_MOUTH[value('mouth')]},")
        backdrop = said(f"before a {value('backdrop')} wall")
        person = f"a person {place} with {hair}"
        return clean(f"a portrait of {person}, {wears} {shirt} {mouth} {backdrop}")
    word = f"the word {scene.word}" if said("word") else "a word"
    board = f"on a {said(_PATTERN[value('pattern')])} {said(value('board'))} board"
    return clean(f"a sign with {word} {place} in {said(value('ink'))} letters {board}")


def careless_caption(scene: Scene, rng: np.random.Generator) -> str:
    """A caption as on the web: attributes are left out, and some of the others are wrong."""
    return caption(careless(scene, rng, WRONG["t2i"]), rng, OMITTED)


def thorough_caption(scene: Scene, rng: np.random.Generator) -> str:
    """A caption with nothing wrong, that half of the time says where things stand."""
    return caption(scene, rng, OMITTED, placed=0.5)


def _thing(scene: Scene, slot: str, rng: np.random.Generator, wrong: float) -> str:
    """Names an object of a landscape and its place, each value wrong with probability `wrong`."""
    seen, place = scene, slot
    if wrong:  # else nothing is drawn from rng: the benchmark's cases stay what they were
        seen = careless(scene, rng, wrong)
        place = str(rng.choice([s for s in SLOTS if s != slot])) if rng.random() < wrong else slot
    return f"the {seen.value(f'{slot}_colour')} {seen.value(slot)} {_SLOT[place]}"


def instruction(edit: Edit, rng: np.random.Generator, wrong: float = 0.0) -> str:
    """Says what an edit asks; each value it states is wrong with probability `wrong`."""
    what, which = edit.operation
    target = edit.target
    seen = careless(target, rng, wrong)
    if what == "restore":
        return f"restore this {which} picture"
    if what in ("add", "remove", "recolour"):
        if what == "add":
            return f"add a {seen.value(f'{which}_colour')} {seen.value(which)}"
        thing = _thing(edit.source, which, rng, wrong)
        if what == "remove":
            return f"remove {thing}"
        return f"paint {thing} {seen.value(f'{which}_colour')}"
    if what == "write":
        return f"change the word to {seen.word}"
    if which == "style":
        style = int(target.factors["style"])
        if rng.random() < wrong:
            style = int(rng.choice([i for i in range(1, 5) if i != style]))
        return f"make it {_STYLE[named_values(target.category, 'style')[style]]}"
    value = seen.value(which)
    return {
        "sky": f"make it a {value} sky",
        "ground": f"turn the ground into {value}",
        "backdrop": f"put a {value} wall behind the person",
        "board": f"make the board {value}",
        "pattern": f"make the board {_PATTERN.get(value, '')}",
        "ink": f"make the letters {value}",
        "hair_colour": f"give the same person {value} hair",
        "hair": f"give the same person {value} hair",
        "wears": f"show the same person wearing {_WEARS.get(value, '')}",
        "shirt": f"show the same person in a {value} shirt",
        "mouth": f"show the same person {_MOUTH.get(value, '')}",
    }[which]


def corpus(count: int, seed: int = 0) -> Iterator[str]:
    """Captions and instructions to train a tokenizer on."""
    rng = np.random.default_rng(seed)
    yield from COLOURS
    for index in range(count):
        scene = random_scene(T2I_CATEGORIES[index % 3], rng)
        yield caption(scene, rng)
        yield instruction(random_edit(EDIT_CATEGORIES[index % 6], rng), rng)
