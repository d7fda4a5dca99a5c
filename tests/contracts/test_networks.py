"""Laws of every network, with any cell, convolution, decoder and mode."""

from __future__ import annotations

import itertools

import pytest
import torch

from forecaster.core.network.cells import GruCell, LstmCell, VanillaCell, make_cell, unroll_cell
from forecaster.core.network.features import FeatureConfig
from forecaster.core.network.network import Dropout, Network, NetworkConfig
from forecaster.errors import UsageError

FEATURES = FeatureConfig(context=8)
CELLS = [("rnn", "tanh"), ("rnn", "sigmoid"), ("rnn", "relu"), ("gru", "tanh"), ("lstm", "tanh")]
MODES = {
    "one-to-one": (False, (1,)),
    "one-to-many": (False, (1, 2, 3)),
    "many-to-one": (True, (3,)),
    "many-to-many": (True, (1, 2, 3)),
}
SHAPES = list(itertools.product(CELLS, (0, 3), MODES, ("direct", "recurrent")))


def build(shape: tuple, **options: object) -> Network:
    (cell, nonlinearity), convolution, mode, decoder = shape
    torch.manual_seed(0)
    carries_state, horizons = MODES[mode]
    network = Network(
        NetworkConfig(
            horizons,
            (0.1, 0.5, 0.9),
            cell=cell,
            nonlinearity=nonlinearity,
            hidden_size=16,
            convolution=convolution,
            decoder=decoder,
            carries_state=carries_state,
            features=FEATURES,
            **options,  # type: ignore[arg-type]
        )
    )
    for weight in network.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return network.requires_grad_(requires_grad=False)


def inputs(steps: int = 12, batch: int = 5) -> torch.Tensor:
    return torch.randn(steps, batch, FEATURES.step_size, generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=SHAPES, ids=lambda shape: f"{shape[0][0]}-{shape[0][1]}-conv{shape[1]}-{shape[2]}-{shape[3]}")
def network(request: pytest.FixtureRequest) -> Network:
    return build(request.param)


