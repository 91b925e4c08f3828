"""Several opinions on one decision become one probability, by weights that follow what comes.

Owns the mixing. Does not know where opinions come from.
"""

from __future__ import annotations

from collections.abc import Sequence

from llmzip.codecs.log_odds import MAX_ODDS, ONES_BITS, SQUASH

NUM_INPUTS = 7  # the model's log-odds, a constant, four orders of counts, a match
CONSTANT = 307  # the constant input, in units of 1 / NAT
_ONE = 1 << 16  # a weight of 1
_MODEL_WEIGHT, _OTHER_WEIGHT = _ONE, 9830  # first weights: 0.15, for counts add little at first
_RATE_SHIFT = 26  # 16 bits of the error, 10 of an input's unit
_FIRST_RATE, _LAST_RATE = 1966, 197  # of the weights, in 2^-16: 0.03 and 0.003
_SLOWING_TOKENS = 200
_NODE_GAIN = 12  # a node is met so seldom that its own weights must learn faster
_LAST_MIX_RATE = 13


class Mixer:
    """The weights of one segment."""

    def __init__(self, num_last: int) -> None:
        """num_last: sets of weights of the last mixer."""
        self._sets: dict[int, list[int]] = {}
        self._last = [[_ONE // 4] * 4 for _ in range(num_last)]
        self._rate = self._node_rate = 0
        self._inputs: Sequence[int] = ()
        self._only_model = True
        self._weights: list[list[int]] = []
        self._dots: list[int] = []
        self._last_weights: list[int] = []
        self._ones = 0
        self.pace(0)

    def pace(self, num_tokens: int) -> None:
        """Learn at the rate of a segment in which so many tokens were coded."""
        extra = (_FIRST_RATE - _LAST_RATE) * _SLOWING_TOKENS // (_SLOWING_TOKENS + num_tokens)
        self._rate = _LAST_RATE + extra
        self._node_rate = self._rate * _NODE_GAIN

    def mix(self, inputs: Sequence[int], sets: tuple[int, int, int, int], last: int) -> int:
        """The probability that the bit is 1, in units of 2^-24.

        inputs: NUM_INPUTS log-odds. sets: which weights, one set a mixer, the last one's being that
        of a node; numbers must not repeat between mixers.
        """
        x, c, a0, a1, a2, a3, m = self._inputs = inputs
        self._only_model = not (a0 or a1 or a2 or a3 or m)
        known = self._sets
        weights = self._weights = [
            known.get(number) or known.setdefault(number, _first_weights()) for number in sets
        ]
        dots: list[int] = []
        self._dots = dots
        for w in weights:
            if self._only_model:
                dot = w[0] * x + w[1] * c >> 16
            else:
                dot = (
                    w[0] * x + w[1] * c + w[2] * a0 + w[3] * a1 + w[4] * a2 + w[5] * a3 + w[6] * m
                ) >> 16
            dots.append(MAX_ODDS if dot > MAX_ODDS else -MAX_ODDS if dot < -MAX_ODDS else dot)
        v = self._last_weights = self._last[last]
        dot = v[0] * dots[0] + v[1] * dots[1] + v[2] * dots[2] + v[3] * dots[3] >> 16
        self._ones = SQUASH[
            2 * MAX_ODDS if dot > MAX_ODDS else 0 if dot < -MAX_ODDS else dot + MAX_ODDS
        ]
        return self._ones

    def learn(self, bit: int) -> None:
        """Follow what came after `mix`."""
        truth = bit << ONES_BITS
        rate = self._rate
        half = 1 << _RATE_SHIFT - 1
        x, c, a0, a1, a2, a3, m = self._inputs
        for index, w in enumerate(self._weights):
            if index == 3:
                rate = self._node_rate
            step = (truth - SQUASH[self._dots[index] + MAX_ODDS] >> 8) * rate
            w[0] += step * x + half >> _RATE_SHIFT
            w[1] += step * c + half >> _RATE_SHIFT
            if not self._only_model:
                w[2] += step * a0 + half >> _RATE_SHIFT
                w[3] += step * a1 + half >> _RATE_SHIFT
                w[4] += step * a2 + half >> _RATE_SHIFT
                w[5] += step * a3 + half >> _RATE_SHIFT
                w[6] += step * m + half >> _RATE_SHIFT
        step = (truth - self._ones >> 8) * _LAST_MIX_RATE
        v = self._last_weights
        for index, dot in enumerate(self._dots):
            v[index] += step * dot + half >> _RATE_SHIFT


def _first_weights() -> list[int]:
    return [_MODEL_WEIGHT, 0] + [_OTHER_WEIGHT] * (NUM_INPUTS - 2)
