"""Is an environment of one's own what agents rely on? :func:`check_env` tries it out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from trafficgrad import tree
from trafficgrad.envs.base import DifferentiableEnv, Transition
from trafficgrad.envs.check_gradients import check_gradients, check_no_gradient_through_reset
from trafficgrad.errors import TrafficGradError

__all__ = ["check_env"]

# The largest difference that counts as none, relative to 1 + size, between a world in one batch and in another: the
# order of additions may change with it.
_APART = {torch.float64: 1e-9, torch.float32: 1e-4}


def check_env(env: DifferentiableEnv, worlds: int = 4, seed: int = 0) -> None:
    """Check an environment in one episode of random actions; the first thing that is wrong is raised.

    What is checked, in this order:

    1. ``observation_labels``, ``action_labels``, ``agents``, ``horizon`` and ``task_measures`` fit together.
    2. ``reset``: a registered record, shapes, types, clocks at 0; ``generator`` alone decides, and nothing global.
    3. ``stagger`` and ``present``: shapes and types; actions of absent agents do nothing.
    4. ``sample_noise``: ``generator`` alone decides, and ``step`` takes what it returns; with ``noise=None`` too.
    5. ``step``, until every world has ended an episode: its inputs stay as they are, the same inputs give the same
       results, shapes and types; everything is finite; ``terminated``, ``truncated`` and the clock; a world that ended
       begins anew, and ``final_observation`` is the last of the old episode.
    6. A world among others does what it does among copies of itself, be they one more: within 1e-9 (float64) or 1e-4
       (float32) of 1 + the value's size.
    7. Where ``differentiable``: gradients of rewards and final observations by actions, also by those of the step
       before, agree with central differences, within 1e-5 of the largest slope among the worlds in float64 and 2e-2 in
       float32, besides rounding, at the beginning and where worlds end. Points where the forward difference is not the
       backward one (kinks, such as a clip or a switch) do not count. No gradient crosses a reset.

    Give it an environment that computes in float64, if it can: gradients are then checked a thousand times as closely.
    Gradients that are biased on purpose, such as those through a lane choice, do not agree with differences.

    Parameters:
        env: the environment; it plays one episode, ``env.horizon`` decisions of ``worlds`` worlds.
        worlds: batch of worlds, at least 2. seed: of initial states, actions and noise.

    Raises:
        TrafficGradError: one sentence that says what came and what was expected.
    """
    if not isinstance(env, DifferentiableEnv):
        raise TrafficGradError(
            f"expected an object of a class derived from trafficgrad.envs.DifferentiableEnv, got a {type(env).__name__}"
        )
    if worlds < 2:
        raise TrafficGradError(f"expected at least 2 worlds, to see that they do not disturb each other, got {worlds}")
    _check_names(env)
    state = _check_reset(env, worlds, seed)
    trial = _Trial(env, state, torch.Generator().manual_seed(seed + 1))
    trial.check_stagger()
    trial.check_present()
    trial.check_noise()
    ends = trial.play()
    trial.check_alone(seed)
    if env.differentiable:
        for begin in (state, ends):
            check_gradients(env, begin, trial.action, trial.noise)
        check_no_gradient_through_reset(env, ends, trial.action(), trial.noise())


def _check_names(env: DifferentiableEnv) -> None:
    for name in ("observation_labels", "action_labels", "agents", "horizon", "task_measures"):
        if not hasattr(env, name):
            raise TrafficGradError(f"the environment has no attribute {name!r}: see trafficgrad.envs.DifferentiableEnv")
    for name in ("observation_labels", "action_labels", "task_measures"):
        labels = getattr(env, name)
        if not isinstance(labels, tuple) or not all(isinstance(label, str) for label in labels):
            raise TrafficGradError(f"{name} is {labels!r}, expected a tuple of names")
        if len(set(labels)) < len(labels):
            raise TrafficGradError(f"{name} has a name twice: {labels}")
    env.require_control()
    if not env.observation_labels:
        raise TrafficGradError("observation_labels is empty, expected a name for each column of the observation")
    if env.agents is not None and (type(env.agents) is not int or env.agents < 1):
        raise TrafficGradError(f"agents is {env.agents!r}, expected a number of agents from 1 on, or None")
    if type(env.horizon) is not int or env.horizon < 1:
        raise TrafficGradError(f"horizon is {env.horizon!r}, expected a number of steps from 1 on")


def _check_reset(env: DifferentiableEnv, worlds: int, seed: int) -> Any:
    """The state that ``reset`` returned."""
    with _GlobalRandomness("reset"):
        state, again = (env.reset(worlds, torch.Generator().manual_seed(seed)) for _ in range(2))
    known, observation = tree.leaves(state), getattr(state, "observation", None)
    if not any(x is observation for x in known):
        raise TrafficGradError(
            f"reset returned a {type(state).__name__} whose observation is no field of a registered record: expected a "
            "frozen dataclass of tensors decorated with trafficgrad.tree.register_record"
        )
    if any(x.requires_grad for x in known):
        raise TrafficGradError("reset returned tensors that require gradients, expected none")
    if not state.observation.is_floating_point():
        raise TrafficGradError(f"the observation is of type {state.observation.dtype}, expected a floating point type")
    shape = (worlds, *(() if env.agents is None else (env.agents,)), len(env.observation_labels))
    _expect("the observation after reset", observation, shape, None, "worlds, agents unless None, observation_labels")
    _expect("elapsed after reset", getattr(state, "elapsed", None), (worlds,), torch.int64, "worlds")
    if bool(state.elapsed.any()):
        raise TrafficGradError(f"elapsed after reset is {state.elapsed.tolist()}, expected 0 in every world")
    if not _same(state, again):
        raise TrafficGradError(
            "two resets with the same generator differ, expected that it alone decides about initial states"
        )
    _finite("reset", state.observation)
    return state


class _Trial:
    """An environment, the state in which its worlds begin, and the random numbers of a check."""

    def __init__(self, env: DifferentiableEnv, state: Any, generator: torch.Generator) -> None:
        self.env, self.state, self.generator = env, state, generator
        self.worlds, self.dtype, self.device = len(state.elapsed), state.observation.dtype, state.observation.device

    def action(self) -> Tensor:
        """Uniform within +-0.9 of the action's scale, [B, A] or [B, C, A]."""
        env = self.env
        shape = (self.worlds, *(() if env.agents is None else (env.agents,)), len(env.action_labels))
        drawn = torch.rand(shape, generator=self.generator, dtype=self.dtype)
        return ((2.0 * drawn - 1.0) * 0.9).to(self.device)

    def noise(self) -> Tensor | None:
        """What the environment draws."""
        return self.env.sample_noise(self.worlds, self.generator)

    def check_stagger(self) -> None:
        """Worlds in the middle of their episodes."""
        env = self.env
        with _GlobalRandomness("stagger"):
            staggered = env.stagger(self.state, self.generator)
        _like("stagger", staggered, self.state)
        if not bool(((staggered.elapsed >= 0) & (staggered.elapsed < env.horizon)).all()):
            raise TrafficGradError(
                f"elapsed after stagger is {staggered.elapsed.tolist()}, expected 0 to horizon - 1 = {env.horizon - 1}"
            )

    def check_present(self) -> None:
        """Who is there."""
        present = self.env.present(self.state)
        if present is None:
            return
        if self.env.agents is None:
            raise TrafficGradError("present returned a tensor, expected None where agents is None")
        _expect("what present returned", present, (self.worlds, self.env.agents), torch.bool, "worlds, agents")

    def check_noise(self) -> None:
        """What ``sample_noise`` draws."""
        with _GlobalRandomness("sample_noise"):
            noise, again = (self.env.sample_noise(self.worlds, torch.Generator().manual_seed(7)) for _ in range(2))
        if noise is None:
            return
        if not isinstance(noise, Tensor) or not noise.is_floating_point():
            raise TrafficGradError(
                f"sample_noise returned {type(noise).__name__}, expected a tensor of numbers or None"
            )
        if not _same(noise, again):
            raise TrafficGradError("sample_noise draws two things from the same generator, expected one")
        _finite("sample_noise", noise)

    def play(self) -> Any:
        """Check every step of an episode; returns a state from which a step ends an episode in some world."""
        env, state, ends = self.env, self.state, None
        moved, restarted = False, False
        self._step(state, self.action(), None)
        for _ in range(env.horizon):
            action = self.action()
            after, transition = self._step(state, action, self.noise())
            self._check_transition(state, after, transition)
            self._check_absent(state, action)
            done = transition.done
            if bool(done.any()):
                ends = state if ends is None or int(done.sum()) == self.worlds else ends
                final, fresh = transition.final_observation[done], transition.observation[done]
                restarted = restarted or not torch.equal(final, fresh)
            moved = moved or not torch.equal(transition.final_observation, state.observation)
            state = after
        assert ends is not None, "the flags were checked"
        if moved and not restarted:
            raise TrafficGradError(
                "in worlds that ended, observation is final_observation: expected the first observation of a fresh "
                "world after autoreset, and the last one of the world that ended"
            )
        return ends

    def _step(self, state: Any, action: Tensor, noise: Tensor | None) -> tuple[Any, Transition]:
        """A step, checked for purity and determinism."""
        given = [*tree.leaves(state), action, *([] if noise is None else [noise])]
        versions, copies = [x._version for x in given], [x.clone() for x in given]
        with torch.no_grad(), _GlobalRandomness("step"):
            try:
                after, transition = self.env.step(state, action, noise)
                again = self.env.step(state, action, noise)
            except TrafficGradError:
                raise
            except Exception as error:  # whatever the user's step does wrong
                shape = "None" if noise is None else list(noise.shape)
                raise TrafficGradError(
                    f"step failed on an action of shape {list(action.shape)} (worlds, agents unless None, "
                    f"action_labels) and noise {shape} (sample_noise): {type(error).__name__}: {error}"
                ) from error
        if [x._version for x in given] != versions or not _same(given, copies):
            raise TrafficGradError("step changed its inputs in place, expected a pure function: copy before you write")
        if not isinstance(transition, Transition):
            raise TrafficGradError(f"step returned a {type(transition).__name__}, expected a state and a Transition")
        if not _same((after, transition), again):
            raise TrafficGradError(
                "two steps from the same state with the same action and noise differ, expected that these alone decide"
            )
        return after, transition

    def _check_transition(self, before: Any, after: Any, transition: Transition) -> None:
        env, worlds = self.env, self.worlds
        _like("step", after, before)
        shape = tuple(before.observation.shape)
        for name in ("observation", "final_observation"):
            _expect(name, getattr(transition, name), shape, self.dtype, "as after reset")
        _expect("reward", transition.reward, (worlds,), self.dtype, "worlds")
        for name in ("terminated", "truncated"):
            _expect(name, getattr(transition, name), (worlds,), torch.bool, "worlds")
        for name, term in transition.terms.items():
            _expect(f"the term {name!r}", term, (worlds,), None, "worlds")
        for name in env.task_measures:
            if name not in transition.terms:
                raise TrafficGradError(f"task_measures names {name!r}, which step's terms do not have")
        _finite("step", transition)
        if not torch.equal(transition.observation, after.observation):
            raise TrafficGradError("the transition's observation is not that of the new state, expected the same")
        if bool((transition.terminated & transition.truncated).any()):
            raise TrafficGradError("a world is terminated and truncated at once, expected one of them")
        done, age = transition.done, before.elapsed + 1
        late = transition.truncated != ((age >= env.horizon) & ~transition.terminated)
        if bool(late.any()):
            world = int(late.nonzero()[0])
            what = "is" if transition.truncated[world] else "is not"
            raise TrafficGradError(
                f"a world {what} truncated in step {int(age[world])} of its episode, expected that exactly in step "
                f"horizon = {env.horizon}, unless it terminates there"
            )
        expected = torch.where(done, 0, age)
        if not torch.equal(after.elapsed, expected):
            raise TrafficGradError(
                f"elapsed after a step is {after.elapsed.tolist()}, expected {expected.tolist()}: one more, and 0 in "
                "worlds that ended"
            )
        going = ~done
        if not torch.equal(transition.observation[going], transition.final_observation[going]):
            raise TrafficGradError(
                "observation and final_observation differ in a world that goes on, expected the same"
            )

    def _check_absent(self, state: Any, action: Tensor) -> None:
        present = self.env.present(state)
        if present is None or bool(present.all()):
            return
        other = torch.where(present[..., None], action, -action)
        noise = self.noise()
        with torch.no_grad():
            one, two = (self.env.step(state, a, noise)[1] for a in (action, other))
        if not _same(one, two):
            raise TrafficGradError(
                "the action of an agent that is not present changes something, expected that it does not"
            )

    def check_alone(self, seed: int) -> None:
        """A world among others against the same world among one more, all of them copies of itself."""
        env, worlds = self.env, self.worlds
        # What grows with the number of worlds is of worlds, the rest is of the pool that they share.
        state, larger = (env.reset(count, torch.Generator().manual_seed(seed)) for count in (worlds, worlds + 1))
        of_worlds = [x.shape != y.shape for x, y in zip(tree.leaves(state), tree.leaves(larger), strict=True)]
        noise, more = (env.sample_noise(count, torch.Generator().manual_seed(seed)) for count in (worlds, worlds + 1))
        action = self.action()
        for world in range(worlds):
            flags = iter(of_worlds)
            row = [world] * (worlds + 1)
            copies = tree.tree_map(lambda x, flags=flags, row=row: x[row] if next(flags) else x, state)
            own = None
            if noise is not None and more is not None:
                axis = next((i for i, (n, m) in enumerate(zip(noise.shape, more.shape, strict=True)) if n != m), None)
                if axis is None:
                    raise TrafficGradError(
                        "sample_noise does not depend on the number of worlds, expected noise for each"
                    )
                own = noise.index_select(axis, torch.tensor(row, device=noise.device))
            with torch.no_grad():
                _, together = env.step(state, action, noise)
                _, repeated = env.step(copies, action[row], own)
            for name in ("final_observation", "reward", "terminated", "truncated"):
                one, among = getattr(repeated, name)[0].double(), getattr(together, name)[world].double()
                if bool(((one - among).abs() > _APART.get(self.dtype, 1e-2) * (1.0 + among.abs())).any()):
                    raise TrafficGradError(
                        f"{name} of a world depends on which other worlds are in the batch, expected that it does not"
                    )


