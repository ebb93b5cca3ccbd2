"""Every configuration composes and builds; keys are what something reads."""

from __future__ import annotations

import ast
import copy
import functools
import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.errors import ConfigCompositionException
from hydra.utils import get_object
from lightning.pytorch import Trainer
from omegaconf import DictConfig, OmegaConf

from posematch.app.composition import register_resolvers
from posematch.app.objects import make
from posematch.training.build import build_loss

CONF = Path(__file__).resolve().parents[1] / "conf"
GROUPS = sorted(
    (str(path.parent.relative_to(CONF)), path.stem)
    for path in CONF.glob("*/**/*.yaml")
    if path.stem != "base"  # what the others begin with
)


@functools.cache
def _composition(*overrides: str):
    register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", overrides=list(overrides))


def composed(*overrides: str):
    return copy.deepcopy(_composition(*overrides))


@pytest.mark.parametrize(("group", "choice"), GROUPS, ids=lambda value: value)
def test_every_choice_composes_and_resolves(group, choice):
    OmegaConf.to_container(composed(f"{group}={choice}"), resolve=True)


@pytest.mark.parametrize("choice", [c for g, c in GROUPS if g == "loss"])
def test_every_loss_is_built_and_carries_its_own_name(choice):
    cfg = composed(f"loss={choice}")
    assert cfg.loss.name == choice
    build_loss(cfg.loss)


@pytest.mark.parametrize("choice", [c for g, c in GROUPS if g == "decoder" and c != "auto"])
def test_every_decoder_is_built_and_decodes(choice):
    decoder = make(composed(f"decoder={choice}").decoder)
    joints_hm, scores = decoder(torch.rand(2, 6, 16, 12))
    joints = 6 // getattr(decoder, "channels_per_joint", 1)
    assert (joints_hm.shape, scores.shape) == ((2, joints, 2), (2, joints))


@pytest.mark.parametrize(
    "choice", [c for g, c in GROUPS if g == "augmentation/appearance" and c != "none"]
)
def test_every_appearance_is_built(choice):
    make(composed(f"augmentation/appearance={choice}").augmentation.appearance)


def test_bare_command_is_the_embedded_data_with_the_matching_loss():
    """Keys that documents, scripts and stored commands rely on."""
    cfg = composed()
    assert (cfg.data.name, cfg.loss.name, cfg.backbone.pretrained) == (
        "synthetic",
        "matching",
        False,
    )


@pytest.mark.parametrize(
    ("data", "size", "sigma", "rotation", "scale"),
    # The table of docs/protocols.md, Recipes.
    [("mpii", [256, 256], 2, 30, 0.25), ("coco", [256, 192], 2, 45, 0.35)],
)
def test_real_data_brings_the_published_recipe(data, size, sigma, rotation, scale):
    cfg = composed(f"data={data}")
    assert cfg.backbone.name == "hrnet_w48"
    assert cfg.backbone.pretrained
    assert (list(cfg.data.input_size), cfg.data.sigma) == (size, sigma)
    assert (cfg.optimizer._target_, cfg.optimizer.lr) == ("torch.optim.Adam", 1e-3)
    assert list(cfg.schedule.milestones_epochs) == [170, 200]
    assert (cfg.trainer.max_epochs, cfg.data.batch_size) == (210, 32)
    assert cfg.augmentation.geometry.rotation_deg == rotation
    assert cfg.augmentation.geometry.scale_factor == scale


def test_udps_published_recipes():
    """UDP's column of docs/protocols.md, Recipes."""
    for name, loss, decoder in (
        ("udp", "udp_combined", "auto"),
        ("udp_gaussian", "gaussian_mse", "posematch.decoding.UDP"),
    ):
        cfg = composed("data=coco", f"experiment={name}")
        assert cfg.data.convention == "udp"
        assert cfg.loss.name == loss
        assert decoder in (cfg.decoder.get("name"), cfg.decoder.get("_target_"))
        assert (cfg.optimizer.lr, cfg.reference_batch_size) == (3e-3, 384)
        assert (cfg.schedule.warmup_steps, cfg.trainer.max_epochs) == (500, 210)
    assert cfg.loss.centre == "subpixel"


def test_what_the_user_says_wins_over_what_the_data_brings():
    cfg = composed("data=mpii", "backbone=hrnet_w32", "schedule=cosine", "trainer.max_epochs=3")
    assert (cfg.backbone.name, cfg.trainer.max_epochs) == ("hrnet_w32", 3)
    assert cfg.schedule._target_.endswith("cosine")
    assert composed("data=mpii", "experiment=cpu").backbone.name == "hrnet_w18_small"


@pytest.mark.parametrize(("height", "sigma"), [(128, 1), (256, 2), (384, 3)])
def test_sigma_follows_the_heatmap(height, sigma):
    assert composed(f"data.input_size=[{height},{height}]").loss.get("sigma", sigma) == sigma
    assert composed(f"data.input_size=[{height},{height}]", "loss=gaussian_mse").loss.sigma == sigma


@pytest.mark.parametrize("override", ["trainer.max_epoch=3", "los=matching", "loss=matchin"])
def test_a_misspelt_override_is_refused(override):
    with pytest.raises(ConfigCompositionException):
        composed(override)


def test_evaluate_composes():
    register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("evaluate", overrides=["predictions=x", "data=coco"])
    assert cfg.data.name == "coco"


