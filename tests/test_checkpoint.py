"""Checkpoints: the policy comes back, nothing is executed, nothing half-written stays."""

import pickle

import pytest
import torch
from toy_env import ToyEnv

from trafficgrad.agents.checkpoint import load_checkpoint, load_policy, rebuild, save_checkpoint, tensors_of
from trafficgrad.agents.experiment import Experiment, TrainingConfig
from trafficgrad.agents.rollout import start
from trafficgrad.agents.train import train
from trafficgrad.errors import TrafficGradError


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    section = {"decisions": 96, "worlds": 8, "window": 6, "policy": {"hidden": [8], "output_gain": 1.0}}
    folder = tmp_path_factory.mktemp("runs") / "run"
    return train(Experiment(ToyEnv(), TrainingConfig.model_validate(section)), folder, progress=False)


def test_the_policy_comes_back_without_its_environment(run):
    policy = load_policy(run.output / "last.pt")
    observation = torch.randn(5, 7, 4)  # five worlds, seven vehicles: trained with two
    torch.testing.assert_close(policy(observation), run.policy(observation), rtol=0, atol=0)
    assert policy(observation).shape == (5, 7, 2)
    assert not any(x.requires_grad for x in policy.parameters())
    assert policy.spec == run.policy.spec
    with pytest.raises(TrafficGradError, match="trained on observations"):
        policy(torch.zeros(5, 7, 3))


def test_a_joint_policy_takes_its_own_number_of_vehicles_only(tmp_path):
    section = {"decisions": 48, "worlds": 8, "window": 6, "policy": {"shared": False}}
    train(Experiment(ToyEnv(), TrainingConfig.model_validate(section)), tmp_path / "run", progress=False)
    policy = load_policy(tmp_path / "run")
    assert policy(torch.zeros(5, 2, 4)).shape == (5, 2, 2)
    with pytest.raises(TrafficGradError, match=r"\[\.\.\., 2, 4\]"):
        policy(torch.zeros(5, 3, 4))


class Evil:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (open, (str(self.marker), "w"))


def test_code_in_a_checkpoint_is_not_run(run, tmp_path):
    marker = tmp_path / "executed"
    record = load_checkpoint(run.output / "last.pt")
    torch.save({**record, "extra": Evil(marker)}, tmp_path / "hostile.pt")
    (tmp_path / "pickle.pt").write_bytes(pickle.dumps(Evil(marker)))
    for name in ("hostile.pt", "pickle.pt"):
        with pytest.raises(TrafficGradError, match="cannot be read"):
            load_policy(tmp_path / name)
    assert not marker.exists()


def test_damaged_and_foreign_files(run, tmp_path):
    whole = (run.output / "last.pt").read_bytes()
    record = load_checkpoint(run.output / "last.pt")
    (tmp_path / "short.pt").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.pt").write_bytes(b"")
    (tmp_path / "text.pt").write_text("hello")
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({**record, "format": 99}, tmp_path / "format.pt")
    torch.save({**record, "policy": {}}, tmp_path / "parts.pt")
    torch.save({**record, "policy": {**record["policy"], "spec": {"observation_size": "x"}}}, tmp_path / "spec.pt")
    spec = {**record["policy"]["spec"], "observation_size": 5}
    torch.save({**record, "policy": {**record["policy"], "spec": spec}}, tmp_path / "size.pt")
    messages = {
        "short": "cannot be read",
        "empty": "cannot be read",
        "text": "cannot be read",
        "list": "is no trafficgrad checkpoint",
        "format": "format 99",
        "parts": "does not fit together",
        "spec": "does not fit together",
        "size": "does not fit together",
        "missing": "no such",
    }
    for name, message in messages.items():
        with pytest.raises(TrafficGradError, match=message) as caught:
            load_policy(tmp_path / f"{name}.pt")
        assert "\n" not in str(caught.value) and f"{name}.pt" in str(caught.value)
    with pytest.raises(TrafficGradError, match="is no run folder"):
        load_policy(tmp_path)


def test_resuming_from_a_damaged_run(run, tmp_path):
    record = load_checkpoint(run.output / "last.pt")
    training = record["training"]
    for broken, message in (
        ({k: v for k, v in record.items() if k != "training"}, "incomplete"),
        ({**record, "training": {**training, "agent": {}}}, "incomplete"),
        ({**record, "training": {**training, "carry": training["carry"][1:]}}, "environment state"),
        ({**record, "yaml": "a: [1"}, "configuration"),
    ):
        torch.save(broken, tmp_path / "last.pt")
        config = run_config()
        with pytest.raises(TrafficGradError, match=message):
            train(Experiment(ToyEnv(), config), tmp_path, resume=True, progress=False)


def run_config():
    section = {"decisions": 144, "worlds": 8, "window": 6, "policy": {"hidden": [8], "output_gain": 1.0}}
    return TrainingConfig.model_validate(section)


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "last.pt"
    save_checkpoint({"a": 1}, path)
    before = path.read_bytes()
    with pytest.raises((AttributeError, pickle.PicklingError)):
        save_checkpoint({"a": lambda: None}, path)
    assert path.read_bytes() == before and [x.name for x in tmp_path.iterdir()] == ["last.pt"]


def test_environment_state_travels_as_tensors():
    env = ToyEnv()
    carry = start(env.reset(4, torch.Generator().manual_seed(0)))
    other = start(env.reset(4, torch.Generator().manual_seed(1)))
    back = rebuild(other, tensors_of(carry))
    assert all(torch.equal(a, b) for a, b in zip(tensors_of(back), tensors_of(carry), strict=True))
    assert type(back.env_state) is type(carry.env_state)
    for wrong in (tensors_of(carry)[:-1], [x.double() for x in tensors_of(carry)]):
        with pytest.raises(TrafficGradError, match="does not fit"):
            rebuild(other, wrong)
