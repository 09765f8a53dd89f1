"""What the user is looking at, kept in the URL so that a link restores the view; typed, and refused when it makes no sense."""

from dataclasses import asdict, dataclass, replace
from typing import Any

import streamlit as st

from mine_core.config import InstrumentConfig
from mine_core.errors import ConfigError

MAPS = {
    "normalised": "Normalised accuracy",
    "accuracy": "Accuracy (held-out r)",
    "ceiling": "Noise ceiling",
    "group": "Preferred group",
    "image": "Response to the selected image",
}
EDITS = ("", "remove", "insert")
ASKED = ("", "test")


@dataclass(frozen=True)
class View:
    """Subject, phantom seed, backbone, map, voxel, image, kind of edit, texts looked for and not, region, unit and pin in view.

    `ask` says what is asked of the text on the Search page: which voxels go with it, or ("test") of which it is the cause.
    -1 or empty where none is chosen. A pin stands for the edit that it holds, until anything else in the view changes.
    """

    subject: str = "phantom"
    seed: int = 0
    backbone: str = "phantom"
    map: str = "normalised"
    voxel: int = -1
    image: int = -1
    edit: str = ""
    find: str = ""
    minus: str = ""
    ask: str = ""
    region: str = ""
    unit: str = ""
    pin: int = -1

    def config(self) -> InstrumentConfig:
        """Settings of the instrument in view."""
        return InstrumentConfig(self.subject, self.seed, self.backbone)


def _whole(values: Any, name: str, default: int) -> int:
    text = values.get(name)
    if text is None:
        return default
    if not text.lstrip("-").isdecimal():
        raise ConfigError(f"The link has {name}={text!r}; expected a whole number. Open the app without it.")
    return int(text)


def current_view() -> View:
    """Read the view from the URL; raises ConfigError if a value there makes no sense."""
    values, default = st.query_params, View()
    chosen = values.get("map", default.map)
    if chosen not in MAPS:
        raise ConfigError(f"The link asks for map '{chosen}'; there are {', '.join(MAPS)}.")
    edit = values.get("edit", default.edit)
    if edit not in EDITS:
        raise ConfigError(f"The link asks for edit '{edit}'; there are remove and insert.")
    ask = values.get("ask", default.ask)
    if ask not in ASKED:
        raise ConfigError(f"The link asks for '{ask}' of a text; there is test, or nothing.")
    return View(
        subject=values.get("subject", default.subject),
        seed=_whole(values, "seed", default.seed),
        backbone=values.get("backbone", default.backbone),
        map=chosen,
        voxel=_whole(values, "voxel", default.voxel),
        image=_whole(values, "image", default.image),
        edit=edit,
        find=values.get("find", default.find),
        minus=values.get("minus", default.minus),
        ask=ask,
        region=values.get("region", default.region),
        unit=values.get("unit", default.unit),
        pin=_whole(values, "pin", default.pin),
    )


def set_view(**changes: Any) -> View:
    """Change the view and the URL; keys whose value is the default leave the URL."""
    view, default = replace(current_view(), **{"pin": View().pin, **changes}), asdict(View())
    values = {name: str(value) for name, value in asdict(view).items() if value != default[name]}
    if dict(st.query_params) != values:
        st.query_params.from_dict(values)
    return view
