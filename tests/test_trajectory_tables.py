"""Recorded trajectories from tables: columns, units, leaders, and the records of followers in them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_trajectories import records_of, write_pairs

import trafficgrad as tg
from trafficgrad.calibration import Reading, following_records, read_trajectories


def test_a_table_gives_the_records_it_was_written_from(tmp_path, ten_drivers):
    _, record = ten_drivers
    data = read_trajectories(write_pairs(tmp_path / "pairs.csv", record))
    records = following_records(data)
    cars = [row for row, driver in enumerate(records.driver.tolist()) if records.ids[driver].startswith("car")]
    assert len(cars) == 10 and records.dt == pytest.approx(0.1)
    torch.testing.assert_close(records.position[:, cars], record.position[..., 1], rtol=0, atol=1e-9)
    torch.testing.assert_close(records.leader_rear[:, cars], record.position[..., 0] - 5.0, rtol=0, atol=1e-9)
    torch.testing.assert_close(records.leader_speed[:, cars], record.speed[..., 0], rtol=0, atol=1e-9)
    trucks = [row for row, driver in enumerate(records.driver.tolist()) if records.ids[driver].startswith("truck")]
    assert torch.isinf(records.leader_rear[:, trucks]).all()


def table(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_columns_and_units_are_as_told(tmp_path):
    rows = "".join(f"7;{100 * k};{3.0 * k};{36.0};12\n".replace(";", ",") for k in range(80))
    lead = "".join(f"12,{100 * k},{100.0 + 3.0 * k},36.0,0\n" for k in range(80))
    path = table(tmp_path / "d.csv", "Vehicle_ID,Frame,Local_Y,v_Vel,Preceding\n" + rows + lead)
    columns = {"id": "Vehicle_ID", "time": "Frame", "position": "Local_Y", "speed": "v_Vel", "leader": "Preceding"}
    units = {"time": "ms", "position": "ft", "speed": "km/h"}
    data = read_trajectories(path, Reading(columns=columns, units=units, length=4.0))
    assert data.dt == pytest.approx(0.1)
    assert data.speed[0] == pytest.approx([10.0, 10.0])
    assert data.gap[10, 0] == pytest.approx(100.0 * 0.3048 - 4.0)
    assert np.isinf(data.gap[:, 1]).all() and (data.leader_speed[:, 1] == 0.0).all()


def test_leaders_are_found_where_the_table_does_not_name_them(tmp_path):
    """Next ahead in the same lane; on a ring the last follows the first."""
    text = "id,time,position,lane\n"
    for k in range(60):
        for name, start, lane in (("a", 10.0, 1), ("b", 40.0, 1), ("c", 25.0, 2)):
            text += f"{name},{0.1 * k:.1f},{(start + k) % 100.0},{lane}\n"
    data = read_trajectories(table(tmp_path / "d.csv", text), Reading(circumference=100.0))
    assert data.lane[0].tolist() == [0, 0, 1]
    assert (data.leader == np.array([1, 0, -1])).all()
    assert data.gap[:, 0] == pytest.approx(25.0) and data.gap[:, 1] == pytest.approx(65.0)
    assert data.speed[5] == pytest.approx([10.0] * 3)  # the slope of the positions
    open_road = read_trajectories(tmp_path / "d.csv", Reading(lanes_from="left"))
    assert open_road.lane[0].tolist() == [1, 1, 0]
    assert open_road.leader[0].tolist() == [1, -1, -1]


def test_records_go_on_where_the_leader_changes_and_end_where_it_is_lost(tmp_path):
    text = "id,time,gap,speed,leader_speed\n"
    for k in range(400):
        gap = "" if 200 <= k < 210 else f"{20.0 if k < 100 else 60.0}"  # somebody else is ahead, then nobody known
        pace = "" if 300 <= k < 303 else "10.0"  # 0.3 s are missing: filled
        text += f"a,{0.1 * k:.1f},{gap},{pace},10.0\n"
    data = read_trajectories(table(tmp_path / "d.csv", text))
    assert any("filled" in note for note in data.notes) and any("missing number" in note for note in data.notes)
    # An empty gap means a free road here: there is no column that says otherwise.
    records = following_records(data)
    assert records.samples.tolist() == [400]
    assert torch.isinf(records.leader_rear[200:210, 0]).all()
    assert float(records.leader_rear[150, 0] - records.position[150, 0]) == pytest.approx(60.0)
    with_leader = text.replace("leader_speed\n", "leader_speed,leader\n").replace(",10.0\n", ",10.0,x\n")
    lost = following_records(read_trajectories(table(tmp_path / "e.csv", with_leader)))
    assert lost.samples.tolist() == [200, 190]


def test_long_holes_split_and_short_records_are_left_out(tmp_path):
    text = "id,time,gap,speed,leader_speed\n"
    for k in [*range(100), *range(150, 180), *range(300, 400)]:
        text += f"a,{0.1 * k:.1f},20.0,10.0,10.0\n"
    records = following_records(read_trajectories(table(tmp_path / "d.csv", text)))
    assert records.samples.tolist() == [100, 100]
    assert records.start.tolist() == pytest.approx([0.0, 30.0])
    assert any("shorter than 5 s" in note for note in records.notes)


def test_held_out_parts_begin_where_the_fit_ends(ten_drivers):
    _, record = ten_drivers
    first, held = records_of(record).split(0.3, 5.0)
    assert (first.samples + held.samples - 1 == 1201).all()
    torch.testing.assert_close(held.position[0], first.position[-1])
    assert records_of(record).split(0.0, 5.0)[1] is None
    assert records_of(record).split(0.3, 100.0)[1] is None  # too short to be cut


GOOD = "id,time,gap,speed,leader_speed\n" + "".join(f"a,{0.1 * k:.1f},20.0,10.0,10.0\n" for k in range(100))


@pytest.mark.parametrize(
    ("text", "reading", "message"),
    [
        ("", {}, "no column 'id'"),
        ("id,time\n", {}, "expected the column position, or gap and speed"),
        ("id,time,gap,speed\na,0,1,1\n", {}, "need the column leader_speed"),
        ("id,t,position\na,0,1\n", {}, "no column 'time'.*--column time=NAME"),
        ("id,time,position\n", {}, "no row below the header"),
        ("id,time,position\na,0\n", {}, ":2: 2 cells, but the header has 3"),
        ("id,time,position\na,0,1\na,1,fast\n", {}, ":3: position is 'fast', expected a number"),
        ("id,time,position\na,0,1\na,0,2\n", {}, "two samples at 0 s"),
        ("id,time,position\na,0,1\nb,0,2\n", {}, "no vehicle has two complete samples"),
        (GOOD, {"columns": {"speed": "velocity"}}, "no column 'velocity'"),
        (GOOD, {"columns": {"sped": "speed"}}, "unknown column meaning 'sped' .did you mean 'speed'"),
        (GOOD, {"units": {"speed": "knots"}}, "unknown unit 'knots' of speed"),
        (GOOD, {"units": {"mass": "kg"}}, "unknown quantity 'mass'"),
        (GOOD, {"dt": 0.0}, "dt must be a finite number above 0"),
        (GOOD, {"dt": 50.0}, "less than a step of 50 s"),
        (GOOD, {"lanes_from": "middle"}, "right or left"),
    ],
)
def test_tables_that_cannot_be_used_get_one_sentence(tmp_path, text, reading, message):
    path = table(tmp_path / "d.csv", text)
    with pytest.raises(tg.TrafficGradError, match=message) as error:
        read_trajectories(path, Reading(**reading))
    assert "\n" not in str(error.value)


def test_nothing_to_learn_from_is_said(tmp_path):
    text = "id,time,position,leader\n" + "".join(f"a,{0.1 * k:.1f},{k},lost\n" for k in range(100))
    with pytest.raises(tg.TrafficGradError, match="no vehicle is recorded together with its leader"):
        following_records(read_trajectories(table(tmp_path / "d.csv", text)))
    with pytest.raises(tg.TrafficGradError, match="1 stretches are shorter"):
        following_records(read_trajectories(table(tmp_path / "e.csv", GOOD)), shortest=60.0)
