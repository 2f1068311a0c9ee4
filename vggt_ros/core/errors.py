"""The exceptions we raise; an adapter turns them into a log line, an exit code or a page."""


class VggtRosError(Exception):
    """Base of every error of this package; its text says what was expected, what came, and the way out."""


class ConfigError(VggtRosError, ValueError):
    """A setting is out of range, unknown, or contradicts another."""


class EncodingError(VggtRosError, ValueError):
    """An image message cannot be turned into RGB pixels."""


class ShapeError(VggtRosError, ValueError):
    """An array does not have the shape or type its function needs."""


class PredictionError(VggtRosError):
    """The network failed on a window; that window is lost, the stream goes on."""


class OutOfMemoryError(PredictionError):
    """The network needs more memory for a window than is free; a smaller one may fit."""


class GaveUpError(VggtRosError):
    """The network failed for good, and again after a new start: this process can do no more."""


class SourceError(VggtRosError):
    """A bag, video, image folder or topic cannot be read, or holds no frames."""


class OutputError(VggtRosError):
    """A result cannot be written; what was written before is kept."""


class TrajectoryError(VggtRosError, ValueError):
    """Two trajectories cannot be compared."""
