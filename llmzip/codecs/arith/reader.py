"""The language model's passes over a segment: all known tokens at once, or each lane a token at a
time, with the same things before each token.

Owns what stands before a lane ([opening | prefix]) and when a lane forgets.
Does not know how decisions are coded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from llmzip.codecs.arith.segments import BLOCK_TOKENS, Lanes
from llmzip.codecs.token_odds import Floats, TokenOdds
from llmzip.lm.layout import pad_ids
from llmzip.lm.model import FrozenLM
from llmzip.lm.state import State, stack_states

_TOKENS_AT_ONCE = {"cpu": 1024, "cuda": 1 << 15, "mps": 4096}
_ROWS_OF_LOGITS = {"cpu": 64, "cuda": 1024, "mps": 64}


class Reader:
    """Reads segments that share an opening and a window."""

    def __init__(
        self, lm: FrozenLM, token_odds: TokenOdds, opening: Tensor, *, window_tokens: int
    ) -> None:
        self._lm, self._token_odds = lm, token_odds
        self._opening, self._window = opening, window_tokens

    @torch.no_grad()
    def known_odds(
        self,
        lanes: Lanes,
        ids: Sequence[int],
        *,
        on_tokens: Callable[[int], None] = lambda num_tokens: None,
    ) -> Floats:
        """Log-odds at every decision on the way to every token of a segment: [N, depth]. on_tokens:
        gets how many tokens are read so far, and may raise to end the reading."""
        odds = np.zeros((len(ids), self._token_odds.tree.depth))
        prefix = list(ids[: lanes.prefix_tokens])
        hidden, state, last = self._read_prefix(prefix)
        self._note(odds, 0, hidden, prefix)
        rows = max(1, _TOKENS_AT_ONCE[self._lm.device.type] // BLOCK_TOKENS)
        num_read = len(prefix)
        for begin in range(0, len(lanes.spans), rows):
            some = lanes.spans[begin : begin + rows]
            for num_new in self._read_lanes(odds, some, ids, state, last):
                num_read += num_new
                on_tokens(num_read)
        return odds

    def _read_prefix(self, prefix: list[int]) -> tuple[Tensor, State, Tensor]:
        """Hidden rows that predict the prefix, the state behind it, and the row that predicts what
        comes next; no row where nothing stands before the text."""
        lm = self._lm
        ids = torch.tensor([prefix], dtype=torch.int64, device=lm.device)
        embeds = torch.cat([self._opening, lm.embed(ids)], dim=1)  # [1, H + P, D]
        live = torch.ones(embeds.shape[:2], dtype=torch.bool, device=lm.device)
        hidden, state = lm.extend(lm.empty(1), embeds, live)
        first = self._opening.shape[1] - 1
        predicting = hidden[0, max(first, 0) : hidden.shape[1] - 1] if prefix else hidden[0, :0]
        return predicting, state, hidden[0, -1:]

    def _read_lanes(
        self,
        odds: Floats,
        spans: Sequence[tuple[int, int]],
        ids: Sequence[int],
        state: State,
        last: Tensor,
    ) -> Iterator[int]:
        """Write the odds of some lanes, block by block; gives the number of tokens in each."""
        lm = self._lm
        longest = max(end - start for start, end in spans)
        head = state.num_slots
        slots = head + min(longest, self._window + BLOCK_TOKENS)
        running = stack_states([state] * len(spans), room_slots=slots)
        before = last[None].expand(len(spans), -1, -1)  # [R, 1, Dh], or [R, 0, Dh]
        for block in range(0, longest, BLOCK_TOKENS):
            running = _forget(running, head, block, self._window)
            parts = [ids[a + block : min(a + block + BLOCK_TOKENS, b)] for a, b in spans]
            row_ids, live = pad_ids(parts, lm.device)
            hidden, running = lm.extend(running, lm.embed(row_ids), live)
            hidden = torch.cat([before, hidden], dim=1)  # [R, 1 + T, Dh]
            for row, ((start, _), part) in enumerate(zip(spans, parts, strict=True)):
                rows = hidden[row, : before.shape[1] + len(part) - 1]
                self._note(odds, start + block, rows, part)
            before = hidden[:, -1:]
            yield sum(map(len, parts))

    def _note(self, odds: Floats, place: int, hidden: Tensor, ids: Sequence[int]) -> None:
        """Write the odds of tokens from the rows that predict them; without a row, that the model
        says nothing of the first."""
        missing = len(ids) - len(hidden)
        place, ids = place + missing, ids[missing:]
        size = _ROWS_OF_LOGITS[self._lm.device.type]
        for begin in range(0, len(hidden), size):
            masses = self._token_odds.masses(self._lm.logits(hidden[begin : begin + size]))
            tokens = np.array(ids[begin : begin + size], dtype=np.int64)
            first = place + begin
            odds[first : first + len(tokens)] = self._token_odds.path_odds(masses, tokens)

    @torch.no_grad()
    def open_prefix(self, num_tokens: int) -> Steps:
        """Step through one row of so many tokens from the opening on."""
        lm, opening = self._lm, self._opening
        state = stack_states([lm.empty(1)], room_slots=opening.shape[1] + num_tokens)
        live = torch.ones(opening.shape[:2], dtype=torch.bool, device=lm.device)
        hidden, state = lm.extend(state, opening, live)
        return Steps(lm, self._token_odds, state, hidden[0, -1:], window_tokens=None)

    @torch.no_grad()
    def open_lanes(self, prefixes: Sequence[Steps], num_tokens: int) -> Steps:
        """Step through lanes, each behind the prefix that was read for it."""
        states = [steps.state for steps in prefixes]
        slots = states[0].num_slots + min(num_tokens, self._window + BLOCK_TOKENS)
        hidden = torch.cat([steps.hidden for steps in prefixes])
        stacked = stack_states(states, room_slots=slots)
        return Steps(self._lm, self._token_odds, stacked, hidden, window_tokens=self._window)


class Steps:
    """Rows that are read a token at a time, side by side."""

    def __init__(
        self,
        lm: FrozenLM,
        token_odds: TokenOdds,
        state: State,
        hidden: Tensor,
        *,
        window_tokens: int | None,
    ) -> None:
        """hidden: [R, Dh], the rows that predict the first tokens; none where nothing was read."""
        self.state, self.hidden = state, hidden
        self._lm, self._token_odds, self._window = lm, token_odds, window_tokens
        self._head, self._num_read = state.num_slots, 0

    def masses(self) -> Floats | None:
        """For each row what `TokenOdds.masses` gives for its next token; None where nothing stands
        before it."""
        return self._token_odds.masses(self._lm.logits(self.hidden)) if len(self.hidden) else None

    @torch.no_grad()
    def read(self, ids: Sequence[int]) -> None:
        """Read a token in each row."""
        lm = self._lm
        if self._window is not None and self._num_read % BLOCK_TOKENS == 0:
            self.state = _forget(self.state, self._head, self._num_read, self._window)
        column = torch.tensor(ids, dtype=torch.int64, device=lm.device)
        self.hidden, self.state = lm.read_tokens(self.state, column)
        self._num_read += 1

    @torch.no_grad()
    def keep(self, rows: Sequence[int]) -> list[int]:
        """Go on with these rows only; returns which row each of them was."""
        self.state, order = self.state.keep(rows)
        self.hidden = self.hidden[order]
        return order


def _forget(state: State, head: int, num_read: int, window: int) -> State:
    """Before a lane reads its next block: what is older than the window goes."""
    return state.without(head, head + BLOCK_TOKENS) if num_read > window else state
