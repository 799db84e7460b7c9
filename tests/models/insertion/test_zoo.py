"""Every network of torchvision and one of each timm family: attention is on the channels, and stays there."""

import copy
import pickle
import warnings

import pytest
import torch
import torchvision
from torch import nn
from torch.optim.swa_utils import AveragedModel

from cbam_lightning.errors import UsageError
from cbam_lightning.models.insertion import insert_attention, plan_insertion
from cbam_lightning.models.insertion.attended import Attended
from tests.models.insertion.test_planning_copy import snapshot

timm = pytest.importorskip("timm")

CLASSES = 7  # no layer of these networks has so few channels but the one that returns the logits
KINDS = {
    "": torchvision.models,
    "segmentation": torchvision.models.segmentation,
    "detection": torchvision.models.detection,
    "video": torchvision.models.video,
}
# The smallest of each family; the others take minutes and are slow tests.
QUICK = {
    *(
        "alexnet",
        "convnext_tiny",
        "densenet121",
        "efficientnet_b0",
        "googlenet",
        "mnasnet0_5",
        "mobilenet_v3_small",
    ),
    *("regnet_y_400mf", "resnet18", "shufflenet_v2_x0_5", "squeezenet1_1", "swin_t", "vgg11_bn"),
    *("vit_b_32", "lraspp_mobilenet_v3_large", "r3d_18", "swin3d_t"),
    *(
        "timm/nf_regnet_b0",
        "timm/sam2_hiera_tiny",
        "timm/mambaout_femto",
        "timm/tiny_vit_5m_224",
        "timm/resnet18",
    ),
}
# One of each kind: what becomes of a network asks for the kind of its modules alone.
KIND = {
    *("mobilenet_v3_small", "resnet18", "swin_t", "vit_b_32", "r3d_18"),
    *("timm/nf_regnet_b0", "timm/resnet18", "timm/tiny_vit_5m_224"),
}
# They take one size only, or resize to one.
ONE_SIZE = {"mvit_v1_b", "mvit_v2_s", "timm/crossvit_tiny_240"}
# A small network of each module of timm
TIMM = [
    "beit_base_patch16_224",
    "botnet50ts_256",
    "caformer_s18",
    "cait_xxs24_224",
    "coat_tiny",
    "convit_tiny",
    "convmixer_768_32",
    "convnext_zepto_rms",
    "cpubone_nano",
    "crossvit_tiny_240",
    "cs3darknet_focus_l",
    "csatv2",
    "cspnext_tiny",
    "davit_tiny",
    "deit_tiny_patch16_224",
    "densenet121",
    "dla34",
    "dpn68",
    "edgenext_xx_small",
    "efficientformer_l1",
    "efficientformerv2_s0",
    "efficientvim_m1",
    "efficientvit_b0",
    "efficientvit_m0",
    "ese_vovnet19b_slim",
    "eva02_tiny_patch14_224",
    "fasternet_t0",
    "fastvit_s12",
    "focalnet_tiny_lrf",
    "gcvit_xxtiny",
    "gemma4_vit_167m",
    "ghostnet_050",
    "gmlp_s16_224",
    "hardcorenas_a",
    "hgnet_tiny",
    "hiera_tiny_224",
    "hrnet_w18_small",
    "iformer_s",
    "inception_next_atto",
    "inception_resnet_v2",
    "inception_v3",
    "inception_v4",
    "lcnet_035",
    "lcnetv2_small",
    "legacy_seresnet18",
    "legacy_xception",
    "levit_128s",
    "lowformer_b0",
    "mambaout_femto",
    "maxvit_pico_rw_256",
    "mobilenetv2_035",
    "mobilenetv5_base",
    "mobileone_s0",
    "mobilevit_xxs",
    "mvitv2_tiny",
    "naflexvit_base_patch16_siglip",
    "nest_tiny",
    "nextvit_small",
    "nf_regnet_b0",
    "pit_xs_224",
    "pvt_v2_b0",
    "qwen3_vit_88m",
    "rdnet_tiny",
    "regnetz_005",
    "repghostnet_050",
    "repvit_m0_9",
    "res2net50_26w_4s",
    "resnest26d",
    "resnetv2_18",
    "rexnet_100",
    "sam2_hiera_tiny",
    "samvit_base_patch16",
    "selecsls42",
    "sequencer2d_s",
    "shvit_s1",
    "skresnet18",
    "starnet_s050",
    "swiftformer_xs",
    "swin_tiny_patch4_window7_224",
    "swinv2_cr_tiny_224",
    "swinv2_tiny_window8_256",
    "tiny_vit_5m_224",
    "tnt_s_patch16_224",
    "tresnet_l",
    "twins_svt_small",
    "vgg11",
    "visformer_tiny",
    "vit_relpos_small_patch16_224",
    "vit_tiny_r_s16_p8_224",
    "vit_xsmall_patch16_clip_224",
    "vitamin_small_224",
    "volo_d1_224",
    "xception41",
    "xcit_nano_12_p8_224",
    *("nasnetalarge", "pnasnet5large", "resnet18"),
]


def slow_unless_in(quick, names):
    slow = [pytest.mark.slow, pytest.mark.timeout(1800)]
    return [name if name in quick else pytest.param(name, marks=slow) for name in names]


def torchvision_names():
    return [name for module in KINDS.values() for name in torchvision.models.list_models(module=module)]


ALL = [*torchvision_names(), *(f"timm/{name}" for name in TIMM)]
DETECTORS = torchvision.models.list_models(module=KINDS["detection"])


def list_models(kind):
    return torchvision.models.list_models(module=KINDS[kind])