class _GlobalRandomness:
    """Refuses a call that draws from torch's global generator."""

    def __init__(self, call: str) -> None:
        self.call = call

    def __enter__(self) -> None:
        self.before = torch.random.get_rng_state()

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None and not torch.equal(self.before, torch.random.get_rng_state()):
            raise TrafficGradError(
                f"{self.call} draws from torch's global random numbers, expected the generator (or the noise) alone"
            )


def _same(one: Any, two: Any) -> bool:
    """Whether all tensors are equal, bit for bit; a NaN, of which others tell, is no difference."""
    first, second = tree.leaves(one), tree.leaves(two)
    return len(first) == len(second) and all(
        torch.equal(x.nan_to_num(), y.nan_to_num()) for x, y in zip(first, second, strict=True)
    )


def _finite(call: str, told: Any) -> None:
    if not all(bool(x.isfinite().all()) for x in tree.leaves(told)):
        raise TrafficGradError(f"{call} returned a number that is NaN or infinite, expected finite ones")


def _like(call: str, state: Any, before: Any) -> None:
    """Refuse a state of another structure: a checkpoint could not be read back."""
    found, wanted = ([(tuple(x.shape), x.dtype, x.device) for x in tree.leaves(s)] for s in (state, before))
    if found != wanted:
        raise TrafficGradError(f"{call} returned a state whose tensors have other shapes or types than those of reset")


def _expect(name: str, x: Any, shape: tuple[int | None, ...], dtype: torch.dtype | None, meaning: str) -> None:
    if not isinstance(x, Tensor) or tuple(x.shape) != shape:
        came = f"shape {list(x.shape)}" if isinstance(x, Tensor) else f"type {type(x).__name__}"
        raise TrafficGradError(f"{name} has {came}, expected {list(shape)} ({meaning})")
    if dtype is not None and x.dtype != dtype:
        raise TrafficGradError(f"{name} is of type {x.dtype}, expected {dtype}")
