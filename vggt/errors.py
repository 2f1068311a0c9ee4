"""The exceptions that this package raises, each with what was expected, what came, and the way out."""


class VGGTError(Exception):
    """Base of every error that is ours."""


class ConfigError(VGGTError, ValueError):
    """A configuration that no network can be built from."""


class InputError(VGGTError, ValueError):
    """Images, query points or cameras that the network cannot take."""


class CheckpointError(VGGTError):
    """Weights that are missing, damaged, gated, or not those of a VGGT."""


class CompileError(VGGTError):
    """A network that torch could not compile; it runs on without."""
