"""The scenarios of physics: a pole on a cart in closed form, and MuJoCo's bodies that learn to move."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from trafficgrad.config import StrictModel
from trafficgrad.scenario_base import BaseScenario

ModelName = Literal["hopper", "ant", "half_cheetah"]
Integrator = Literal["rk4", "euler"]
RewardName = Literal["gym", "shaped"]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]


class CartpoleConfig(StrictModel):
    """`cartpole`: the cart, the pole and how their motion is integrated.

    The values are those that the paper's simulator in fact used: masses from a density of 1000 kg/m3.
    """

    cart_mass: Positive = Field(default=50.0, description="kg")
    pole_mass: Positive = Field(default=2.5, description="kg")
    pole_length: Positive = Field(default=1.0, description="m, a uniform rod")
    force: Positive = Field(default=1000.0, description="N on the cart for action 1")
    damping: NotNegative = Field(default=1.0, description="N s/m of the cart, N m s/rad of the hinge")
    armature: NotNegative = Field(default=0.01, description="added inertia of both joints, kg and kg m2")
    track: Positive = Field(default=4.0, description="m to either side; beyond, a spring pulls the cart back")
    track_stiffness: NotNegative = Field(default=100.0, description="N/m of that spring")
    gravity: NotNegative = Field(default=9.81, description="m/s2")
    dt: Positive = Field(default=1.0 / 60.0, description="s for which an action is held")
    substeps: int = Field(default=4, ge=1, description="steps of semi-implicit Euler in that time")


class CartpoleScenario(BaseScenario):
    """A pole that hangs from a cart and is to be swung up and balanced, the cart near the middle of its track."""

    kind: Literal["cartpole"] = Field(description="what is simulated")
    cartpole: CartpoleConfig = Field(default=CartpoleConfig(), description="see below")
    horizon_steps: int = Field(default=240, ge=1, description="decisions of an episode")
    pool_size: int = Field(default=1024, ge=1, description="initial states that are drawn beforehand")

    @property
    def horizon(self) -> int:
        """Decisions of an episode."""
        return self.horizon_steps


class DifferencesConfig(StrictModel):
    """`differences`: how the derivative of a step is taken, from differences of the simulator's own step."""

    eps: Positive = Field(default=1e-8, description="perturbation of a coordinate, a speed or a control")
    centred: bool = Field(default=False, description="to both sides, for twice the cost")


class MujocoScenario(BaseScenario):
    """A body of MuJoCo that is to move forwards: gymnasium's Hopper-v5, Ant-v5 or HalfCheetah-v5.

    Needs `pip install "trafficgrad[physics]"`. Policies are judged with gymnasium's own dynamics and reward, whatever
    they are trained with.
    """

    kind: Literal["mujoco"] = Field(description="what is simulated")
    model: ModelName = Field(description="hopper, ant or half_cheetah")
    integrator: Integrator = Field(
        default="euler",
        description="of the training; rk4: gymnasium's for hopper and ant; euler: gymnasium's for the half-cheetah, "
        "and its gradients are several times cheaper",
    )
    reward: RewardName = Field(
        default="shaped",
        description="of the training; shaped: as gym, but with slopes by height and posture instead of a bonus for "
        "being upright; gym: gymnasium's. Both are reported",
    )
    frame_skip: int | None = Field(
        default=None, ge=1, description="simulator steps of a decision; null = gymnasium's, 4 of the hopper, else 5"
    )
    differences: DifferencesConfig = Field(default=DifferencesConfig(), description="see below")
    horizon_steps: int = Field(default=1000, ge=1, description="decisions of an episode")
    pool_size: int = Field(default=1024, ge=1, description="initial states that are drawn beforehand")

    @property
    def horizon(self) -> int:
        """Decisions of an episode."""
        return self.horizon_steps

    def judged(self) -> MujocoScenario:
        """See the base class: gymnasium's dynamics and reward."""
        integrator = "euler" if self.model == "half_cheetah" else "rk4"
        return self.model_copy(update={"integrator": integrator, "reward": "gym"})