def build(name, size=None):
    """Build a network without contents, which only detectors need; for images of a size if it is given."""
    sized = {} if size is None else {"img_size": size[-1]}
    if name.startswith("vit_"):
        sized = {} if size is None else {"image_size": size[-1]}
    if name.startswith("maxvit"):
        sized = {} if size is None else {"input_size": size}
    if name == "timm/deit_tiny_patch16_224":
        sized["depth"] = 2  # of 12 blocks that are alike, and take long to compile
    real = name in list_models("detection") or name.startswith("regnet")  # its initialisation needs contents
    with torch.device("cpu" if real else "meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if name.startswith("timm/"):
            return timm.create_model(name.removeprefix("timm/"), num_classes=CLASSES, **sized).eval()
        options = {"weights": None, "num_classes": CLASSES, **sized}
        if name in (*list_models("segmentation"), *list_models("detection")):
            options["weights_backbone"] = None
        return torchvision.models.get_model(name, **options).eval()


def images(network, size):
    config = getattr(network, "default_cfg", {"input_size": (3,)})
    device = next(network.parameters()).device
    return torch.zeros(1, config["input_size"][0], *size, device=device)


def sizes(name, network):
    """Return the size for which points are planned, and another one."""
    if name.startswith(("s3d", "mvit")):
        return (16, 224, 224), (32, 256, 320) if name == "s3d" else (32, 288, 288)
    if name in list_models("video"):
        return (64, 64, 64), (48, 96, 128)
    config = getattr(network, "default_cfg", {"input_size": (3, 224, 224)})
    side = getattr(network, "image_size", config["input_size"][-1])
    return (side, side), (2 * side, 2 * side)


def shapes_at(name, network, points, size):
    """Return the shapes after the places for images of another size."""
    shapes = {}
    try:
        if hasattr(getattr(network, "transform", None), "fixed_size"):
            network.transform.fixed_size = size
        hooks = [
            network.get_submodule(p.name).register_forward_hook(
                lambda module, inputs, output, n=p.name: shapes.update({n: tuple(output.shape)})
            )
            for p in points
        ]
        with torch.no_grad():
            network(images(network, size))
    except (RuntimeError, AssertionError, ValueError):  # takes one size only
        return shapes_at(name, build(name, size), points, size)
    for hook in hooks:
        hook.remove()
    return shapes


@pytest.mark.parametrize("where", ["residual", "stage"])
@pytest.mark.parametrize("name", slow_unless_in(QUICK, ALL))
def test_attention_follows_the_channels_and_no_output(name, where):
    network = build(name)
    before = snapshot(network)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            points = plan_insertion(network, where)
        except UsageError:
            assert where == "residual", "every network has stages"
            return
    assert snapshot(network) == before
    assert CLASSES not in {point.channels for point in points}
    usual, other = sizes(name, network)
    found = shapes_at(name, network, points, usual if name in ONE_SIZE else other)
    for point in points:
        shape = found[point.name]
        assert shape[point.channel_axis] == point.channels == point.shape[point.channel_axis]
        assert (shape != point.shape) or name in ONE_SIZE, f"{point.name} does not change with the size"
        changed = [axis for axis in range(len(shape)) if shape[axis] != point.shape[axis]]
        assert 0 not in changed


def frozen(network):
    with next(network.parameters()).device:  # timm makes the new modules on the default device
        return timm.layers.freeze_batch_norm_2d(network)


def changes():
    return {
        "SyncBatchNorm": nn.SyncBatchNorm.convert_sync_batchnorm,
        "freeze_batch_norm_2d": frozen,
        "deepcopy": copy.deepcopy,
        "pickle": lambda network: pickle.loads(pickle.dumps(network)),
        "average": AveragedModel,
    }


def calls(network, x, run=None):
    """Return how often each inserted attention runs in a forward pass, of ``run`` if it is given."""
    count = {name: 0 for name, module in network.named_modules() if isinstance(module, Attended)}
    for name in count:
        hook = lambda *_, name=name: count.update({name: count[name] + 1})  # noqa: E731
        network.get_submodule(name).attention.register_forward_hook(hook)
    with torch.no_grad():
        (network if run is None else run)(x)
    return count


@pytest.mark.parametrize("name", slow_unless_in(KIND, ALL))
def test_attention_runs_once_whatever_becomes_of_the_network(name):
    network = build(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        places = [point.name for point in plan_insertion(network)]
        insert_attention(network, "se")
    x = images(network, sizes(name, network)[0])
    kept = {change: make(copy.deepcopy(network)).eval() for change, make in changes().items()}
    for change, kind in kept.items():
        inner = kind.module if change == "average" else kind
        assert calls(inner, x) == dict.fromkeys(places, 1), change


COMPILED = {"resnet18", "timm/deit_tiny_patch16_224"}


@pytest.mark.parametrize("name", slow_unless_in(COMPILED, [name for name in ALL if name not in DETECTORS]))
def test_attention_runs_once_when_compiled_and_exported(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = build(name)
        x = images(network, sizes(name, network)[0])
        places = [point.name for point in plan_insertion(network)]
        insert_attention(network, "se")
        assert calls(network, x, torch.compile(network, backend="eager")) == dict.fromkeys(places, 1)
        try:
            torch.export.export(build(name), (x,))
        except Exception as error:
            pytest.skip(f"cannot be exported without attention either: {str(error)[:80]}")
        network = insert_attention(build(name), "se")
        program = torch.export.export(network, (x,))
    parameters = program.graph_signature.inputs_to_parameters
    users = {parameters[n.name]: len(n.users) for n in program.graph.nodes if n.name in parameters}
    assert [users[f"{place}.attention.mlp.0.weight"] for place in places] == [1] * len(places)
