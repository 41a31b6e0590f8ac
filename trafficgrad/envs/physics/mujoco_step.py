"""MuJoCo's step as a function that PyTorch differentiates: batches of worlds forwards, finite differences backwards.

Forwards, all worlds go through one call of MuJoCo's thread pool, and nothing else is computed. Backwards there are two
ways, both exact up to the error of differences (about 1e-6):

* ``euler``: MuJoCo's own derivatives of a step (``mjd_transitionFD``, which skips what a perturbation cannot change) at
  every substep, chained by the adjoint;
* ``rk4``: of the whole decision, from perturbed copies of every world in one call of the thread pool.

Derivatives are taken in the tangent space, where a rotation has three coordinates and not the four of its quaternion.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trafficgrad.envs.transition import Pullback, with_pullback
from trafficgrad.errors import TrafficGradError
from trafficgrad.kernels.library import threads
from trafficgrad.physics_scenario import Integrator

if TYPE_CHECKING:
    import mujoco

Array = NDArray[np.float64]
_LEAST = 16  # substeps of one world that are worth a thread


def load_mujoco() -> Any:
    """The package ``mujoco``.

    Raises:
        TrafficGradError: it is not installed, or cannot be loaded.
    """
    try:
        import mujoco
        import mujoco.rollout
    except ImportError as error:
        raise TrafficGradError(
            f'hopper, ant and half-cheetah need MuJoCo ({error}): pip install "trafficgrad[physics]"'
        ) from None
    except RuntimeError as error:  # of a wrong variable MUJOCO_GL
        raise TrafficGradError(f"MuJoCo cannot be loaded: {error}") from None
    return mujoco


def gymnasium_model(file: str) -> mujoco.MjModel:
    """A model of gymnasium's, by the name of its file, such as ``hopper.xml``.

    Raises:
        TrafficGradError: MuJoCo is not installed.
    """
    mujoco = load_mujoco()
    import gymnasium.envs.mujoco as package

    told = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(lambda _: None)  # of what is old-fashioned in gymnasium's files
    try:
        return mujoco.MjModel.from_xml_path(os.path.join(os.path.dirname(package.__file__), "assets", file))
    finally:
        mujoco.set_mju_user_warning(told)


class MujocoStep:
    """``frame_skip`` steps of a model with the control held, [B, nq + nv] and [B, nu] -> [B, nq + nv].

    A state is MuJoCo's ``qpos`` and ``qvel``, in float64 as all of MuJoCo is; controls of another type are converted.
    Called like a function it is differentiable, once. Models with actuators that have a state of their own, or motion
    capture, are not covered.

    Attributes:
        model: MuJoCo's. seconds: of one call, s. jacobians: derivatives taken so far, of one world and decision each.
    """

    def __init__(
        self,
        model: mujoco.MjModel,
        frame_skip: int = 1,
        integrator: Integrator = "rk4",
        eps: float = 1e-8,
        centred: bool = False,
    ) -> None:
        """Take the model, whose integrator is set.

        Parameters:
            model: MuJoCo's. frame_skip: steps of a call. integrator: ``euler`` or ``rk4``.
            eps: perturbation of the differences. centred: to both sides, twice as dear.

        Raises:
            TrafficGradError: a model that is not covered, no step, no perturbation.
        """
        mujoco = self._mujoco = load_mujoco()
        if model.na or model.nmocap or getattr(model, "nhistory", 0):
            raise TrafficGradError(
                "this model's actuators have a state of their own, or something in it is moved from outside: expected "
                "one whose whole state is qpos and qvel"
            )
        if frame_skip < 1 or not eps > 0:
            raise TrafficGradError(f"expected frame_skip >= 1 and eps > 0, got {frame_skip} and {eps}")
        model.opt.integrator = {
            "euler": mujoco.mjtIntegrator.mjINT_EULER,
            "rk4": mujoco.mjtIntegrator.mjINT_RK4,
        }[integrator]
        self.model, self.frame_skip, self.integrator, self.eps, self.centred = (
            model,
            frame_skip,
            integrator,
            eps,
            centred,
        )
        self.seconds = model.opt.timestep * frame_skip
        self.jacobians = 0
        self._full = mujoco.mjtState.mjSTATE_FULLPHYSICS
        self._size = mujoco.mj_stateSize(model, self._full)  # time, qpos, qvel
        assert self._size == 1 + model.nq + model.nv, "nothing else belongs to the state"
        self._tangent = _TangentSpace(model)
        self._pools: dict[int, tuple[Any, list[Any]]] = {}
        self._workers: ThreadPoolExecutor | None = None
        self._step = with_pullback(self.forward, self.vjp)

    def __call__(self, state: Tensor, control: Tensor) -> Tensor:
        """The state after ``frame_skip`` steps, float64."""
        device, state = state.device, state.double()
        if device.type == "cpu":
            return self._step(state, control.double())
        return self._step(state.cpu(), control.double().cpu()).to(device)

    def forward(self, state: Tensor, control: Tensor) -> Tensor:
        """The same without a graph."""
        return torch.from_numpy(self._roll(state.numpy(), control.numpy())[:, -1])

    def vjp(self, state: Tensor, control: Tensor) -> tuple[Tensor, Pullback]:
        """The same with its pullback; see :func:`trafficgrad.envs.transition.with_pullback`."""
        begun, held = state.numpy(), control.numpy()
        passed = self._roll(begun, held)
        chain = self._chained if self.integrator == "euler" else self._perturbed

        def pullback(cotangent: Tensor) -> tuple[Tensor, Tensor]:
            # A world that ended was replaced by a fresh one: nothing comes back from there, and nothing is computed.
            rows = cotangent.any(1).nonzero()[:, 0].numpy()
            by_state, by_control = np.zeros_like(begun), np.zeros_like(held)
            if len(rows):
                own = self._tangent.pulled(passed[rows, -1], cotangent.numpy()[rows])
                by_tangent, by_control[rows] = chain(begun[rows], passed[rows], held[rows], own)
                by_state[rows] = self._tangent.lifted(begun[rows], by_tangent)
                self.jacobians += len(rows)
            return torch.from_numpy(by_state), torch.from_numpy(by_control)

        return torch.from_numpy(passed[:, -1]), pullback

    # ------------------------------------------------------------------ forwards

    def _roll(self, state: Array, control: Array) -> Array:
        """[B, frame_skip, nq + nv], the states after every step."""
        begun = np.zeros((len(state), self._size))
        begun[:, 1:] = state
        held = np.repeat(control[:, None], self.frame_skip, 1)
        pool, data = self._pool(threads() if len(state) > 1 else 1)
        passed, _ = pool.rollout(self.model, data, begun, held)
        return np.ascontiguousarray(passed[..., 1:])

    def _pool(self, count: int) -> tuple[Any, list[Any]]:
        """MuJoCo's thread pool and memory for each of its threads."""
        if count not in self._pools:
            pool = self._mujoco.rollout.Rollout(nthread=count if count > 1 else 0)
            self._pools[count] = pool, [self._mujoco.MjData(self.model) for _ in range(count)]
        return self._pools[count]

    # ----------------------------------------------------------------- backwards

    def _chained(self, begun: Array, passed: Array, control: Array, cotangent: Array) -> tuple[Array, Array]:
        """Adjoint of the steps one by one, from MuJoCo's derivatives of each; in tangent coordinates."""
        nq, nv, nu = self.model.nq, self.model.nv, self.model.nu
        worlds, count = len(begun), len(begun) * self.frame_skip
        before = np.concatenate([begun[:, None], passed[:, :-1]], 1).reshape(count, nq + nv)
        # The solver begins where it will end, so its result does not depend on what its memory held before.
        warm = ((passed.reshape(count, nq + nv) - before)[:, nq:]) / self.model.opt.timestep
        state = np.zeros((count, self._size))
        state[:, 1:] = before
        by_state, by_control = np.empty((count, 2 * nv, 2 * nv)), np.empty((count, 2 * nv, nu))

        def differentiate(data: Any, rows: range) -> None:
            for row in rows:
                self._mujoco.mj_setState(self.model, data, state[row], self._full)
                data.ctrl[:] = control[row // self.frame_skip]
                data.qacc_warmstart[:] = warm[row]
                self._mujoco.mjd_transitionFD(
                    self.model, data, self.eps, self.centred, by_state[row], by_control[row], None, None
                )

        self._share(differentiate, count)
        by_state = by_state.reshape(worlds, self.frame_skip, 2 * nv, 2 * nv)
        by_control = by_control.reshape(worlds, self.frame_skip, 2 * nv, nu)
        slope = np.zeros((worlds, nu))
        for k in reversed(range(self.frame_skip)):
            slope += np.einsum("bi,biu->bu", cotangent, by_control[:, k])
            cotangent = np.einsum("bi,bij->bj", cotangent, by_state[:, k])
        return cotangent, slope

    def _share(self, work: Callable[[Any, range], None], count: int) -> None:
        """Do ``work`` on rows 0 to ``count`` in as many threads as are allowed and worth it."""
        most = min(threads(), max(1, count // _LEAST))
        _, data = self._pool(most)
        if most == 1:
            work(data[0], range(count))
            return
        if self._workers is None:
            self._workers = ThreadPoolExecutor(max_workers=os.cpu_count(), thread_name_prefix="mujoco")
        parts = [range(k * count // most, (k + 1) * count // most) for k in range(most)]
        for done in [self._workers.submit(work, own, part) for own, part in zip(data, parts, strict=True)]:
            done.result()

    def _perturbed(self, begun: Array, passed: Array, control: Array, cotangent: Array) -> tuple[Array, Array]:
        """Adjoint of all steps at once, from perturbed copies of every world; in tangent coordinates."""
        nv, tangent = self.model.nv, self._tangent
        inputs, worlds = 2 * nv + self.model.nu, len(begun)
        # A control at the upper end of its range is perturbed downwards: beyond it would be clamped.
        limit = np.where(self.model.actuator_ctrllimited, self.model.actuator_ctrlrange[:, 1], np.inf)
        sign = np.ones((worlds, inputs))
        sign[:, 2 * nv :][control + self.eps > limit] = -1.0
        shift = self.eps * np.eye(inputs) * sign[:, None, :]
        starts, held = np.repeat(begun[:, None], inputs, 1), np.repeat(control[:, None], inputs, 1)
        sides = (1.0, -1.0) if self.centred else (1.0,)
        states = [tangent.moved(starts, side * shift[..., : 2 * nv]) for side in sides]
        controls = [held + side * shift[..., 2 * nv :] for side in sides]
        rows = len(sides) * worlds * inputs
        after = self._roll(np.stack(states).reshape(rows, -1), np.stack(controls).reshape(rows, -1))[:, -1]
        ends = after.reshape(len(sides), worlds, inputs, -1)
        middle = np.repeat(passed[:, None, -1], inputs, 1)
        moved = tangent.between(ends[1] if self.centred else middle, ends[0])
        moved /= (2.0 if self.centred else 1.0) * self.eps * sign[..., None]
        slopes = np.einsum("bio,bo->bi", moved, cotangent)
        return slopes[:, : 2 * nv], slopes[:, 2 * nv :]


class _TangentSpace:
    """Coordinates [..., 2 nv] of small changes of a state [..., nq + nv]; of a rotation: turns about the body's."""

    def __init__(self, model: mujoco.MjModel) -> None:
        self.nq, self.nv = model.nq, model.nv
        quaternions, self.plain_q, self.plain_v = [], list(range(model.nq)), list(range(model.nv))
        for kind, q, v in zip(model.jnt_type, model.jnt_qposadr, model.jnt_dofadr, strict=True):
            if kind in (0, 1):  # mjJNT_FREE, mjJNT_BALL
                at = (int(q) + 3, int(v) + 3) if kind == 0 else (int(q), int(v))
                quaternions.append(at)
                self.plain_q = [i for i in self.plain_q if not at[0] <= i < at[0] + 4]
                self.plain_v = [i for i in self.plain_v if not at[1] <= i < at[1] + 3]
        self.quaternions = quaternions

    def pulled(self, state: Array, cotangent: Array) -> Array:
        """Cotangent by the state's numbers -> by tangent coordinates."""
        result = np.empty((*state.shape[:-1], 2 * self.nv))
        result[..., self.plain_v] = cotangent[..., self.plain_q]
        result[..., self.nv :] = cotangent[..., self.nq :]
        for q, v in self.quaternions:
            e = _directions(state[..., q : q + 4])
            result[..., v : v + 3] = 0.5 * np.einsum("...qv,...q->...v", e, cotangent[..., q : q + 4])
        return result

    def lifted(self, state: Array, cotangent: Array) -> Array:
        """Cotangent by tangent coordinates -> by the state's numbers; along a quaternion, which is normalised, 0."""
        result = np.empty_like(state)
        result[..., self.plain_q] = cotangent[..., self.plain_v]
        result[..., self.nq :] = cotangent[..., self.nv :]
        for q, v in self.quaternions:
            quaternion = state[..., q : q + 4]
            length = np.linalg.norm(quaternion, axis=-1, keepdims=True)
            e = _directions(quaternion / length)
            result[..., q : q + 4] = 2.0 * np.einsum("...qv,...v->...q", e, cotangent[..., v : v + 3]) / length
        return result

    def moved(self, state: Array, change: Array) -> Array:
        """The state that tangent coordinates ``change`` lead to."""
        result = state.copy()
        result[..., self.plain_q] += change[..., self.plain_v]
        result[..., self.nq :] += change[..., self.nv :]
        for q, v in self.quaternions:
            turn = change[..., v : v + 3]
            angle = np.linalg.norm(turn, axis=-1, keepdims=True)
            quaternion = state[..., q : q + 4]
            # sin(x / 2) / x without dividing by 0
            part = 0.5 * np.sinc(0.5 * angle / np.pi)
            turned = np.cos(0.5 * angle) * quaternion + part * np.einsum(
                "...qv,...v->...q", _directions(quaternion), np.broadcast_to(turn, (*quaternion.shape[:-1], 3))
            )
            result[..., q : q + 4] = turned
        return result

    def between(self, start: Array, end: Array) -> Array:
        """Tangent coordinates that lead from ``start`` to ``end``, which are close to each other."""
        result = np.empty((*start.shape[:-1], 2 * self.nv))
        result[..., self.plain_v] = (end - start)[..., self.plain_q]
        result[..., self.nv :] = (end - start)[..., self.nq :]
        for q, v in self.quaternions:
            a, b = start[..., q : q + 4], end[..., q : q + 4]
            a = a / np.linalg.norm(a, axis=-1, keepdims=True)
            b = b / np.linalg.norm(b, axis=-1, keepdims=True)
            # Of the rotation between them: vector part sin(x / 2), scalar part cos(x / 2).
            vector = np.einsum("...qv,...q->...v", _directions(a), b)
            scalar = np.einsum("...q,...q->...", a, b)[..., None]
            sine = np.linalg.norm(vector, axis=-1, keepdims=True)
            angle = 2.0 * np.arctan2(sine, np.abs(scalar)) * np.where(scalar < 0, -1.0, 1.0)
            factor = np.where(sine > 1e-150, angle / np.maximum(sine, 1e-150), 2.0)
            result[..., v : v + 3] = factor * vector
        return result


def _directions(quaternion: Array) -> Array:
    """[..., 4, 3], E(q): a turn by the small vector w about the body's axes changes q by E(q) w / 2."""
    w, x, y, z = np.moveaxis(quaternion, -1, 0)
    rows = [[-x, -y, -z], [w, -z, y], [z, w, -x], [-y, x, w]]
    return np.stack([np.stack(row, -1) for row in rows], -2)
