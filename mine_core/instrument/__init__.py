"""A subject, its backbone, features, encoding model and words as one thing that the app and the command line open."""

from mine_core.instrument.build import build_instrument, is_built, open_instrument
from mine_core.instrument.instrument import Instrument

__all__ = ["Instrument", "build_instrument", "is_built", "open_instrument"]
