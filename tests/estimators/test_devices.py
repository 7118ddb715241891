"""Every method computes where it is told to: on a device that isn't there, and on a GPU that is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from other_device import AWAY, CPU, other_device
from torch import Tensor

import waterfill as wf
from waterfill.data.source_names import open_source
from waterfill.data.sources import gaussian
from waterfill.devices import check_device, device_name
from waterfill.errors import WaterfillError
from waterfill.estimators.ais import AnnealedImportance
from waterfill.estimators.blahut_arimoto import BlahutArimotoGrid
from waterfill.estimators.dual import SandwichLower
from waterfill.estimators.estimate import METHODS
from waterfill.estimators.limits import TransformLimits
from waterfill.estimators.method import Finding, Method, Run
from waterfill.estimators.nerd import Nerd
from waterfill.estimators.sandwich import Sandwich, SandwichUpper
from waterfill.estimators.stored import decides
from waterfill.estimators.wgd import WassersteinDescent

#: As short as they can be and still go through all of their code.
SHORT: dict[str, Method] = {
    "ba": BlahutArimotoGrid(support="data", atoms=30, letters=60, iterations=9, samples=50),
    "wgd": WassersteinDescent(particles=30, steps=2, batch=40, samples=50),
    "nerd": Nerd(atoms=40, training_atoms=30, batch=40, steps=2, hidden=8, samples=50),
    "sandwich-lower": SandwichLower(k=20, steps=2, hidden=8, repeats=4),
    "limits": TransformLimits(fit=200, samples=50),
    "ais": AnnealedImportance(latent=2, temperatures=4, chains=3, leapfrog=2, samples=5, fit=200),
    "ais, trained": AnnealedImportance(
        latent=2, hidden=8, steps=2, batch=20, temperatures=4, chains=3, leapfrog=2, samples=5
    ),
    "sandwich-upper, factorised": SandwichUpper("factorised", 0, steps=2, batch=40, samples=50),
    "sandwich-upper, flow": SandwichUpper("flow", 8, steps=2, batch=40, samples=50),
    "sandwich-upper, hierarchical": SandwichUpper("hierarchical", 8, steps=2, batch=40, samples=50),
    "sandwich": Sandwich(
        steps=2, batch=40, samples=50, k=20, lower_steps=2, lower_hidden=8, repeats=4
    ),
}


@pytest.fixture
def away(monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """A device as apart from the processor as a GPU, whose draws are the processor's."""
    seeded, generator = Run.seeded, Run.generator
    monkeypatch.setattr(Run, "seeded", lambda run: seeded(replace(run, device=CPU)))
    monkeypatch.setattr(Run, "generator", lambda run: generator(replace(run, device=CPU)))
    with other_device(monkeypatch, alone=True) as device:
        yield device


def without_time(found: Sequence[Finding]) -> list[Finding]:
    return [replace(one, seconds=0.0) for one in found]


def test_all_methods_are_here() -> None:
    assert {method.name for method in SHORT.values()} == set(METHODS)


@pytest.mark.parametrize("law", ["banana", "gaussian:n=66,spread=2"])
@pytest.mark.parametrize("method", SHORT.values(), ids=SHORT)
def test_nothing_is_left_on_the_processor(
    method: Method, law: str, request: pytest.FixtureRequest
) -> None:
    """Where each tensor is made and read, in double precision and in single."""
    source = open_source(law)
    slopes = [20.0]
    expected = without_time([*method.curve(source, slopes, Run(1))])
    run = Run(1, device=request.getfixturevalue("away"))
    assert without_time([*method.curve(source, slopes, run)]) == expected


def test_what_is_fitted_is_read_where_it_was_fitted(request: pytest.FixtureRequest) -> None:
    near, far = gaussian(np.array([1.0, 0.5])), gaussian(np.array([4.0, 4.0]))
    method = SHORT["wgd"]
    assert isinstance(method, WassersteinDescent)
    expected = method.on(near, [near, far], 2.0, Run(3))
    run = Run(3, device=request.getfixturevalue("away"))
    assert method.on(near, [near, far], 2.0, run) == expected


