"""A notebook as a Python script that makes each figure and each number again by calling the core's functions.

Nothing that a user typed becomes code: every value is written by `repr`, and titles only behind a comment sign.
"""

from collections.abc import Sequence
from pprint import pformat

from mine_core.notebook.again import method_of, own_words_of, request_from
from mine_core.notebook.findings import N_TOP
from mine_core.notebook.maps import map_of
from mine_core.notebook.records import Pin

HEAD = '''\
"""Makes the figures and numbers of {n} pinned findings again, and says whether the numbers are still those that were pinned.

Written by MINE. Run it in MINE's folder with the Python that MINE runs with; the first argument is the folder for the figures:

    python THIS_SCRIPT figures

It reads the cache (`cache/`, or the folder named by MINE_CACHE) and builds there what is missing. Ends with 1 if a number differs.
Everything here is predicted by a model that was fit to recordings; it was not recorded, unless it is called measured.
"""

import json
import sys
from functools import cache, partial
from pathlib import Path

sys.path.insert(0, str(Path.cwd()))

import numpy as np

from mine_core.artifacts import ArtifactStore
from mine_core.config import InstrumentConfig, cache_directory
from mine_core.instrument import build_instrument
from mine_core.instrument.explain import explain_images, explain_voxel
from mine_core.instrument.own_words import with_own_words
from mine_core.instrument.second import build_second
from mine_core.instrument.trials import EditRequest, run_trial
from mine_core.instrument.wanting import full_profile
from mine_core.notebook.findings import find_edit, find_image, find_voxel, heat_by
from mine_core.notebook.maps import AskedMap, map_now
from mine_core.notebook.records import Number

STORE = ArtifactStore(cache_directory())


@cache
def instrument(subject, seed, backbone, own_words=()):
    return with_own_words(build_instrument(InstrumentConfig(subject, seed, backbone), STORE), STORE, own_words)


@cache
def second_encoder(subject, seed, backbone):
    return build_second(InstrumentConfig(subject, seed, backbone), STORE)
'''

TAIL = """

def main():
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "figures")
    folder.mkdir(parents=True, exist_ok=True)
    made, n_differ = {}, 0
    for number, (name, make, pinned) in PINS.items():
        found = make()
        (folder / f"{name}.png").write_bytes(found.draw())
        now = {each.name: each.value for each in found.numbers}
        made[number] = now
        differ = [
            each for each in dict.fromkeys([*pinned, *now])
            if each not in pinned or each not in now or not Number(each, pinned[each]).same(Number(each, now[each]))
        ]
        n_differ += len(differ)
        print(f"pin {number}: {len(pinned) - len(differ)} of {len(pinned)} numbers as pinned, {name}.png")
        for each in differ:
            print(f"    {each}: {pinned.get(each, 'absent')} pinned, {now.get(each, 'absent')} now")
    (folder / "numbers.json").write_text(json.dumps(made, indent=2, ensure_ascii=False) + "\\n", encoding="utf-8")
    return 1 if n_differ else 0


if __name__ == "__main__":
    sys.exit(main())
"""


def write_script(pins: Sequence[Pin]) -> str:
    """Write the script of some pins; raises NotebookError if one of them cannot be read."""
    rows = [f"    {pin.id}: ({f'pin-{pin.id:03d}-{pin.kind}'!r}, pin_{pin.id}, PINNED_{pin.id}),\n" for pin in pins]
    table = "\n\nPINS = {\n" + "".join(rows) + "}\n"
    return HEAD.format(n=len(pins)) + "".join(_pin(pin) for pin in pins) + table + TAIL


def _pin(pin: Pin) -> str:
    pinned = pformat({number.name: number.value for number in pin.numbers}, width=110, sort_dicts=False)
    lines = "".join(f"    {line}\n" for line in _calls(pin))
    head = f"# Pin {pin.id}, pinned {pin.created!r}: {pin.title!r}"
    return f"\n\n{head}\ndef pin_{pin.id}():\n{lines}\n\nPINNED_{pin.id} = {pinned}\n"


def _calls(pin: Pin) -> list[str]:
    config, own = pin.config, own_words_of(pin)
    named = f"{config.subject!r}, {config.seed!r}, {config.backbone!r}"
    opened = f"mine = instrument({named}, {own!r})" if own else f"mine = instrument({named})"
    voxel, image = pin.voxel, pin.image
    if pin.kind == "voxel":
        return [
            opened,
            f"profile = full_profile(mine, {voxel!r})",
            f"heat = heat_by(mine, STORE, {method_of(pin)!r}, {voxel!r})",
            f"top = partial(explain_voxel, mine, {voxel!r}, n={N_TOP}, heat=heat)",
            "return find_voxel(mine, profile, top)",
        ]
    if pin.kind == "image":
        method = method_of(pin)
        return [
            opened,
            f"heat = heat_by(mine, STORE, {method!r}, {voxel!r})",
            f"item = explain_images(mine, {voxel!r}, np.array([{image!r}]), heat)[0]",
            f"return find_image(mine, {voxel!r}, item, {method!r})",
        ]
    if pin.kind == "map":
        return [
            opened,
            f"return map_now(mine, STORE, {map_of(pin)!r}, {voxel!r})",
        ]
    request = request_from(pin.settings.get("request", {}))
    return [
        opened,
        f"second = second_encoder({named})" if pin.settings.get("second") else "second = None",
        f"request = {request!r}",
        "trial = run_trial(mine, request, second)",
        "return find_edit(mine, request, trial, second)",
    ]
