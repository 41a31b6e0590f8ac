"""The benchmark measures what it says; no speed is asserted."""

from __future__ import annotations

import io

import torch
from rich.console import Console

from trafficgrad import benchmark


def test_every_candidate_is_measured_and_printed() -> None:
    output = io.StringIO()
    threads = torch.get_num_threads()
    sizes = (benchmark.Size(2, 6, 1), benchmark.Size(2, 12, 3))
    rows = benchmark.run(sizes, repetitions=1, console=Console(file=output, width=160))
    names = [(row.size, row.name) for row in rows if not row.name.startswith("SUMO")]  # where it is installed
    plain = "plain torch IDM loop, one lane, no search"
    assert names == [
        (sizes[0], "trafficgrad"),
        (sizes[0], plain),
        (sizes[1], "trafficgrad, straight_through"),
        (sizes[1], "trafficgrad, blocked"),
        (sizes[1], plain),
    ]
    assert all(row.forward > 0 for row in rows)
    assert all((row.both is None) == row.name.startswith("SUMO") for row in rows)
    assert all(name in output.getvalue() for _, name in names)
    assert torch.get_num_threads() == threads


def test_the_plain_loop_is_the_simulator_without_search() -> None:
    """What the ratio is taken against follows the same drivers: the fixed order is the order that is searched."""
    size = benchmark.Size(1, 8, 1)
    simulator, state = benchmark.make_case(size, torch.float64)
    order = state.position[0].argsort()
    leader = simulator.neighbors(state).leader[0, :, 1]
    assert torch.equal(leader[order], torch.roll(order, -1))