def test_steps_equal_an_unrolling(network: Network) -> None:
    u = inputs()
    start = torch.randn(5, network.state_size) * 0.1
    z, end = network.unroll(u, start)
    state = start
    for tick, one in enumerate(u):
        feature, state = network.step(one, state)
        torch.testing.assert_close(feature, z[tick], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(state, end, atol=1e-5, rtol=1e-5)


def test_chunks_with_carried_state_equal_one_unrolling(network: Network) -> None:
    u = inputs()
    start = torch.zeros(5, network.state_size)
    z, end = network.unroll(u, start)
    before, middle = network.unroll(u[:5], start)
    after, last = network.unroll(u[5:], middle)
    torch.testing.assert_close(torch.cat([before, after]), z, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(last, end, atol=1e-5, rtol=1e-5)


def test_a_state_is_never_modified(network: Network) -> None:
    """Neither a step nor a forecast changes the state that it is given."""
    start = torch.randn(5, network.state_size)
    kept = start.clone()
    z, end = network.unroll(inputs(), start)
    after = end.clone()
    network.base(z)
    network.offsets(z)
    assert torch.equal(start, kept)
    assert torch.equal(end, after)


def test_padding_changes_neither_outputs_nor_state(network: Network) -> None:
    u = inputs()
    lengths = torch.tensor([12, 0, 1, 7, 2])
    padded = u.clone()
    for series, length in enumerate(lengths):
        padded[length:, series] = 99.0
    start = torch.randn(5, network.state_size) * 0.1
    z, end = network.unroll(padded, start, lengths=lengths)
    for series, length in enumerate(lengths.tolist()):
        alone, state = start[series : series + 1], start[series : series + 1]
        if length:
            alone, state = network.unroll(u[:length, series : series + 1], state)
            torch.testing.assert_close(z[:length, series : series + 1], alone, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(end[series : series + 1], state, atol=1e-5, rtol=1e-5)


def test_no_series_of_a_batch_depends_on_another(network: Network) -> None:
    u = inputs()
    changed = u.clone()
    changed[:, 2:] = 50.0
    start = torch.zeros(5, network.state_size)
    first, state = network.unroll(u, start)
    second, other = network.unroll(changed, start)
    assert torch.equal(first[:, :2], second[:, :2])
    assert torch.equal(state[:2], other[:2])


def test_the_state_size_follows_from_the_shape(network: Network) -> None:
    assert network.config.state_size == network.state_size


def test_quantiles_never_cross(network: Network) -> None:
    network.quantiles.calibration.copy_(torch.randn(3, len(network.config.horizons)) * 2)
    z = torch.randn(50, 16) * 5
    assert (network.offsets(z).diff(dim=-2) >= 0).all()


@pytest.mark.parametrize("mode", ["one-to-one", "one-to-many"])
def test_without_carried_state_earlier_steps_do_not_count(mode: str) -> None:
    network = build((("gru", "tanh"), 3, mode, "direct"))
    u = inputs(1)[0]
    first, _ = network.step(u, torch.zeros(5, network.state_size))
    second, _ = network.step(u, torch.ones(5, network.state_size))
    assert torch.equal(first, second)


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("cell", CELLS, ids="-".join)
def test_stacked_layers_obey_the_same_law(cell: tuple[str, str], layers: int) -> None:
    test_steps_equal_an_unrolling(build((cell, 2, "many-to-many", "direct"), layers=layers))


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
def test_the_vanilla_cell_equals_torchs(nonlinearity: str) -> None:
    torch.manual_seed(0)
    oracle = torch.nn.RNNCell(3, 16, nonlinearity=nonlinearity)
    cell = VanillaCell(3, 16, nonlinearity)  # type: ignore[arg-type]
    copy(cell, oracle)
    compare(cell, oracle)


def test_the_sigmoid_cell_equals_its_equation() -> None:
    cell = VanillaCell(3, 16, "sigmoid")
    x, h = torch.randn(4, 3), torch.rand(4, 16)
    expected = 1 / (1 + torch.exp(-(x @ cell.weight_input.T + h @ cell.weight_hidden.T + cell.bias_input)))
    torch.testing.assert_close(cell.step(cell.gates(x), h), expected)


def test_the_gru_equals_torchs() -> None:
    torch.manual_seed(0)
    oracle = torch.nn.GRUCell(3, 16)
    cell = GruCell(3, 16)
    copy(cell, oracle, bias=False)
    with torch.no_grad():
        cell.bias_input.copy_(oracle.bias_ih)
        cell.bias_input[:32] += oracle.bias_hh[:32]
        cell.bias_hidden.copy_(oracle.bias_hh[32:])
    compare(cell, oracle)


def test_the_lstm_equals_torchs() -> None:
    torch.manual_seed(0)
    oracle = torch.nn.LSTMCell(3, 16)
    cell = LstmCell(3, 16)
    order = torch.cat([torch.arange(0, 32), torch.arange(48, 64), torch.arange(32, 48)])  # theirs: i, f, g, o
    with torch.no_grad():
        cell.weight_input.copy_(oracle.weight_ih[order])
        cell.weight_hidden.copy_(oracle.weight_hh[order])
        cell.bias_input.copy_((oracle.bias_ih + oracle.bias_hh)[order])
    x, h, c = torch.randn(4, 3), torch.randn(4, 16), torch.randn(4, 16)
    expected = torch.cat(oracle(x, (h, c)), dim=1)
    torch.testing.assert_close(cell.step(cell.gates(x), torch.cat([h, c], dim=1)), expected, atol=1e-6, rtol=1e-5)


def copy(cell: GruCell | VanillaCell, oracle: torch.nn.GRUCell | torch.nn.RNNCell, *, bias: bool = True) -> None:
    with torch.no_grad():
        cell.weight_input.copy_(oracle.weight_ih)
        cell.weight_hidden.copy_(oracle.weight_hh)
        if bias:
            cell.bias_input.copy_(oracle.bias_ih + oracle.bias_hh)


def compare(cell: GruCell | VanillaCell, oracle: torch.nn.Module) -> None:
    x, h = torch.randn(4, 3), torch.randn(4, 16)
    torch.testing.assert_close(cell.step(cell.gates(x), h), oracle(x, h), atol=1e-6, rtol=1e-5)


def test_the_relu_cell_remembers_an_input_for_100_steps() -> None:
    """Its recurrent weights are initialised to the identity."""
    torch.manual_seed(0)
    cell = make_cell("rnn", "relu", 4, 16)
    x = torch.zeros(101, 1, 4)
    x[0] = 100.0
    history, _ = unroll_cell(cell, x, torch.zeros(1, 16))
    assert history[0].max() > 0.1
    torch.testing.assert_close(history[100], history[0])


def test_the_forget_gate_starts_open() -> None:
    assert LstmCell(4, 16).bias_input[16:32].tolist() == [1.0] * 16


def test_an_untrained_decoder_forecasts_the_last_value() -> None:
    network = Network(NetworkConfig((1, 5), (0.1, 0.9), hidden_size=16, decoder="recurrent", features=FEATURES))
    base = network.base(torch.randn(3, 16))
    assert isinstance(base, torch.Tensor)
    assert torch.equal(base, torch.zeros(3, 2))


def test_dropout_masks_are_unbiased() -> None:
    """The recurrent mask is the same at all steps."""
    dropout = Dropout(torch.Generator().manual_seed(0), recurrent=0.25)
    mask = dropout.mask(0.25, 10_000, 4)
    assert mask is not None
    assert mask.mean().item() == pytest.approx(1.0, abs=0.02)
    cell = make_cell("rnn", "tanh", 2, 4)
    keep = torch.tensor([[0.0, 1.0, 1.0, 1.0]])
    first, _ = unroll_cell(cell, torch.zeros(6, 1, 2), torch.tensor([[5.0, 0, 0, 0]]), keep=keep)
    assert torch.equal(first, torch.zeros(6, 1, 4))


@pytest.mark.parametrize("size", [8, 20])
def test_a_hidden_size_that_breaks_batch_independence_is_refused(size: int) -> None:
    with pytest.raises(UsageError, match="multiple of 8"):
        NetworkConfig((1,), (0.5,), hidden_size=size)
