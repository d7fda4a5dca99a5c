"""Truncated BPTT, solved readouts, training sequences and the fit of a network."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from builders import HOUR_MS, LEVELS, START_MS
from torch import Tensor

from forecaster.core.network.cells import make_cell, unroll_cell
from forecaster.core.network.features import FeatureConfig
from forecaster.core.network.network import Dropout, Network, NetworkConfig, centre
from forecaster.core.network.normal_equations import NormalEquations
from forecaster.core.network.tbptt import Chunk, Unrolled, losses, unroll
from forecaster.core.series.denoising import DenoiseConfig
from forecaster.core.series.state import ObservationConfig
from forecaster.errors import UsageError
from forecaster.history import SeriesHistory
from forecaster.learning.data.batches import padded_batches
from forecaster.learning.data.sequences import MAX_GAP_CONTEXTS, TrainingSequence
from forecaster.learning.data.training_data import training_sequences
from forecaster.learning.fitting.network_fit import NetworkFit, TrainingConfig
from forecaster.learning.fitting.train import train_checkpoint

FEATURES = FeatureConfig(context=12)
CELLS = ["rnn", "gru", "lstm"]


def config(cell: Any = "gru", **options: Any) -> NetworkConfig:
    return NetworkConfig(
        horizons=(1, 2, 3), quantile_levels=LEVELS, cell=cell, hidden_size=16, features=FEATURES, **options
    )


def chunk(steps: int, lengths: list[int], seed: int = 0) -> Chunk:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    batch = len(lengths)
    u, q = draw(steps, batch, FEATURES.step_size), draw(steps, batch, FEATURES.readout_size)
    target = draw(steps, batch, 3)
    real = torch.arange(steps).unsqueeze(-1) < torch.tensor(lengths)
    target[~real] = torch.nan
    return Chunk(u, q, target, torch.tensor(lengths))


def part(sequence: Chunk, begin: int, end: int) -> Chunk:
    span = slice(begin, end)
    return Chunk(
        sequence.u[span], sequence.q[span], sequence.target[span], (sequence.lengths - begin).clamp(0, end - begin)
    )


def full_bptt(network: Network, readout: Tensor, sequence: Chunk) -> list[Tensor]:
    """Return gradients by the definition: step after step, without detaching."""
    network.zero_grad()
    readout.grad = None
    state = torch.zeros(sequence.u.shape[1], network.state_size)
    z = []
    for u in sequence.u:
        output, state = network.step(u, state)
        z.append(output)
    features = torch.stack(z)
    middle = centre(network.base(features), readout, sequence.q, features)
    unrolled = Unrolled(features, middle, state)
    total = losses(network, unrolled, sequence.target, torch.tensor(LEVELS)) * sequence.target.numel()
    total.backward()
    return [weight.grad.clone() for weight in [*network.parameters(), readout] if weight.grad is not None]


def gradients(network: Network, readout: Tensor, chunks: list[Chunk]) -> list[Tensor]:
    """Return gradients of the sum of the losses; the state is carried from chunk to chunk, detached."""
    network.zero_grad()
    readout.grad = None
    state = torch.zeros(len(chunks[0].lengths), network.state_size)
    levels, total = torch.tensor(LEVELS), torch.zeros(())
    for chunk in chunks:
        unrolled = unroll(network, readout, chunk, state)
        known = int((~torch.isnan(chunk.target)).sum())
        total = total + losses(network, unrolled, chunk.target, levels) * known
        state = unrolled.state
    total.backward()
    return [weight.grad.clone() for weight in [*network.parameters(), readout] if weight.grad is not None]


def network_and_readout(cell: str) -> tuple[Network, Tensor]:
    torch.manual_seed(1)
    network = Network(config(cell))
    return network, torch.randn(network.config.readout_size, 3).mul(0.1).requires_grad_()


@pytest.mark.parametrize("cell", CELLS)
def test_a_chunk_as_long_as_the_sequence_gives_the_gradient_of_full_bptt(cell: str) -> None:
    network, readout = network_and_readout(cell)
    sequence = chunk(20, [20, 20])
    full = full_bptt(network, readout, sequence)
    one_chunk = gradients(network, readout, [sequence])
    for expected, actual in zip(full, one_chunk, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("cell", CELLS)
def test_a_shorter_chunk_truncates_the_gradient(cell: str) -> None:
    network, readout = network_and_readout(cell)
    sequence = chunk(20, [20, 20])
    full = full_bptt(network, readout, sequence)
    truncated = gradients(network, readout, [part(sequence, 0, 10), part(sequence, 10, 20)])
    assert any((a - b).abs().max() > 1e-4 for a, b in zip(full, truncated, strict=True))


@pytest.mark.parametrize("cell", CELLS)
def test_padding_changes_no_gradient(cell: str) -> None:
    network, readout = network_and_readout(cell)
    sequence = chunk(12, [12, 5])
    padded = gradients(network, readout, [sequence])
    wild = Chunk(sequence.u.clone(), sequence.q.clone(), sequence.target, sequence.lengths)
    wild.u[5:, 1] = 1e3
    wild.q[5:, 1] = -1e3
    for expected, actual in zip(padded, gradients(network, readout, [wild]), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)
    alone = Chunk(sequence.u[:5, 1:], sequence.q[:5, 1:], sequence.target[:5, 1:], torch.tensor([5]))
    other = Chunk(sequence.u[:, :1], sequence.q[:, :1], sequence.target[:, :1], torch.tensor([12]))
    alone_gradients, other_gradients = (gradients(network, readout, [part]) for part in (alone, other))
    for expected, *parts in zip(padded, alone_gradients, other_gradients, strict=True):
        torch.testing.assert_close(parts[0] + parts[1], expected, rtol=1e-4, atol=1e-4)


def memory_loss(*, carried: bool) -> float:
    """Return the loss of a GRU that has to name the sign seen at the first of 12 steps, trained in chunks of 4."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    cell, head = make_cell("gru", "tanh", 2, 16), torch.nn.Linear(16, 1)
    optimizer = torch.optim.AdamW([*cell.parameters(), *head.parameters()], lr=1e-2)
    recent: list[float] = []
    for _ in range(200):
        sign = torch.randint(0, 2, (32,), generator=generator) * 2.0 - 1.0
        x = torch.zeros(12, 32, 2)
        x[0, :, 0], x[::4, :, 1] = sign, 1.0
        state = torch.zeros(32, cell.state_size)
        for begin in range(0, 12, 4):
            h, state = unroll_cell(cell, x[begin : begin + 4], state if carried else torch.zeros_like(state))
            state = state.detach()
            loss = (head(h).squeeze(-1) - sign).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if begin == 8:
                recent.append(loss.item())
    return float(np.mean(recent[-20:]))


