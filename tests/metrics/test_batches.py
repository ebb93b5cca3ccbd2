"""What every metric asks of a batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from elsewhere import elsewhere

from posematch.data.people import PCKhTruth, People
from posematch.errors import PosematchError
from posematch.metrics.batches import checked_batch
from posematch.metrics.pckh import PCKh
from posematch.skeletons import MPII


def test_the_stand_in_refuses_what_a_gpu_would():
    with pytest.raises(RuntimeError, match="same device"):
        elsewhere(torch.ones(3)) + torch.ones(3)
    assert type((elsewhere(torch.ones(3)) * 2).cpu() + torch.ones(3)) is torch.Tensor


@pytest.mark.parametrize("away", [(0,), (1,), (2,), (0, 2), (0, 1, 2)])
def test_tensors_of_several_devices(away):
    """On a GPU, joints come mapped to the photo in float64 from the CPU, the rest does not."""
    people, joints = 3, MPII.num_joints
    truth = PCKhTruth(
        np.zeros((people, joints, 2)), np.ones((people, joints)), np.full(people, 100.0), MPII
    )
    batch = [torch.arange(people), torch.zeros(people, joints, 2), torch.ones(people, joints)]
    for index in away:
        batch[index] = elsewhere(batch[index])
    metric = PCKh(People("hand-made", "valid", MPII, [], truth))
    metric.update(*batch)
    assert metric.compute()["PCKh@0.5"] == 100
    ids, joints_img, scores = checked_batch(*batch, joints)
    assert {type(one) for one in (ids, joints_img, scores)} == {torch.Tensor}
    assert (joints_img.dtype, scores.dtype) == (torch.float64, torch.float64)


@pytest.mark.parametrize("where", [1, 2])
def test_what_is_not_finite_names_the_person(where):
    batch = [torch.tensor([4, 9]), torch.zeros(2, 5, 2), torch.zeros(2, 5)]
    batch[where][1, 3] = torch.nan
    batch[2] = elsewhere(batch[2])
    with pytest.raises(PosematchError, match="person 9"):
        checked_batch(*batch, 5)
