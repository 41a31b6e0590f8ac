"""Make the small SUMO networks in tests/data from plain XML that stands here.

    pip install eclipse-sumo && python tests/oracles/record_sumo_networks.py

Needs netconvert on the PATH. What each network holds is written beside it, so that tests need not trust the importer.
"""

from __future__ import annotations

import gzip
import re
import subprocess
import tempfile
from pathlib import Path

DATA = Path(__file__).parents[1] / "data"

# A street with a footpath (lane 0), a bus lane (1) and two car lanes (2, 3) meets a signal, a tram line crosses it, and
# a footpath of its own leads from the signal to a square that no road reaches.
LANES = {
    "nod": """
        <node id="west" x="0" y="0"/> <node id="signal" x="100" y="0" type="traffic_light"/>
        <node id="east" x="200" y="0"/>
        <node id="south" x="100" y="-80"/> <node id="square" x="160" y="80"/>
        <node id="tram_south" x="150" y="-80"/> <node id="rails" x="150" y="0"/>
        <node id="tram_north" x="150" y="80"/>""",
    "edg": """
        <edge id="in" from="west" to="signal" numLanes="4" speed="13.89" priority="3" name="High street">
            <lane index="0" allow="pedestrian" width="2"/> <lane index="1" allow="bus"/>
            <lane index="3" speed="11"/></edge>
        <edge id="out" from="signal" to="rails" numLanes="2" speed="13.89" priority="3"/>
        <edge id="end" from="rails" to="east" numLanes="2" speed="13.89" priority="3"/>
        <edge id="side" from="south" to="signal" numLanes="1" speed="8.33" priority="1" width="3"/>
        <edge id="path" from="signal" to="square" numLanes="1" allow="pedestrian bicycle"/>
        <edge id="tram1" from="tram_south" to="rails" numLanes="1" allow="tram"/>
        <edge id="tram2" from="rails" to="tram_north" numLanes="1" allow="tram"/>""",
    "con": """
        <connection from="in" to="out" fromLane="1" toLane="0"/>
        <connection from="in" to="out" fromLane="2" toLane="0"/>
        <connection from="in" to="out" fromLane="3" toLane="1"/>
        <connection from="side" to="out" fromLane="0" toLane="0"/>
        <connection from="out" to="end" fromLane="0" toLane="0"/>
        <connection from="out" to="end" fromLane="1" toLane="1"/>
        <connection from="tram1" to="tram2" fromLane="0" toLane="0"/>""",
    "tll": """
        <tlLogic id="signal" type="actuated" programID="0" offset="7">
            <phase duration="31" minDur="5" maxDur="45" state="GGGr"/> <phase duration="3" state="yyyr"/>
            <phase duration="20" minDur="6" maxDur="30" state="ruuG"/> <phase duration="3" state="rrry"/></tlLogic>
        <tlLogic id="signal" type="static" programID="night" offset="0">
            <phase duration="60" state="OOOo"/></tlLogic>
        <connection from="in" to="out" fromLane="1" toLane="0" tl="signal" linkIndex="0"/>
        <connection from="in" to="out" fromLane="2" toLane="0" tl="signal" linkIndex="1"/>
        <connection from="in" to="out" fromLane="3" toLane="1" tl="signal" linkIndex="2"/>
        <connection from="side" to="out" fromLane="0" toLane="0" tl="signal" linkIndex="3"/>""",
}

_KINDS = ("priority", "right_before_left", "allway_stop", "priority_stop", "zipper")


def rules() -> dict[str, str]:
    """Junctions of every kind, each a crossing of a main road (m) with a minor one (n); for the zipper a merge."""
    nodes, edges = [], []
    for k, kind in enumerate(_KINDS):
        x = 300 * k
        nodes.append(f'<node id="{kind}" x="{x}" y="0" type="{kind}"/>')
        arms = {"w": (-100, 0), "e": (100, 0), "s": (0, -100), "n": (0, 100)}
        if kind == "zipper":
            arms = {"w": (-100, 0), "e": (100, 0), "s": (-90, -50)}
        for arm, (dx, dy) in arms.items():
            nodes.append(f'<node id="{kind}_{arm}" x="{x + dx}" y="{dy}"/>')
            priority = 2 if arm in "we" and kind not in ("right_before_left", "allway_stop") else 1
            road = f'priority="{priority}" speed="13.89"'
            if not (kind == "zipper" and arm == "e"):
                edges.append(f'<edge id="{kind}_{arm}i" from="{kind}_{arm}" to="{kind}" {road}/>')
            if not (kind == "zipper" and arm in "ws"):
                edges.append(f'<edge id="{kind}_{arm}o" from="{kind}" to="{kind}_{arm}" {road}/>')
    return {"nod": "\n".join(nodes), "edg": "\n".join(edges)}


# One road of two lanes that turns right: on the left hand, lane 0 of SUMO is the left one.
LEFT_HAND = {
    "nod": '<node id="a" x="0" y="0"/> <node id="b" x="100" y="0"/> <node id="c" x="100" y="-100"/>',
    "edg": """<edge id="ab" from="a" to="b" numLanes="2"><lane index="0" speed="10"/></edge>
        <edge id="bc" from="b" to="c" numLanes="2"/>""",
}
_ROOTS = {"nod": ("nodes", "-n"), "edg": ("edges", "-e"), "con": ("connections", "-x"), "tll": ("tlLogics", "-i")}


def convert(parts: dict[str, str], target: Path, *options: str) -> None:
    """Let netconvert make a network of plain XML, without its comment that tells folders and the time."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["netconvert", "--no-turnarounds", "--offset.disable-normalization", *options]
        for kind, text in parts.items():
            root, option = _ROOTS[kind]
            file = Path(folder) / f"plain.{kind}.xml"
            file.write_text(f"<{root}>{text}</{root}>")
            command += [option, str(file)]
        net = Path(folder) / "made.net.xml"
        subprocess.run([*command, "-o", str(net)], check=True)
        text = re.sub(r"<!--.*?-->\s*", "", net.read_text(), flags=re.DOTALL)
    # The time in an archive's header is left out too, so that a second run makes the same file.
    target.write_bytes(gzip.compress(text.encode(), mtime=0) if target.suffix == ".gz" else text.encode())


if __name__ == "__main__":
    DATA.mkdir(exist_ok=True)
    convert(LANES, DATA / "lanes.net.xml")
    convert(rules(), DATA / "rules.net.xml.gz")
    convert(LEFT_HAND, DATA / "left_hand.net.xml", "--lefthand")