def test_a_carried_state_learns_a_memory_longer_than_the_chunk() -> None:
    """Without carrying the state it cannot be learned."""
    assert memory_loss(carried=True) < 0.1
    assert memory_loss(carried=False) > 0.9


def test_the_solved_readout_is_textbook_ridge_regression() -> None:
    generator = np.random.default_rng(0)
    features, target = generator.normal(size=(200, 6)), generator.normal(size=(200, 2))
    target[::3, 1] = np.nan
    normal = NormalEquations.empty(6, 2)
    for begin in range(0, 200, 50):
        span = slice(begin, begin + 50)
        ones = torch.ones(50)
        normal.add(torch.tensor(features[span]).float(), torch.tensor(target[span]).float(), ones)
    solved = normal.solve(torch.full((6,), 2.0)).numpy()
    for column in range(2):
        known = ~np.isnan(target[:, column])
        x, y = features[known], target[known, column]
        expected = np.linalg.solve(x.T @ x + 2.0 * np.eye(6), x.T @ y)
        np.testing.assert_allclose(solved[:, column], expected, rtol=1e-3, atol=1e-3)


def test_the_squared_error_of_a_readout_is_that_of_its_steps() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y, weight = (torch.randn(shape, generator=generator) for shape in ((90, 5), (90, 2), (90,)))
    weight = weight.square()
    y[:10, 1] = torch.nan
    normal, readout = NormalEquations.empty(5, 2), torch.randn(5, 2, generator=generator)
    assert np.isnan(normal.squared_error(readout))
    for begin in (0, 45):
        normal.add(x[begin : begin + 45], y[begin : begin + 45], weight[begin : begin + 45])
    expected = (weight.unsqueeze(-1) * (y - x @ readout).square()).nansum() / 170
    assert normal.count == 170
    assert normal.plus(normal).squared_error(readout) == pytest.approx(float(expected), rel=1e-4)


