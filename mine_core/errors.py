"""What a user may be shown when something cannot be done.

Every refusal of this package is a `MineError`: one line that says what was found, what was expected and what to do.
Any other exception is a bug and must surface as one.
"""


class MineError(Exception):
    """A refusal that is meant for the user: found, expected, do this, with numbers, in one line."""


class ConfigError(MineError):
    """A setting that is unknown or out of range."""


class AlignmentError(MineError):
    """Two things that should speak of the same stimuli or voxels, and do not."""


class ArtifactError(MineError):
    """Something in the cache that is missing, cut off or not what its manifest says."""


class SubjectError(MineError):
    """Stimuli, responses or a cortex that cannot be used as given."""


class BackboneError(MineError):
    """A vision-language model that is unknown, absent, or of a kind that a method does not hold for."""


class EncodingError(MineError):
    """An encoding model that cannot be fit or scored on what was given."""


class DescriptionError(MineError):
    """A description that cannot be written, for want of words or of an answer."""


class EditError(MineError):
    """An image edit that cannot be made, or that broke its promise."""


class BatchError(MineError):
    """A batch that cannot run where it was asked to, or lost the machines it ran on."""


class NotebookError(MineError):
    """A pin that cannot be kept, found or made again, or a notebook that cannot be read."""


class Cancelled(MineError):
    """Work that the user stopped; nothing of it was kept."""
