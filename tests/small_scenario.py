"""Scenario files that several tests use."""

SMALL = """\
kind: traffic
name: small
network:
  kind: ring
  length: 200.0
  lanes: 2
simulation: {horizon_steps: 20, decision_steps: 5}
vehicles:
  human:
    count: 9
    desired_speed: {uniform: [15, 35]}
  controlled:
    count: 2
    placement: {lane: 1, rows: [0, 3]}
reward:
  - kind: pace
    target: 12.0
"""
