"""core.config <-> declared ROS parameters: every setting under its public name, with its sentence and its bounds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import rclpy
from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.context import Context
from rclpy.exceptions import (
    InvalidParameterTypeException,
    InvalidParameterValueException,
    ParameterUninitializedException,
)
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.utilities import remove_ros_args

from vggt_ros.core.config import Config, Setting, settings
from vggt_ros.core.errors import ConfigError


def initialise(args: list[str] | None = None, context: Context | None = None) -> None:
    """Bring ROS up.

    Raises:
        ConfigError: it does not take the arguments, or a parameter file that they name.
    """
    with _refused_in_words():
        rclpy.init(args=args, context=context)


def without_ros_args(args: list[str]) -> list[str]:
    """What of a command line is not for ROS, the program's name left out.

    Raises:
        ConfigError: as initialise.
    """
    with _refused_in_words():
        return remove_ros_args(args)[1:]


@contextmanager
def _refused_in_words() -> Iterator[None]:
    try:
        yield
    except (RuntimeError, ValueError, TypeError) as error:  # of the parser of rcl, and of rclpy
        raise ConfigError(f'ROS does not take the arguments or their parameter file: {error}') from error


class Parameters:
    """The settings of one node as ROS parameters.

    Values come from the command line, a parameter file or the launch file, else from core.config. A running node takes
    new values of the dynamic ones; whoever uses them asks `config` again when it suits, so no change is half done.

    Args:
        node: the node to declare them on.

    Raises:
        ConfigError: a given value has the wrong type, is out of range, or contradicts another.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._settings = tuple(settings())
        self._names = tuple(one.name for one in self._settings)
        for one in self._settings:
            self._declare(one)
        self._dynamic = tuple(one.name for one in self._settings if one.dynamic)  # the others are read-only
        self._last = self._check(())
        self._known = self._values(self._dynamic)
        node.add_on_set_parameters_callback(self._on_set)

    @property
    def config(self) -> Config:
        """All settings as they stand now."""
        values = self._values(self._dynamic)
        if values != self._known:
            self._last, self._known = self._last.with_values(values), values
        return self._last

    def _declare(self, one: Setting) -> None:
        try:
            self._node.declare_parameter(one.name, one.default, describe(one))
        except InvalidParameterTypeException as error:
            hint = '; a double needs its decimal point, such as 1.0' if one.kind is float else ''
            raise ConfigError(f'parameter {one.name} must be of type {one.kind.__name__}{hint} ({error})') from error
        except InvalidParameterValueException as error:
            raise ConfigError(f'parameter {error}') from error

    def _values(self, names: Sequence[str]) -> dict[str, bool | int | float | str]:
        try:
            return {parameter.name: parameter.value for parameter in self._node.get_parameters(list(names))}
        except ParameterUninitializedException as error:  # it stands in the file without one
            raise ConfigError(f'a parameter has no value: {error}; give it one, or leave it out') from error

    def _check(self, changes: Iterable[Parameter]) -> Config:
        values = self._values(self._names)
        values.update({change.name: change.value for change in changes if change.name in values})
        return Config().with_values(values)

    def _on_set(self, changes: list[Parameter]) -> SetParametersResult:
        """Say whether the settings would still make sense together; the change itself is not acted upon here."""
        try:
            self._check(changes)
        except ConfigError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)


def describe(one: Setting) -> ParameterDescriptor:
    """What `ros2 param describe` and rqt_reconfigure show of a setting."""
    descriptor = ParameterDescriptor(
        name=one.name, description=one.help, read_only=not one.dynamic, additional_constraints=_constraints(one)
    )
    # Open bounds and one-sided ranges cannot be said in a range; `_check` enforces those.
    if one.at_least is not None and one.at_most is not None:
        if one.kind is int:
            descriptor.integer_range = [IntegerRange(from_value=int(one.at_least), to_value=int(one.at_most), step=0)]
        else:
            bounds = FloatingPointRange(from_value=float(one.at_least), to_value=float(one.at_most), step=0.0)
            descriptor.floating_point_range = [bounds]
    return descriptor


def _constraints(one: Setting) -> str:
    said = [
        f'one of {", ".join(one.one_of)}' if one.one_of else '',
        f'above {one.above:g}' if one.above is not None else '',
        f'at least {one.at_least:g}' if one.at_least is not None else '',
        f'at most {one.at_most:g}' if one.at_most is not None else '',
    ]
    return ', '.join(part for part in said if part)