def history(hours: int = 400, series: int = 3, seed: int = 0) -> SeriesHistory:
    generator = np.random.default_rng(seed)
    time = np.arange(hours)
    values = [10 + 5 * np.sin(2 * np.pi * (time + k) / 24) + generator.normal(0, 0.3, hours) for k in range(series)]
    return SeriesHistory(
        series_ids=[f"pump-{k}" for k in range(series)],
        series_index=np.tile(np.arange(series), hours),
        timestamp_ms=START_MS + np.repeat(time, series) * HOUR_MS,
        values=np.column_stack(values).reshape(-1),
        record_of_reading=np.arange(hours * series),
    )


OBSERVATION = ObservationConfig(interval_ms=HOUR_MS, context=12)
SHORT = TrainingConfig(passes=3)


def network_fit(network: NetworkConfig, config: TrainingConfig) -> NetworkFit:
    return NetworkFit(network, config, training_sequences(history(), OBSERVATION), START_MS + 340 * HOUR_MS)


def test_a_fixed_seed_gives_the_same_checkpoint_twice() -> None:
    first, second = (train_checkpoint(history(), OBSERVATION, config(), SHORT) for _ in range(2))
    torch.testing.assert_close(first.readout, second.readout, rtol=0, atol=0)
    for name, weight in first.weights.items():
        torch.testing.assert_close(weight, second.weights[name], rtol=0, atol=0)
    other = train_checkpoint(history(), OBSERVATION, config(), TrainingConfig(passes=3, seed=1))
    assert not torch.equal(first.readout, other.readout)


@pytest.mark.parametrize("cell", CELLS)
def test_training_lowers_the_held_out_loss(cell: str) -> None:
    fitted = network_fit(config(cell), TrainingConfig(passes=8, dropout=0.1)).fit()
    assert fitted.losses[-1] < 0.8 * fitted.losses[0]


def test_early_stopping_keeps_the_best_pass() -> None:
    fitted = network_fit(config(), TrainingConfig(passes=12, patience=2)).fit()
    assert fitted.losses[fitted.best_pass] == min(fitted.losses)


def test_l1_and_l2_shrink_the_weights() -> None:
    def size(**options: float) -> float:
        weights = network_fit(config(), TrainingConfig(passes=8, patience=8, **options)).fit().weights  # type: ignore[arg-type]
        return float(sum(weight.abs().sum() for name, weight in weights.items() if "weight" in name))

    free = size(l1=0.0, l2=0.0)
    assert size(l1=0.1, l2=0.0) < 0.9 * free
    assert size(l1=0.0, l2=10.0) < 0.9 * free


def test_dropout_masks_keep_the_expectation() -> None:
    dropout = Dropout(torch.Generator().manual_seed(0), 0.5, 0.25, 0.0)
    mask = dropout.mask(0.5, 1000, 100)
    assert mask is not None
    assert mask.unique().tolist() == [0.0, 2.0]
    assert float(mask.mean()) == pytest.approx(1.0, abs=0.02)
    assert dropout.mask(0.0, 10) is None


def test_series_of_unequal_length_train_together() -> None:
    long, short = history(300, 1), history(60, 1, seed=1)
    both = SeriesHistory(
        series_ids=["long", "short"],
        series_index=np.concatenate([long.series_index, short.series_index + 1]),
        timestamp_ms=np.concatenate([long.timestamp_ms, short.timestamp_ms]),
        values=np.concatenate([long.values, short.values]),
        record_of_reading=np.arange(360),
    )
    order = np.argsort(both.timestamp_ms, kind="stable")
    both = SeriesHistory(
        both.series_ids, both.series_index[order], both.timestamp_ms[order], both.values[order], both.record_of_reading
    )
    sequences = training_sequences(both, OBSERVATION)
    assert [len(sequence) for sequence in sequences] == [300, 60]
    assert np.isfinite(NetworkFit(config(), SHORT, sequences, START_MS + 250 * HOUR_MS).fit().losses).all()


def test_a_series_that_begins_with_missing_values_is_used_from_its_first_value() -> None:
    readings = history(60, 1)
    readings.values[:3] = np.nan
    (sequence,) = training_sequences(readings, OBSERVATION)
    assert len(sequence) == 57
    assert np.isfinite(sequence.grid[-57:]).all()


