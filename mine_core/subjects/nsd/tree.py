"""Where the files of a local copy of the Natural Scenes Dataset lie, and which of them are there."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from mine_core.errors import SubjectError

Space = Literal["func1pt8mm", "fsaverage"]
AGREEMENT = "NSD Data Access Agreement"
TERMS = "https://cvnlab.slite.page/p/IB6BSeW_7o/Terms-and-Conditions"
HEMISPHERES = ("lh", "rh")
N_SUBJECTS, N_SESSIONS = 8, 40
VERSION = "betas_fithrf_GLMdenoise_RR"
MASK = "nsdgeneral"
REGION_SETS = ("streams", "prf-visualrois", "floc-faces", "floc-bodies", "floc-places", "floc-words")


@dataclass(frozen=True)
class NsdTree:
    """A local copy of the dataset in its published layout, and one subject and space of it.

    References
    ----------
    Allen et al. (2022), 10.1038/s41593-021-00962-x; NSD Data Manual.
    """

    root: Path
    subject: int
    space: Space
    version: str = VERSION

    @property
    def folder(self) -> str:
        """Name of the subject's folders."""
        return f"subj{self.subject:02d}"

    @property
    def design(self) -> Path:
        """Which image was shown in which trial."""
        return self.root / "nsddata/experiments/nsd/nsd_expdesign.mat"

    @property
    def information(self) -> Path:
        """Which image of COCO each stimulus is a part of."""
        return self.root / "nsddata/experiments/nsd/nsd_stim_info_merged.csv"

    @property
    def stimuli(self) -> Path:
        """All images of the experiment."""
        return self.root / "nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5"

    @property
    def betas(self) -> Path:
        """Folder of the responses."""
        return self.root / "nsddata_betas/ppdata" / self.folder / self.space / self.version

    def session_files(self, session: int) -> tuple[Path, ...]:
        """Responses of a session (counted from 1): one volume file, or one of each hemisphere."""
        if self.space == "func1pt8mm":
            return (self.betas / f"betas_session{session:02d}.hdf5",)
        return tuple(self.betas / f"{side}.betas_session{session:02d}.mgh" for side in HEMISPHERES)

    @property
    def ncsnr(self) -> tuple[Path, ...]:
        """Published ratio of signal to noise of each voxel or vertex."""
        if self.space == "func1pt8mm":
            return (self.betas / "ncsnr.nii.gz",)
        return tuple(self.betas / f"{side}.ncsnr.mgh" for side in HEMISPHERES)

    def labels(self, name: str) -> tuple[Path, ...]:
        """Labels of a set of regions: one volume (or one of each hemisphere), or one surface file of each hemisphere."""
        if self.space == "func1pt8mm":
            folder = self.root / "nsddata/ppdata" / self.folder / "func1pt8mm/roi"
            whole = folder / f"{name}.nii.gz"
            halves = tuple(folder / f"{side}.{name}.nii.gz" for side in HEMISPHERES)
            return halves if not whole.is_file() and all(half.is_file() for half in halves) else (whole,)
        return tuple(self.root / f"nsddata/freesurfer/fsaverage/label/{side}.{name}.mgz" for side in HEMISPHERES)

    def table(self, name: str) -> Path:
        """Names of a set's labels: the subject's own table where there is one, else that of fsaverage."""
        own, common = self.tables(name)
        return own if own.is_file() else common

    def tables(self, name: str) -> tuple[Path, Path]:
        """Where names of a set's labels may lie: of the subject, and of fsaverage."""
        own, common = (self.root / f"nsddata/freesurfer/{who}/label/{name}.mgz.ctab" for who in (self.folder, "fsaverage"))
        return own, common

    def sessions(self) -> tuple[int, ...]:
        """Sessions whose responses are there."""
        return tuple(session for session in range(1, N_SESSIONS + 1) if all(path.is_file() for path in self.session_files(session)))

    def region_sets(self) -> tuple[str, ...]:
        """Sets of regions whose labels are there."""
        return tuple(name for name in REGION_SETS if all(path.is_file() for path in self.labels(name)))

    def shown(self, path: Path) -> str:
        """Path as seen from the root, for messages."""
        return path.relative_to(self.root).as_posix()


def open_tree(root: Path, subject: int, space: str, version: str = VERSION) -> NsdTree:
    """Find one subject and space in a local copy of the dataset.

    Raises
    ------
    SubjectError
        If there is no such subject or space, or a file that is needed is not there: the design, the images, the published
        ratios, the mask `nsdgeneral`, or the responses of one session at least, of both hemispheres.
    """
    tree = check_asked(root, subject, space, version)
    if not root.is_dir():
        raise SubjectError(f"There is no folder {root}; give the one that holds nsddata, nsddata_betas and nsddata_stimuli.")
    for path in (tree.design, tree.stimuli, *tree.ncsnr, *tree.labels(MASK)):
        if not path.is_file():
            raise SubjectError(f"There is no {tree.shown(path)} in {root}; copy it there from the published dataset.")
    _check_sessions(tree)
    return tree


def check_asked(root: Path, subject: int, space: str, version: str = VERSION) -> NsdTree:
    """Say where the files of one subject and space lie, there or not; raises SubjectError if there is no such thing."""
    if space not in get_args(Space):
        raise SubjectError(f"Space '{space}' is not read; expected one of {', '.join(get_args(Space))}.")
    if not 1 <= subject <= N_SUBJECTS:
        raise SubjectError(f"Subject {subject} was asked for; the Natural Scenes Dataset has 1 to {N_SUBJECTS}.")
    if not re.fullmatch(r"betas_[A-Za-z_]+", version):
        raise SubjectError(f"'{version}' is no preparation of responses; expected one such as {VERSION}.")
    return NsdTree(root, subject, space, version)  # type: ignore[arg-type]


def _check_sessions(tree: NsdTree) -> None:
    """Refuse a copy without responses, and one in which a session has one hemisphere alone."""
    for session in range(1, N_SESSIONS + 1):
        files = tree.session_files(session)
        missing = [path for path in files if not path.is_file()]
        if missing and len(missing) < len(files):
            raise SubjectError(f"Session {session} lacks {tree.shown(missing[0])}; copy it, or remove the other hemisphere's.")
    if not tree.sessions():
        raise SubjectError(f"No session's responses are in {tree.shown(tree.betas)}; expected {tree.session_files(1)[0].name} and on.")
