"""The exceptions of tf2, which the real tf2_ros re-exports from tf2_py."""


class TransformException(Exception):  # noqa: N818 (the name is tf2's)
    """Base of everything a lookup raises."""


class ConnectivityException(TransformException):
    """Both frames are known but no chain of transforms joins them."""


class LookupException(TransformException):
    """A frame is unknown, or the chain of parents closes on itself."""


class ExtrapolationException(TransformException):
    """The frames are joined, but not at the time asked for."""


class InvalidArgumentException(TransformException):
    """A frame name is empty or starts with a slash."""


class TimeoutException(TransformException):
    """Part of the public names; a lookup that waits in vain raises the reason instead, as in tf2."""