def test_a_sequence_has_one_reference_value_from_beginning_to_end() -> None:
    readings = history(60, 1)
    readings.values[0], readings.values[1:] = 0.0, 1e7 + np.arange(59) % 7  # the reference moves to the second value
    both = training_sequences(readings, OBSERVATION)
    assert [len(sequence) for sequence in both] == [49, 11], "the row starts again when its context is full"
    first, second = both[1], both[0]
    np.testing.assert_array_equal(first.grid[-11:], readings.values[:11] - 1e7)
    np.testing.assert_array_equal(first.inputs.last, first.grid[-11:])
    np.testing.assert_array_equal(second.truth[-49:], readings.values[11:] - 1e7)
    np.testing.assert_array_equal(second.grid[-59:], readings.values[1:] - 1e7)


def test_a_value_that_the_filters_mask_is_no_target() -> None:
    readings = history(200, 1)
    readings.values[150] = readings.values.max() + 1_000.0
    (sequence,) = training_sequences(readings, replace(OBSERVATION, denoise=DenoiseConfig(chain=("hampel",))))
    assert np.flatnonzero(np.isnan(sequence.truth[-200:])).tolist() == [150]
    (sequence,) = training_sequences(readings, replace(OBSERVATION, denoise=DenoiseConfig(chain=())))
    assert np.isfinite(sequence.truth[-200:]).all()


def at_hours(*series: list[int]) -> list[TrainingSequence]:
    """Return the sequences of series with readings at these hours."""
    row = np.repeat(np.arange(len(series)), [len(hours) for hours in series])
    hours = np.concatenate([np.array(hours, np.int64) for hours in series])
    order = np.argsort(hours, kind="stable")
    names, records = [f"pump-{number}" for number in range(len(series))], np.arange(len(order))
    values = np.sin(hours[order]) + row[order]
    readings = SeriesHistory(names, row[order], START_MS + hours[order] * HOUR_MS, values, records)
    return training_sequences(readings, replace(OBSERVATION, max_gap_ms=10**9 * HOUR_MS, ttl_ms=10**9 * HOUR_MS))


def ticks(sequences: list[TrainingSequence]) -> int:
    return sum(len(sequence.grid) + len(sequence.truth) for sequence in sequences)


def test_longer_gaps_take_no_more_memory() -> None:
    bursts = [[burst * gap + hour for burst in range(40) for hour in range(5)] for gap in (100, 1_000_000)]
    short, long = (at_hours(hours) for hours in bursts)
    assert ticks(long) == ticks(short) <= 2 * (OBSERVATION.context + 1) * 200
    assert [len(sequence) for sequence in long] == [5] * 40
    (batch,) = padded_batches(long, config(), 256)
    assert batch.grid.numel() <= ticks(long)
    assert at_hours([number * 1_000_000 for number in range(300)]) == []


def test_only_a_gap_much_longer_than_the_context_ends_a_sequence() -> None:
    longest = MAX_GAP_CONTEXTS * OBSERVATION.context
    (sequence,) = at_hours([*range(20), *range(19 + longest, 40 + longest)])
    assert len(sequence) == 41
    after, before = at_hours([*range(20), *range(20 + longest, 41 + longest)])
    assert (len(before), len(after)) == (20, 21)
    lead = OBSERVATION.context - 1
    assert np.isnan(after.grid[:lead]).all()
    assert np.isfinite(after.grid[lead:]).all()


def test_a_series_with_long_gaps_does_not_pad_the_grids_of_others() -> None:
    sparse = [number * MAX_GAP_CONTEXTS * OBSERVATION.context for number in range(100)]
    sequences = at_hours(sparse, *([list(range(90))] * 20))
    batches = padded_batches(sequences, config(), 256)
    assert [len(batch) for batch in batches] == [20, 1]
    assert sum(batch.grid.numel() for batch in batches) == sum(len(sequence.grid) for sequence in sequences)
    assert len(padded_batches(at_hours(*([list(range(90))] * 20)), config(), 256)) == 1


def test_a_history_without_two_readings_in_a_row_is_refused() -> None:
    with pytest.raises(UsageError, match="nothing to train on"):
        train_checkpoint(history(1), OBSERVATION, config(), SHORT)
