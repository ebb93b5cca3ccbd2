"""People held out in folds, of one data set and of two together."""

from __future__ import annotations

import pytest

from posematch.data.datamodule import MPIIAndLSPETDataModule, SyntheticDataModule
from posematch.data.synthetic_spec import SyntheticSpec
from posematch.errors import PosematchError

SPEC = SyntheticSpec(train_photos=25, valid_photos=2)


def module(folder, **more):
    one = SyntheticDataModule(
        folder, spec=SPEC, input_size=[64, 64], batch_size=2, workers=0, seed=0, **more
    )
    one.prepare_data()
    one.setup("fit")
    return one


def test_folds_hold_each_photo_out_once(tmp_path):
    everybody = {p.image for p in module(tmp_path).train.people}
    held = []
    for fold in range(5):
        one = module(tmp_path, holdout=0.2, fold=fold)
        out = {p.image for p in one.valid.people}
        assert out
        assert not out & {p.image for p in one.train.people}
        assert out | {p.image for p in one.train.people} == everybody
        held += sorted(out)
    assert len(held) == len(set(held)) == len(everybody)


@pytest.mark.parametrize(("holdout", "fold"), [(0.2, 5), (0.2, -1), (0.0, 1), (0.4, 2), (0.5, 2)])
def test_a_fold_that_is_not_there(tmp_path, holdout, fold):
    with pytest.raises(PosematchError, match=rf"data\.fold={fold} must be from 0 to"):
        module(tmp_path, holdout=holdout, fold=fold)


def test_mpii_and_lspet_hold_mpiis_people_out(shared_data):
    def both(**more):
        one = MPIIAndLSPETDataModule(
            shared_data / "mpii", lspet_root=shared_data / "lspet", input_size=[64, 64],
            batch_size=2, workers=0, seed=0, **more,
        )  # fmt: skip
        one.setup("fit")
        return one

    everybody = both().train
    parts = both(holdout=0.2, fold=1)
    kept, held = parts.train, parts.valid
    assert held.skeleton.joints == everybody.skeleton.joints
    assert len(kept.people) + len(held.people) == len(everybody.people)
    assert not {p.image for p in kept.people} & {p.image for p in held.people}
    assert all("mpii" in p.image.parts for p in held.people)
    assert sum("lspet" in p.image.parts for p in kept.people) == sum(
        "lspet" in p.image.parts for p in everybody.people
    )
    # Scored against what they are annotated with, on the common joints.
    assert held.truth.joints_img.shape[1] == everybody.skeleton.num_joints
    assert (held.truth.joints_img == held.rows.joints_img).all()
