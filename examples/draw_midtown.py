"""Draws the map of the scenario ``midtown``, and its table of trips: Manhattan from 34th to 59th Street.

The map is a drawing of our own, under the licence of this project, from public facts. The Commissioners' Plan of 1811
laid out streets 60 ft and avenues 100 ft wide, some cross streets 100 ft, and blocks about 200 ft deep; how far apart
the avenues are, which way traffic goes, the speed limit of 25 mph and the cycle of 90 s are common knowledge. All
numbers are approximate. x runs across the grid, from Tenth to First Avenue, y along it, uptown; true north lies 29
degrees off.

What is simplified: no Broadway, no Grand Central Terminal (Park Avenue, whose underpass and viaduct are left out, and
43rd to 45th Street go straight on), no tunnels, bridges and ramps, no Central Park (Sixth and Seventh Avenue go on),
no turning lanes, bus lanes and bicycles. Lanes are those that move: one on an ordinary street, whose sides
are parked, and three or four on an avenue. The trips are invented: straight through, or with one turn.

    python examples/draw_midtown.py                   # writes scenarios/midtown.json and scenarios/midtown_trips.csv
    trafficgrad draw scenarios/midtown.json
    python examples/draw_midtown.py --cycle 50 --output runs/midtown_50     # the same with other signals
    trafficgrad evaluate midtown --set network.path=runs/midtown_50/midtown.json
"""

from __future__ import annotations

import argparse
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import networkx as nx

from trafficgrad.files import complete_file
from trafficgrad.network import RoadNetwork
from trafficgrad.network.files import save_network
from trafficgrad.network.signal_defaults import default_programmes

FOOT, MPH = 0.3048, 0.44704  # m, m/s
LIMIT = 25.0 * MPH
LANE_WIDTH = 3.2  # m, between 10 and 11 ft
BLOCK = 200.0  # ft between one street and the next
END = 150.0  # m of road beyond the outermost junctions
CYCLE, SHORTEST_CYCLE, YELLOW, ALL_RED = 90.0, 30.0, 3.0, 2.0  # s
STREET_SHARE, WIDE_STREET_SHARE = 0.375, 0.475  # of the green time, 30 and 38 s; the avenues get the rest
WAVE = 10.0  # m/s, at which the avenues' greens move on: a little below the speed limit
RATES = {"avenue": 300.0, "street": 205.0, "wide street": 155.0}  # vehicles/h that come on each lane
THROUGH = 0.6  # share of the trips that go straight through
LEFT_OF = {"north": "west", "west": "south", "south": "east", "east": "north"}


class Road(NamedTuple):
    """An avenue or a street."""

    name: str
    width: float  # ft, from house to house
    directions: tuple[str, ...]  # of avenues north and south, of streets east and west
    lanes: int  # in each direction
    at: float  # ft, x of an avenue, y of a street


def avenues() -> list[Road]:
    """From west to east."""
    rows: list[tuple[str, float, tuple[str, ...], int, float]] = [  # the last number: ft of block to its west
        ("tenth", 100, ("north",), 4, 0),
        ("ninth", 100, ("south",), 3, 800),
        ("eighth", 100, ("north",), 4, 800),
        ("seventh", 100, ("south",), 4, 800),
        ("sixth", 100, ("north",), 4, 800),
        ("fifth", 100, ("south",), 3, 920),
        ("madison", 80, ("north",), 3, 420),
        ("park", 140, ("north", "south"), 3, 400),
        ("lexington", 75, ("south",), 3, 405),
        ("third", 100, ("north",), 4, 420),
        ("second", 100, ("south",), 4, 610),
        ("first", 100, ("north",), 4, 650),
    ]
    found, edge = [], 0.0
    for name, width, directions, lanes, block in rows:
        found.append(Road(name, width, directions, lanes, edge + block + width / 2))
        edge += block + width
    return found


def streets() -> list[Road]:
    """From south to north: even ones lead east, odd ones west, wide ones both ways."""
    found, edge = [], 0.0
    for number in range(34, 60):
        wide = number in (34, 42, 57, 59)
        width = 100.0 if wide else 60.0
        directions = ("east", "west") if wide else ("east",) if number % 2 == 0 else ("west",)
        found.append(Road(str(number), width, directions, 2 if wide else 1, edge + width / 2))
        edge += width + BLOCK
    return found


def kind_of(road: Road) -> str:
    """``avenue``, ``street`` or ``wide street``."""
    return "avenue" if not road.name.isdecimal() else "wide street" if len(road.directions) > 1 else "street"


def name_of(road: Road, direction: str, place: str) -> str:
    """Name of the edge that leads to the junction with the road ``place``, or ``out``."""
    return f"{'street_' if road.name.isdecimal() else ''}{road.name}_{direction}_{place}"