def lines_without_comment(folder: Path) -> list[str]:
    """Keys and list entries of the folder's files without a comment in their own line.

    A key that only opens a block needs none, nor do Hydra's own words.
    """
    bare = []
    for file in sorted(folder.rglob("*.yaml")):
        in_defaults = False
        for number, line in enumerate(file.read_text().splitlines(), 1):
            text = line.strip()
            if not line.startswith((" ", "-", "#")):
                in_defaults = text.startswith("defaults:")
            opens_block = text.split("#")[0].strip().endswith(":")
            hydras = re.match(r"(- )?(_target_|_partial_|_convert_|_recursive_|hydra):", text)
            if text and not (in_defaults or opens_block or hydras or "#" in text):
                bare.append(f"{file.relative_to(folder)}:{number}: {text}")
    return bare


def test_every_key_has_a_comment(tmp_path):
    assert lines_without_comment(CONF) == []
    (tmp_path / "x.yaml").write_text("a: 1 # said\nb:\n  c: 2\n")
    assert lines_without_comment(tmp_path) == ["x.yaml:3: c: 2"]


@functools.cache
def keys_read_by_code() -> set[str]:
    """Every ``cfg.a.b`` and ``cfg.a.get("b")`` of the package, as ``a.b``."""
    read = set()
    root = CONF.parent
    for file in root.glob("src/**/*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            match node:
                case ast.Call(
                    func=ast.Attribute(value=owner, attr="get"), args=[ast.Constant(value=key), *_]
                ):
                    chain = [str(key)]
                case ast.Attribute(value=owner, attr=key):
                    chain = [key]
                case _:
                    continue
            while isinstance(owner, ast.Attribute):
                chain.append(owner.attr)
                owner = owner.value
            if isinstance(owner, ast.Name) and owner.id == "cfg":
                read.add(".".join(reversed(chain)))
    return read


@functools.cache
def keys_read_by_configuration() -> set[str]:
    """Targets of ``${a.b}`` in any file, also as a resolver's argument."""
    text = "".join(file.read_text() for file in CONF.rglob("*.yaml"))
    return set(re.findall(r"\$\{([a-z_][\w.]*)\}", text))


def parameters(target: Any) -> set[str]:
    """Names that a callable takes by keyword; a class's ``**rest`` are its bases' names."""
    names: set[str] = set()
    constructors = [target]
    if inspect.isclass(target):
        constructors = [base.__init__ for base in target.__mro__ if "__init__" in base.__dict__]
    for one in constructors:
        found = inspect.signature(one).parameters.values()
        names |= {p.name for p in found if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)}
        if not any(p.kind is p.VAR_KEYWORD for p in found):
            break
    return names


def unread_keys(cfg: DictConfig) -> list[str]:
    """Keys that neither the code, nor another key, nor their own ``_target_`` reads."""
    tree = OmegaConf.to_container(cfg)
    by_name = keys_read_by_code() | keys_read_by_configuration()
    unread = []

    def visit(node: Any, path: str) -> None:
        if isinstance(node, list):
            for entry in node:
                visit(entry, path)
        if not isinstance(node, dict):
            return
        taken: set[str] = set()
        if "_target_" in node:
            taken = parameters(get_object(node["_target_"])) | {"_target_", "_partial_"}
        elif path == "trainer":
            taken = parameters(Trainer)
        for key, value in node.items():
            if key == "weights" and value and set(value) <= set(node.get("losses", ())):
                continue  # a weighted sum's, by the names of its losses
            if key == "start" and set(value) <= set(node.get("loss", ())):
                continue  # an annealed loss's, by the names of its own values
            own = f"{path}.{key}" if path else key
            # A measured loss, or one inside another, is configured by the training loss's own file.
            read_as = re.sub(r"^(measure\.\w+|loss\.(first|then|loss|losses\.\w+))\.", "loss.", own)
            is_group = isinstance(value, dict) and key not in taken
            if not is_group and key not in taken and read_as not in by_name:
                unread.append(own)
            visit(value, own)

    visit(tree, "")
    return unread


@pytest.mark.parametrize(("group", "choice"), GROUPS, ids=lambda value: value)
def test_something_reads_every_key(group, choice):
    assert unread_keys(composed(f"{group}={choice}")) == []


@pytest.mark.parametrize("key", ["nothing", "loss.nothing", "trainer.nothing", "pictures.nothing"])
def test_a_key_that_nothing_reads_is_found(key):
    assert unread_keys(composed(f"+{key}=1")) == [key]


def test_the_papers_recipes():
    """Supplement, Table 1 and section B; docs/protocols.md, Recipes."""
    coco = composed("experiment=paper_coco")
    assert (coco.data.name, list(coco.data.input_size)) == ("coco", [384, 288])
    assert coco.data.detections.endswith("COCO_val2017_detections_AP_H_56_person.json")
    mpii = composed("experiment=[paper_mpii,ablation]", "loss=gaussian_mse")
    assert (mpii.data.name, list(mpii.data.input_size)) == ("mpii", [256, 256])
    for cfg, sigma in ((coco, 3), (mpii, 2)):
        assert (cfg.backbone.name, cfg.backbone.pretrained) == ("hrnet_w48", True)
        assert (cfg.trainer.max_epochs, cfg.data.batch_size) == (210, 32)
        assert list(cfg.schedule.milestones_epochs) == [170, 200]
        assert cfg.data.sigma == sigma
    assert composed("experiment=[cpu,loss_vs_metric]", "data=mpii").trainer.max_epochs == 15
