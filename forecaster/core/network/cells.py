"""Recurrent cells: hidden state in, hidden state out. A module owns weights only.

Each cell is one equation `step(gates, state) -> state`; its inputs `gates` = W x + b are computed for all steps of an
unrolling at once. The state of a cell is one (B, S) tensor whose first H columns are the hidden vector.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

CellName = Literal["rnn", "gru", "lstm"]
Nonlinearity = Literal["tanh", "relu", "sigmoid"]

NONLINEARITIES: dict[Nonlinearity, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
}


class Cell(nn.Module, ABC):
    """A recurrent cell with its weights.

    Args:
        input_size: number of inputs, F.
        hidden_size: width of the hidden vector, H.
        gates: number of blocks of H rows that the weights have.
    """

    def __init__(self, input_size: int, hidden_size: int, gates: int) -> None:
        super().__init__()
        bound = hidden_size**-0.5
        self.hidden_size = hidden_size
        self.weight_input = nn.Parameter(torch.empty(gates * hidden_size, input_size).uniform_(-bound, bound))
        self.weight_hidden = nn.Parameter(torch.empty(gates * hidden_size, hidden_size).uniform_(-bound, bound))
        self.bias_input = nn.Parameter(torch.zeros(gates * hidden_size))

    @property
    def state_size(self) -> int:
        """S, the columns of the state."""
        return self.hidden_size

    def gates(self, x: Tensor) -> Tensor:
        """Return W x + b; (..., F) to (..., gates x H)."""
        return functional.linear(x, self.weight_input, self.bias_input)

    @abstractmethod
    def step(self, gates: Tensor, state: Tensor, keep: Tensor | None = None) -> Tensor:
        """Return the state after the tick; (B, S).

        Args:
            gates: W x + b of this tick's inputs; (B, gates x H).
            state: state after the previous tick, not modified; (B, S).
            keep: factors on the hidden vector where it enters the gates (variational dropout); None = 1; (B, H).
        """

    def _recurrent(self, hidden: Tensor, keep: Tensor | None) -> Tensor:
        return functional.linear(hidden if keep is None else hidden * keep, self.weight_hidden)


class VanillaCell(Cell):
    """The vanilla recurrent network (Elman, 1990): h_t = f(W x_t + U h_{t-1} + b).

    With ReLU, U is initialised to the identity and W to small values, so that the untrained cell remembers its inputs
    (Le, Jaitly and Hinton, 2015).
    """

    def __init__(self, input_size: int, hidden_size: int, nonlinearity: Nonlinearity) -> None:
        super().__init__(input_size, hidden_size, 1)
        self._function = NONLINEARITIES[nonlinearity]
        if nonlinearity == "relu" and not self.weight_hidden.is_meta:  # torch would import its compiler for that
            nn.init.eye_(self.weight_hidden)
            nn.init.normal_(self.weight_input, std=1e-2)

    def step(self, gates: Tensor, state: Tensor, keep: Tensor | None = None) -> Tensor:
        """Return h_t."""
        return self._function(gates + self._recurrent(state, keep))


class GruCell(Cell):
    """The gated recurrent unit (Cho et al., 2014), with the reset gate after the matrix product, as in cuDNN.

    (1) r = sigmoid(W_r x + U_r h)   (2) u = sigmoid(W_u x + U_u h)
    (3) n = tanh(W_n x + r * (U_n h + c))   (4) h' = n + u * (h - n)
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size, 3)
        self.bias_hidden = nn.Parameter(torch.zeros(hidden_size))

    def step(self, gates: Tensor, state: Tensor, keep: Tensor | None = None) -> Tensor:
        """Return h' by (1) to (4)."""
        size = self.hidden_size
        recurrent = self._recurrent(state, keep)
        both = torch.sigmoid(gates[:, : 2 * size] + recurrent[:, : 2 * size])  # (1), (2)
        reset, update = both[:, :size], both[:, size:]
        new = torch.tanh(gates[:, 2 * size :] + reset * (recurrent[:, 2 * size :] + self.bias_hidden))  # (3)
        return new + update * (state - new)  # (4)


class LstmCell(Cell):
    """The long short-term memory (Hochreiter and Schmidhuber, 1997; forget gate: Gers et al., 2000).

    (1) i, f, o = sigmoid(W x + U h + b)   (2) g = tanh(W_g x + U_g h + b_g)   (3) c' = f * c + i * g
    (4) h' = o * tanh(c')

    The state is [h, c]. The bias of the forget gate is initialised to 1 (Jozefowicz et al., 2015).
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size, 4)
        with torch.no_grad():
            self.bias_input[hidden_size : 2 * hidden_size] = 1.0

    @property
    def state_size(self) -> int:
        """S, the columns of the state: h and c."""
        return 2 * self.hidden_size

    def step(self, gates: Tensor, state: Tensor, keep: Tensor | None = None) -> Tensor:
        """Return [h', c'] by (1) to (4)."""
        size = self.hidden_size
        total = gates + self._recurrent(state[:, :size], keep)
        sigmoids = torch.sigmoid(total[:, : 3 * size])  # (1), in the order i, f, o
        new = torch.tanh(total[:, 3 * size :])  # (2)
        memory = sigmoids[:, size : 2 * size] * state[:, size:] + sigmoids[:, :size] * new  # (3)
        return torch.cat([sigmoids[:, 2 * size :] * torch.tanh(memory), memory], dim=1)  # (4)


def make_cell(name: CellName, nonlinearity: Nonlinearity, input_size: int, hidden_size: int) -> Cell:
    """Return a cell with initial weights; only the vanilla cell uses `nonlinearity`."""
    if name == "rnn":
        return VanillaCell(input_size, hidden_size, nonlinearity)
    return {"gru": GruCell, "lstm": LstmCell}[name](input_size, hidden_size)


def unroll_cell(
    cell: Cell, x: Tensor, state: Tensor, lengths: Tensor | None = None, keep: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return the hidden vector after every step, (T, B, H), and the state after the last valid one, (B, S).

    Args:
        cell: the cell.
        x: inputs; (T, B, F).
        state: state before the first step; (B, S).
        lengths: number of valid steps, the rest is padding; None = all; (B,).
        keep: dropout factors, see `Cell.step`, equal at all steps; (B, H).
    """
    states = [state]
    for gates in cell.gates(x):
        states.append(cell.step(gates, states[-1], keep))
    history = torch.stack(states)
    end = states[-1] if lengths is None else history[lengths, torch.arange(x.shape[1])]
    return history[1:, :, : cell.hidden_size], end
