"""Draw: bytes that a fuzzer chooses -> numbers, words, damaged files; where they end all is 0, the valid case."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar('T')

INTEGERS = (0, 1, -1, 2, 255, 256, 2**15, 2**16 - 1, 2**31 - 1, -(2**31), 2**32 - 1, 2**63 - 1, -(2**63), 2**64)
FLOATS = (
    0.0, 1.0, -1.0, 0.5, 1e-3, 1e9, float('nan'), float('inf'), float('-inf'), 1e-300, 1e300, -0.0, 5e-324, 1.7e308,
)  # fmt: skip
WORDS = (
    '', '0', '-1', '1e9', 'nan', 'inf', '1e999999999', '٣', '²', 'ä', '\x00', '../..', '/etc/passwd', 'a' * 300, '.',
    '%s', '{}', '\ud800', '\u202e', '~', '-', '--', '#', '"', '[', ',', 'null', 'true', '9' * 5000, 'rgb8', 'map',
)  # fmt: skip


class Draw:
    """Takes choices from the front of some bytes.

    Args:
        data: what decides; the same bytes give the same choices.
    """

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def byte(self) -> int:
        at = self._at
        self._at = at + 1
        return self._data[at] if at < len(self._data) else 0

    def bytes(self, count: int) -> bytes:
        """So many; fewer where they end."""
        taken = self._data[self._at : self._at + count]
        self._at += len(taken)
        return taken

    def rest(self) -> bytes:
        return self.bytes(len(self._data))

    def flag(self) -> bool:
        return bool(self.byte() & 1)

    def choice(self, options: Sequence[T]) -> T:
        return options[self.byte() % len(options)]

    def below(self, bound: int) -> int:
        """0 to bound - 1."""
        if bound <= 256:
            return self.byte() % bound
        return int.from_bytes(self.bytes(4), 'little') % bound

    def mostly(self, valid: T, strange: Sequence[T]) -> T:
        """The valid value, or at one time in four one of the others."""
        choice = self.byte()
        return strange[self.byte() % len(strange)] if choice & 3 == 3 else valid

    def integer(self, valid: int, low: int | None = None, high: int | None = None) -> int:
        """The valid one, or another that a field of these bounds can hold."""
        how = self.byte() & 7
        if how < 5:
            return valid
        value = valid + self.byte() - 128 if how == 5 else INTEGERS[self.byte() % len(INTEGERS)]
        if how == 7:
            value = int.from_bytes(self.bytes(8), 'little', signed=True)
        if low is not None and high is not None and not low <= value <= high:
            value = low + value % (high - low + 1)
        return value

    def number(self, valid: float) -> float:
        how = self.byte() & 7
        if how < 5:
            return valid
        if how == 5:
            return valid * (self.byte() - 128) / 16
        if how == 6:
            return FLOATS[self.byte() % len(FLOATS)]
        return float(struct.unpack('<d', self.bytes(8).ljust(8, b'\0'))[0])

    def numbers(self, valid: Sequence[float]) -> list[float]:
        return [self.number(one) for one in valid]

    def word(self, valid: str) -> str:
        how = self.byte() & 7
        if how < 5:
            return valid
        if how == 5:
            return WORDS[self.byte() % len(WORDS)]
        if how == 6:
            at = self.below(len(valid) + 1)
            return valid[:at] + WORDS[self.byte() % len(WORDS)] + valid[at + self.below(4) :]
        return self.bytes(self.below(24)).decode('utf-8', 'replace')

    def damaged(self, valid: bytes) -> bytes:
        """A copy with some places changed, cut out, doubled or cut off."""
        data = bytearray(valid)
        for _ in range(self.below(6)):
            at, how = self.below(max(len(data), 257)) % max(len(data), 1), self.byte() % 8
            if how < 3:
                data[at : at + 1] = bytes([self.byte()])
            elif how == 3:
                edge = INTEGERS[self.byte() % len(INTEGERS)] & (2**64 - 1)
                data[at : at + 8] = edge.to_bytes(8, 'little')[: self.choice((4, 8, 2, 1))]
            elif how == 4:
                del data[at : at + 1 + self.below(64)]
            elif how == 5:
                data[at:at] = self.bytes(self.below(16))
            elif how == 6:
                data[at:at] = data[at : at + self.below(64)]
            else:
                del data[at:]
        return bytes(data)

    def text(self, valid: str) -> str:
        """A file of words: lines doubled, dropped, and words replaced."""
        lines = valid.splitlines()
        for _ in range(self.below(5)):
            at, how = self.below(max(len(lines), 1)), self.byte() % 4
            if not lines or how == 0:
                lines.insert(at, self.word(lines[at] if lines else ''))
                continue
            words = lines[at].split(' ')
            place = self.below(len(words))
            if how == 1:
                words[place] = self.word(words[place])
            elif how == 2:
                words[place : place + 1] = [WORDS[self.byte() % len(WORDS)]] * self.below(3)
            else:
                words[place] = repr(self.number(1.0))
            lines[at] = ' '.join(words)
        return '\n'.join(lines)

    def value(self, valid: object, depth: int = 0) -> object:
        """What JSON can hold, like the valid one but for some places."""
        how = self.byte()
        if how & 15 == 15 and depth < 3:
            return self._any(depth)
        if isinstance(valid, dict):
            result = {key: self.value(one, depth + 1) for key, one in valid.items()}
            if how & 15 == 14 and result:
                del result[self.choice(list(result))]
            elif how & 15 == 13:
                result[self.word('more')] = self._any(depth)
            return result
        if isinstance(valid, list):
            return [self.value(one, depth + 1) for one in valid][: None if how & 15 < 13 else self.below(4)]
        if how & 15 < 11 or isinstance(valid, bool) or valid is None:
            return valid
        if isinstance(valid, int):
            return self.integer(valid)
        return self.number(valid) if isinstance(valid, float) else self.word(str(valid))

    def _any(self, depth: int) -> object:
        numbers = (0, -1, 10**9, 10**30, 1.5, float('nan'), float('inf'))
        return self.choice((None, True, *numbers, '', 'word', [], {}, [1, [2]], {'a': None}))
