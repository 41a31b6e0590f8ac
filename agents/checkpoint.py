"""Checkpoints: plain dicts of tensors and numbers, written atomically, read without executing anything.

``last.pt`` holds everything that a run needs to go on; ``best.pt`` only the policy with the best score, for looking at.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor

from trafficgrad import __version__
from trafficgrad.agents.actor_critic import Actor, ActorCritic, Policy, PolicySpec
from trafficgrad.agents.normalizer import ObservationNormalizer
from trafficgrad.errors import TrafficGradError
from trafficgrad.files import complete_file

FORMAT = 1
LAST, BEST, CONFIG = "last.pt", "best.pt", "config.yaml"


def policy_record(networks: ActorCritic, yaml: str, score: float | None, decisions: int) -> dict[str, Any]:
    """What a policy needs to act again, and where it came from."""
    return {
        "format": FORMAT,
        "version": __version__,
        "yaml": yaml,
        "score": score,
        "decisions": decisions,
        "policy": {
            "spec": networks.spec.to_dict(),
            "actor": snapshot(networks.actor.state_dict()),
            "normalizer": snapshot(networks.normalizer.state_dict()),
        },
    }


def snapshot(tree: Any) -> Any:
    """A copy of nested dicts, lists and tensors that later training does not change."""
    return pytree.tree_map(lambda x: x.detach().clone() if isinstance(x, Tensor) else x, tree)


def tensors_of(record: Any) -> list[Tensor]:
    """All tensors of a record, in order (the structure comes back from a fresh record of the same kind)."""
    return [x for x in pytree.tree_leaves(record) if isinstance(x, Tensor)]


def rebuild(structure: Any, tensors: list[Tensor]) -> Any:
    """``structure`` with its tensors replaced by those of :func:`tensors_of`.

    Raises:
        TrafficGradError: number, shape or type do not fit.
    """
    leaves, spec = pytree.tree_flatten(structure)
    places = [i for i, x in enumerate(leaves) if isinstance(x, Tensor)]
    fits = len(places) == len(tensors) and all(
        isinstance(x, Tensor) and x.shape == leaves[i].shape and x.dtype == leaves[i].dtype
        for i, x in zip(places, tensors, strict=True)
    )
    if not fits:
        raise TrafficGradError(
            "the checkpoint's environment state does not fit this scenario: resume with the configuration of the run"
        )
    for i, x in zip(places, tensors, strict=True):
        leaves[i] = x.to(leaves[i].device)
    return pytree.tree_unflatten(leaves, spec)


def save_checkpoint(record: dict[str, Any], path: Path) -> None:
    """Write ``record`` to ``path``; the old file stays whole until the new one is complete."""
    with complete_file(path) as partial:
        torch.save(record, partial)


def load_checkpoint(path: str | Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a checkpoint; only tensors and plain values are accepted, no code is run.

    Raises:
        TrafficGradError: the file is missing, damaged, of another kind or version, or holds anything but plain data.
    """
    path = Path(path)
    if not path.is_file():
        raise TrafficGradError(f"{path}: no such checkpoint")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a foreign file gets one sentence, not torch's guesses
            record = torch.load(path, map_location=device, weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # a damaged file may fail anywhere inside the reader, with any type
        raise TrafficGradError(
            f"{path}: cannot be read as a trafficgrad checkpoint; it is damaged, or holds more than tensors and plain "
            "values"
        ) from error
    if not isinstance(record, dict) or not {"format", "policy", "yaml"} <= record.keys():
        raise TrafficGradError(f"{path}: is no trafficgrad checkpoint")
    if record["format"] != FORMAT:
        raise TrafficGradError(f"{path}: has checkpoint format {record['format']}, this version reads {FORMAT}")
    return record


def find_checkpoint(run: str | Path) -> Path:
    """The checkpoint to look at: ``run`` itself if it is a file, else ``best.pt`` or ``last.pt`` in that folder.

    Raises:
        TrafficGradError: there is none.
    """
    run = Path(run)
    if run.is_file():
        return run
    if not run.is_dir():
        raise TrafficGradError(f"{run}: no such run folder or checkpoint")
    for name in (BEST, LAST):
        if (run / name).is_file():
            return run / name
    raise TrafficGradError(f"{run}: is no run folder, it holds neither {BEST} nor {LAST}")


def policy_of(record: dict[str, Any], source: str | Path, device: torch.device | str = "cpu") -> Policy:
    """The deterministic policy of a checkpoint that was read from ``source``.

    Raises:
        TrafficGradError: its parts do not fit together.
    """
    try:
        parts = record["policy"]
        spec = PolicySpec.from_dict(parts["spec"])
        weights = parts["actor"]["log_std"]
        actor = Actor(spec).to(dtype=weights.dtype)
        actor.load_state_dict(parts["actor"])
        normalizer = ObservationNormalizer(spec.observation_size).to(dtype=weights.dtype)
        normalizer.load_state_dict(parts["normalizer"])
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, IndexError) as error:
        raise TrafficGradError(
            f"{source}: the policy in this checkpoint is incomplete or does not fit together"
        ) from error
    return Policy(actor, normalizer).to(device).requires_grad_(False)


def load_policy(run: str | Path, device: torch.device | str = "cpu") -> Policy:
    """The deterministic policy of a run folder (its best, else its last) or of a checkpoint file; needs no environment.

    Returns:
        A callable: raw observation [..., O] in, mean action [..., A] out, in units of the environment's action scale;
        a shared policy takes any number of vehicles, [..., C, O].

    Raises:
        TrafficGradError: no such run, or a damaged or foreign file.
    """
    path = find_checkpoint(run)
    return policy_of(load_checkpoint(path, device), path, device)
