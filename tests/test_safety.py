"""Long runs: nothing overlaps, nobody reverses, no gap takes two, nobody is swapped; and crashes are reported."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from trafficgrad import metrics
from trafficgrad.scenario_config import load_scenario
from trafficgrad.simulator import Simulator
from trafficgrad.state import Action, TrafficState

SEEDS = 5
STEPS = 10_000


def ordered(state: TrafficState, simulator: Simulator) -> tuple[Tensor, Tensor, Tensor]:
    """Vehicles of every world sorted by (lane, position): order, gaps to the next one ahead, lanes in that order.

    Independent of the package's neighbour search: one edge, wrap by the ring's length, own arithmetic.
    """
    length = float(simulator.network.lane_length[0])
    order = (state.lane.double() * 10 * length + state.position.double()).argsort(dim=1, stable=True)
    position, lane = state.position.double().gather(1, order), state.lane.gather(1, order)
    lanes = int(state.lane.max()) + 1
    first = torch.full((state.worlds, lanes), torch.inf, dtype=torch.float64).scatter_reduce(1, lane, position, "amin")
    ahead = torch.roll(position, -1, 1)
    last = torch.roll(lane, -1, 1) != lane
    last[:, -1] = True
    ahead = torch.where(last, first.gather(1, lane) + length, ahead)
    alone = torch.zeros(state.worlds, lanes).scatter_add(1, lane, torch.ones(lane.shape)).gather(1, lane) == 1
    return order, torch.where(alone, torch.inf, ahead - 5.0 - position), lane


@pytest.mark.parametrize("name", ["ring_1lane", "ring_4lane"])
def test_human_traffic_is_safe_for_ten_thousand_steps(name: str) -> None:
    scenario = load_scenario(name)
    simulator = scenario.build()
    state = scenario.place(SEEDS, torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(4)
    length = float(simulator.network.lane_length[0])
    changes = 0
    with torch.no_grad():
        for step in range(STEPS):
            before = state
            around = simulator.neighbors(before)
            state = simulator.step(before, None, simulator.sample_noise(before, generator), around)
            assert bool((state.speed >= 0).all())
            assert bool(torch.isfinite(state.position).all())
            assert bool(((state.position >= 0) & (state.position < length)).all())
            changed = state.lane != before.lane
            changes += int(changed.sum())
            if bool(changed.any()):
                side = (state.lane - before.lane + 1).unsqueeze(-1)
                assert int((state.lane - before.lane).abs().max()) == 1
                leader = around.leader.gather(2, side)[..., 0]
                for b, n in changed.nonzero().tolist():
                    rivals = changed[b] & (state.lane[b] == state.lane[b, n]) & (leader[b] == leader[b, n])
                    assert int(rivals.sum()) == 1, f"step {step}: two vehicles went into one gap"
            if step % 20 == 0 or bool(changed.any()):
                assert bool((ordered(state, simulator)[1] > 0).all()), f"overlap at step {step}"
            advance = (state.position - before.position) % length
            assert bool((advance < 60 * simulator.dt).all()), "a vehicle jumped"
            if step % 500 == 0:  # without a lane change nobody passes anybody
                quiet = ~changed.any(1)
                lanes = [(b, k) for b in quiet.nonzero()[:, 0].tolist() for k in range(scenario.network.lanes)]
                for b, k in lanes:
                    assert _cycle(before, b, k) == _cycle(state, b, k)
    assert (changes > 1000) == (name == "ring_4lane")


def _cycle(state: TrafficState, world: int, lane: int) -> list[int]:
    """Vehicles of a lane in driving order, beginning with the lowest slot: a rotation at the wrap changes nothing."""
    members = (state.lane[world] == lane).nonzero()[:, 0]
    by_place = members[state.position[world, members].argsort(dim=0, stable=True)].tolist()
    first = by_place.index(min(by_place)) if by_place else 0
    return by_place[first:] + by_place[:first]


def wild_run(follow_limit: bool) -> tuple[int, int, int]:
    """Random actions for 600 steps in 16 worlds: overlapping vehicles found independently, reported, and in both."""
    scenario = load_scenario("ring_4lane", [f"vehicles.controlled.follow_limit={str(follow_limit).lower()}"])
    simulator = scenario.build()
    state = scenario.place(16, torch.Generator().manual_seed(7))
    generator = torch.Generator().manual_seed(8)
    found = reported = agreed = 0
    with torch.no_grad():
        for step in range(600):
            if step % 5 == 0:
                push = 4.0 * torch.rand(16, 4, generator=generator) - 1.5
                wish = 2.0 * torch.rand(16, 4, generator=generator) - 1.0
            state = simulator.step(state, Action(push, wish), simulator.sample_noise(state, generator))
            flagged = metrics.overlaps(simulator.neighbors(state))
            order, gaps, _ = ordered(state, simulator)
            truth = torch.zeros_like(flagged).scatter(1, order, gaps < 0)
            found += int(truth.sum())
            reported += int(flagged.sum())
            agreed += int((truth & flagged).sum())
    return found, reported, agreed


def test_follow_limit_prevents_every_overlap() -> None:
    assert wild_run(follow_limit=True) == (0, 0, 0)


def test_without_follow_limit_overlaps_occur_and_all_are_reported() -> None:
    found, reported, agreed = wild_run(follow_limit=False)
    assert found > 100
    assert found == reported == agreed


def test_an_overlap_ends_the_episode_as_collision() -> None:
    from trafficgrad.envs.traffic import TrafficEnv

    scenario = load_scenario("ring_4lane", ["vehicles.controlled.follow_limit=false"])
    env = TrafficEnv(scenario)
    traffic = scenario.place(2, torch.Generator().manual_seed(1))
    leader = env.simulator.neighbors(traffic).leader[0, 0, 1]
    position = traffic.position.clone()
    position[0, 0] = position[0, leader] - 5.2
    speed = traffic.speed.clone()
    speed[0, 0] = 20.0
    state = env.start(replace(traffic, position=position, speed=speed))
    _, transition = env.step(state, torch.zeros(2, 4, 2))
    assert transition.terminated.tolist() == [True, False]
    assert transition.terms["collisions"].tolist() == [1.0, 0.0]