def test_the_device_that_is_not_there_is_one(away: torch.device) -> None:
    there = Run(device=away).tensor(np.ones((3, 2)))
    assert float((there + torch.ones(3, 2, device=away)).sum()) == 12.0
    with pytest.raises(AssertionError, match="mixes"):
        there + torch.ones(3, 2)
    with pytest.raises(AssertionError, match="processor"):
        torch.ones(3, 2) + 1.0
    with pytest.raises(AssertionError, match="comes back"):
        there.cpu()
    with pytest.raises((RuntimeError, TypeError)):
        there.numpy()


@pytest.mark.parametrize("device", ["cpu", CPU, "cpu:0"])
def test_a_processor_is_always_there(device: Any) -> None:
    assert check_device(device).type == "cpu"
    assert device_name(check_device(device)) == "cpu"


@pytest.mark.parametrize(
    "device",
    [
        pytest.param(
            "cuda", marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
        ),
        "cuda:99",
        "meta",
        "hpu",
        "graphics",
        "",
        None,
    ],
)
def test_what_is_not_there_is_said_in_one_line(device: Any) -> None:
    with pytest.raises(WaterfillError, match=r" here \(.*use 'cpu'") as caught:
        wf.bounds("gaussian", "wgd", device=device)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"can't compute on device {str(device)!r} here ")


def test_processes_of_a_machine_take_its_gpus_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[str] = []

    def zeros(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        taken.append(str(device))
        return torch.ones(size, dtype=dtype)

    monkeypatch.setattr(torch, "zeros", zeros)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    check_device("cuda")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    for rank in range(3):
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        check_device("cuda")
    check_device("cuda:1")
    check_device("cpu")
    assert taken == ["cuda", "cuda:0", "cuda:1", "cuda:0", "cuda:1", "cpu"]


def test_what_is_kept_of_one_kind_of_device_is_not_found_for_another() -> None:
    law = gaussian(np.array([1.0, 0.5]))
    assert decides(law, Run(2)) == decides(law, Run(2, device=torch.device("cpu")))
    assert decides(law, Run(2)) != decides(law, Run(2, device=AWAY))


def test_other_generators_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seeding all devices at once would disturb a caller's on a GPU."""

    def every(seed: int) -> None:
        raise AssertionError("all devices are seeded")

    monkeypatch.setattr(torch.cuda, "manual_seed_all", every)
    with Run(5).seeded():
        drawn = torch.randn(4)
    expected = torch.randn(4, generator=torch.Generator().manual_seed(5))
    assert torch.equal(drawn, expected)


#: Far enough from useless for what is found to be compared.
LONGER: dict[str, Method] = {
    "ba": BlahutArimotoGrid(cells=225, histogram=20_000, iterations=90, samples=8000),
    "wgd": WassersteinDescent(particles=60, steps=60, batch=2000, samples=8000),
    "nerd": Nerd(atoms=4000, training_atoms=1000, steps=60, samples=8000),
    "sandwich-upper": SandwichUpper(steps=400, samples=20_000),
    "sandwich-lower": SandwichLower(k=256, steps=100, hidden=32),
    "sandwich": Sandwich(steps=400, samples=20_000, k=256, lower_steps=100, lower_hidden=32),
    "ais": AnnealedImportance(latent=2, temperatures=60, chains=8, samples=100),
    "limits": TransformLimits(samples=20_000),
}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("method", LONGER.values(), ids=LONGER)
def test_a_gpu_says_what_the_processor_says(method: Method) -> None:
    """Up to both intervals, the same each time; the caller's generators are as before."""
    states = torch.random.get_rng_state(), torch.cuda.get_rng_state()
    here = wf.bounds("banana", method, [4.0], seed=2)
    there, again = (wf.bounds("banana", method, [4.0], seed=2, device="cuda") for _ in range(2))
    assert torch.equal(states[0], torch.random.get_rng_state())
    assert torch.equal(states[1], torch.cuda.get_rng_state())
    assert [(p.rate, p.distortion) for p in there.points] == [
        (p.rate, p.distortion) for p in again.points
    ]
    for one, other in zip(here.points, there.points, strict=True):
        assert one.status == other.status
        assert one.interval is not None
        assert other.interval is not None
        room = one.interval[1] - one.interval[0] + other.interval[1] - other.interval[0]
        assert abs(one.lagrangian - other.lagrangian) <= room
    assert here.environment["device"] == "cpu"
    assert torch.cuda.get_device_name() in there.environment["device"]