def draw(cycle: float = CYCLE) -> nx.MultiDiGraph:
    """The road graph, with signals of ``cycle`` s."""
    graph = nx.MultiDiGraph()
    across, along = streets(), avenues()
    for avenue in along:
        for street in across:
            position = (round(avenue.at * FOOT, 2), round(street.at * FOOT, 2))
            graph.add_node(f"{avenue.name}_{street.name}", position=position, right_of_way="signals")
    for road, crossed in [(a, across) for a in along] + [(s, along) for s in across]:
        for direction in road.directions:
            _add_road(graph, road, direction, crossed if direction in ("north", "east") else crossed[::-1])
    graph = default_programmes(graph, yellow=YELLOW, all_red=ALL_RED)
    for avenue in along:
        for street in across:
            _time_signal(graph, avenue, street, cycle)
    return graph


def _add_road(graph: nx.MultiDiGraph, road: Road, direction: str, crossed: list[Road]) -> None:
    """One direction of a road, from end to end."""
    is_avenue = kind_of(road) == "avenue"
    behind, ahead = {
        "north": ("south", "north"), "south": ("north", "south"), "east": ("west", "east"), "west": ("east", "west")
    }[direction]  # fmt: skip
    x, y = {"north": (0.0, END), "south": (0.0, -END), "east": (END, 0.0), "west": (-END, 0.0)}[direction]
    nodes = [f"{road.name}_{other.name}" if is_avenue else f"{other.name}_{road.name}" for other in crossed]
    ends = f"{road.name}_{behind}_end", f"{road.name}_{ahead}_end"
    for node, beside, sign in zip(ends, (nodes[0], nodes[-1]), (-1, 1), strict=True):
        place = graph.nodes[beside]["position"]
        graph.add_node(node, position=(round(place[0] + sign * x, 2), round(place[1] + sign * y, 2)), connections=())
    nodes = [ends[0], *nodes, ends[1]]
    places = [*(other.name for other in crossed), "out"]
    for (start, end), place in zip(pairwise(nodes), places, strict=True):
        name = name_of(road, direction, place)
        values = {"lanes": road.lanes, "lane_width": LANE_WIDTH, "speed_limit": round(LIMIT, 3)}
        graph.add_edge(start, end, key=name, name=name, **values)


def _time_signal(graph: nx.MultiDiGraph, avenue: Road, street: Road, cycle: float) -> None:
    """Give a signal its greens and its place in the avenue's green wave."""
    node = f"{avenue.name}_{street.name}"
    programme = graph.graph["signals"][node]
    ways = graph.nodes[node]["connections"]
    greens = cycle - 2 * (YELLOW + ALL_RED)
    green = (WIDE_STREET_SHARE if kind_of(street) == "wide street" else STREET_SHARE) * greens
    begun, avenue_starts = 0.0, 0.0
    for phase in programme["phases"]:
        shown = [way for way, letter in zip(ways, phase["state"], strict=True) if letter in "gG"]
        if shown:
            on_avenue = str(shown[0].from_edge[2]).startswith(avenue.name)
            phase["duration"] = greens - green if on_avenue else green
            avenue_starts = begun if on_avenue else avenue_starts
        begun += phase["duration"]
    # Park Avenue, which goes both ways, has its wave uptown.
    way = street.at * FOOT if "north" in avenue.directions else (streets()[-1].at - street.at) * FOOT
    programme["offset"] = round((way / WAVE - avenue_starts) % cycle, 1)


def trips() -> list[tuple[str, str, float]]:
    """From, to, vehicles/h: straight through, or with one turn into any road across, in proportion to its lanes.

    Nobody turns left where others come the other way: a signal without a phase for it lets hardly anybody through.
    """
    found = []
    for roads, others in ((avenues(), streets()), (streets(), avenues())):
        for road in roads:
            for direction in road.directions:
                barred = LEFT_OF[direction] if len(road.directions) > 1 else None
                ends = [(other, way) for other in others for way in other.directions if way != barred]
                lanes = sum(other.lanes for other, _ in ends)
                first = others[0] if direction in ("north", "east") else others[-1]
                start = name_of(road, direction, first.name)
                rate = road.lanes * RATES[kind_of(road)]
                found.append((start, name_of(road, direction, "out"), THROUGH * rate))
                for other, way in ends:
                    found.append((start, name_of(other, way, "out"), (1.0 - THROUGH) * rate * other.lanes / lanes))
    return found


def write(folder: Path, cycle: float = CYCLE) -> tuple[Path, Path]:
    """Write ``midtown.json`` and ``midtown_trips.csv``."""
    graph = draw(cycle)
    RoadNetwork.from_graph(graph)  # refuses what makes no sense
    network, table = save_network(graph, folder / "midtown.json"), folder / "midtown_trips.csv"
    rows = ["from,to,rate", *(f"{start},{end},{rate:.2f}" for start, end, rate in trips())]
    with complete_file(table) as partial:
        partial.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return network, table


def main() -> None:
    """Write both files and say where."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--output", type=Path, default=Path("scenarios"), help="folder")
    parser.add_argument("--cycle", type=float, default=CYCLE, help="of the signals, s")
    options = parser.parse_args()
    if not options.cycle >= SHORTEST_CYCLE:
        parser.error(f"--cycle must be at least {SHORTEST_CYCLE:g} s, got {options.cycle:g}")
    options.output.mkdir(parents=True, exist_ok=True)
    for path in write(options.output, options.cycle):
        print(path)


if __name__ == "__main__":
    main()
