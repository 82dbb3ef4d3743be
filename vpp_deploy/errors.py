"""Every error that vpp_deploy raises for a user's mistake or a user's machine.

    VppDeployError
    ├── RecipeError        a recipe, or a setting that contradicts another
    ├── CheckpointError    a checkpoint that cannot be read or does not fit
    ├── ExportError        a graph that cannot be exported, linted or verified
    ├── BundleError        a bundle that is damaged, foreign or of another version
    ├── EngineError        an engine that cannot be built, or not be loaded on this machine
    ├── BackendError       a runtime library or device that is not there
    ├── VideoError         a video that cannot be opened, read or written
    ├── ResumeError        a run that cannot be gone on with
    ├── DatasetError       a labelled dataset that cannot be read, or does not fit the model
    └── ProfileError       a profile that cannot be taken or written

The message is one line: what was got, what was expected, what to do. The command line prints it
and leaves with exit code 1. Anything else that is raised is a bug and keeps its traceback.
"""


class VppDeployError(Exception):
    """Base of every error that a user can mend."""


class RecipeError(VppDeployError):
    """A recipe is malformed, incomplete, or contradicts the checkpoint."""


class CheckpointError(VppDeployError):
    """A checkpoint cannot be read, is not safe to read, or does not fit the model."""


class ExportError(VppDeployError):
    """A stage cannot be exported, or its graph fails the lint or the verification."""


class BundleError(VppDeployError):
    """A bundle's manifest, hash, schema or graph is not what it must be."""


class EngineError(VppDeployError):
    """An engine cannot be built, or is another GPU's, another version's or somebody else's."""


class BackendError(VppDeployError):
    """A runtime library, execution provider or device is not available."""


class VideoError(VppDeployError):
    """A video or image folder cannot be opened, read or written."""


class ResumeError(VppDeployError):
    """The saved state of a run is missing, damaged, or another run's."""


class DatasetError(VppDeployError):
    """A dataset's labels or images are missing, damaged, or of other classes than the model's."""


class ProfileError(VppDeployError):
    """A profile cannot be taken or written."""


def printable(text: str) -> str:
    """On one line and without control characters, which a file or its name may have brought in."""
    return "".join(c if c.isprintable() else " " for c in " ".join(text.split()))
