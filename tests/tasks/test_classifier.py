"""The classifier task: what it computes, logs, saves and refuses, in real runs of a few steps."""

import copy
import pickle
from functools import partial

import pytest
import torch
from pytorch_lightning.callbacks import Checkpoint, ModelCheckpoint
from torch.optim import SGD, AdamW

from cbam_lightning.attention.gate import Gate
from cbam_lightning.callbacks import EMA
from cbam_lightning.data import Batch
from cbam_lightning.errors import UsageError
from cbam_lightning.optim import WarmupCosine
from cbam_lightning.tasks import Classifier
from cbam_lightning.weights import Header, load_checkpoint, save_checkpoint
from tests.tasks.small import batch, batches, classifier, differing, loader, snapshot, trainer

STILL = partial(SGD, lr=0.0)
NAMES = tuple("abcdefghij")
EMPTY = Batch(torch.empty(0, 1, 14, 14), torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64))


class Outputs(Checkpoint):  # Lightning calls those after the module's own hook, which logs train/top1
    """Notes what the steps return, and the metrics at the end of every epoch."""

    def __init__(self):
        self.train, self.val, self.metrics = [], [], []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.train.append((outputs, batch))

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
        if not trainer.sanity_checking:
            self.val.append((outputs, batch))

    def on_train_epoch_end(self, trainer, pl_module):
        self.metrics.append({name: value.item() for name, value in trainer.callback_metrics.items()})


def soft(images):
    """The batch with random probabilities in place of its labels, as mixup makes them."""
    shares = torch.rand(len(images.labels), 10, generator=torch.Generator().manual_seed(0))
    return images._replace(labels=shares / shares.sum(1, keepdim=True))


def literal_loss(logits, targets, smoothing=0.0):
    """Mean over the images of -sum over the classes of share * log probability, in float64."""
    shares = torch.eye(logits.shape[1])[targets] if targets.ndim == 1 else targets
    shares = (1 - smoothing) * shares.double() + smoothing / logits.shape[1]
    exponentials = logits.double().exp()
    return -(shares * (exponentials / exponentials.sum(1, keepdim=True)).log()).sum(1).mean().item()


def literal_accuracy(logits, labels, k):
    """The share of images whose class is among the k largest logits, counted one by one."""
    hits = 0
    for scores, label in zip(logits.tolist(), labels.tolist(), strict=True):
        hits += sum(score > scores[label] for score in scores) < k
    return hits / len(labels)


def logits_of(model, data):
    model.eval()
    with torch.no_grad():
        pairs = [(model(images), labels) for images, labels, _ in data if len(images)]
    return torch.cat([logits for logits, _ in pairs]), torch.cat([labels for _, labels in pairs])


def saved_run(folder, *callbacks, **options):
    """Return the path of the checkpoint of a short run, and the model it holds."""
    model = classifier(**options)
    trainer(*callbacks, ModelCheckpoint(folder, filename="run")).fit(model, loader(16))
    return folder / "run.ckpt", model


@pytest.fixture
def weights(tmp_path):
    """Weights of ten named classes, every value unlike those of a fresh network."""
    network = classifier().network
    for value in network.state_dict().values():
        if value.is_floating_point():
            value.uniform_(0.5, 1.5)
    options = {"depths": [1, 1, 1], "widths": [8, 16, 32]}
    header = Header("resnet20", "cbam", 10, 1, network_options=options, class_names=NAMES)
    save_checkpoint(tmp_path / "start.safetensors", network.state_dict(), header)
    return str(tmp_path / "start.safetensors")


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
@pytest.mark.parametrize("mixed", [False, True])
def test_the_training_loss_is_smoothed_cross_entropy(smoothing, mixed):
    outputs = Outputs()
    data = [soft(batch(5)) if mixed else batch(5), batch(3, start=10)]
    model = classifier(optimizer=STILL, label_smoothing=smoothing)
    run = trainer(outputs)
    run.fit(model, batches(*data))
    # with a learning rate of 0 the logits of training stay what they are
    reference = classifier().train()
    for (output, _), (images, labels, _) in zip(outputs.train, data, strict=True):
        logits = reference(images).detach()
        torch.testing.assert_close(output["logits"], logits)
        assert output["loss"].item() == pytest.approx(literal_loss(logits, labels, smoothing), rel=1e-5)
    assert run.callback_metrics["train/loss"].item() == pytest.approx(output["loss"].item(), rel=1e-6)


def test_evaluation_losses_are_not_smoothed():
    data = loader(9, start=50)
    model = classifier(optimizer=STILL, label_smoothing=0.5)
    run = trainer()
    run.fit(model, loader(4), data)
    expected = literal_loss(*logits_of(model, data))
    assert run.callback_metrics["val/loss"].item() == pytest.approx(expected, rel=1e-5)
    run.test(model, data, verbose=False)
    assert run.callback_metrics["test/loss"].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("smoothing", [-0.1, 1.0, 1.5])
def test_a_label_smoothing_out_of_range_is_refused(smoothing):
    with pytest.raises(
        UsageError, match=rf"label_smoothing is {smoothing}; allowed: 0 or more, and less than 1"
    ):
        classifier(label_smoothing=smoothing)


@pytest.mark.parametrize("split", ["val", "test"])
@pytest.mark.parametrize("num_classes", [10, 7, 5, 3, 2])
def test_metrics_over_batches_of_unequal_size_are_exact_counts(split, num_classes):
    sizes, start, data = (7, 1, 20, 3), 0, []
    for size in sizes:
        images = batch(size, start)
        data.append(images._replace(labels=images.labels % num_classes))
        start += size
    model = classifier(num_classes=num_classes)
    run = trainer()
    evaluate = run.validate if split == "val" else run.test
    evaluate(model, batches(*data), verbose=False)
    logits, labels = logits_of(model, data)
    metrics = {name: value.item() for name, value in run.callback_metrics.items()}
    assert metrics == pytest.approx(
        {
            f"{split}/loss": literal_loss(logits, labels),
            f"{split}/top1": literal_accuracy(logits, labels, 1),
            f"{split}/top5": literal_accuracy(logits, labels, min(5, num_classes)),
        },
        rel=1e-5,
    )
    assert 0 < metrics[f"{split}/top1"] < 1
    assert (metrics[f"{split}/top5"] == 1) == (num_classes <= 5)


def test_the_training_accuracy_is_of_the_logits_of_each_step():
    outputs = Outputs()
    run = trainer(outputs, max_epochs=2)
    mixed = soft(batch(5, start=30))
    run.fit(classifier(), batches(batch(16), mixed, batch(2, start=40)))
    for epoch in (0, 1):
        logits = torch.cat([output["logits"] for output, _ in outputs.train[3 * epoch : 3 * epoch + 3]])
        labels = torch.cat([batch(16).labels, mixed.labels.argmax(1), batch(2, start=40).labels])
        expected = literal_accuracy(logits, labels, 1)
        assert outputs.metrics[epoch]["train/top1"] == pytest.approx(expected, abs=1e-6)
    assert "train/top5" not in outputs.metrics[0]


def test_metrics_carry_nothing_over_from_the_sanity_check_or_the_epoch_before():
    data = loader(30, start=50)
    for sanity_steps in (0, 2, -1):
        outputs = Outputs()
        model = classifier()
        run = trainer(outputs, max_epochs=2, num_sanity_val_steps=sanity_steps)
        run.fit(model, loader(16), data)
        logits, labels = logits_of(model, data)
        assert run.callback_metrics["val/top1"].item() == pytest.approx(literal_accuracy(logits, labels, 1))
        assert run.callback_metrics["val/top5"].item() == pytest.approx(literal_accuracy(logits, labels, 5))
        assert run.callback_metrics["val/loss"].item() == pytest.approx(
            literal_loss(logits, labels), rel=1e-5
        )
        seen = torch.cat([output["logits"] for output, _ in outputs.val[:8]])
        assert outputs.metrics[0]["val/top1"] == pytest.approx(literal_accuracy(seen, labels, 1))
        assert outputs.metrics[0]["val/loss"] != outputs.metrics[1]["val/loss"]


def test_an_empty_batch_changes_nothing():
    runs = []
    for extra in ([], [EMPTY]):
        model = classifier()
        run = trainer(EMA(start_epoch=5))  # it measures the raw weights beside
        run.fit(model, batches(batch(4), *extra, batch(3, start=10)), batches(*extra, batch(6, start=50)))
        run.test(model, batches(batch(6, start=60), *extra), verbose=False)
        metrics = {name: value.item() for name, value in run.callback_metrics.items()}
        runs.append((snapshot(model), metrics))
    (state, metrics), (state_with, metrics_with) = runs
    assert not differing(state, state_with)
    assert metrics == metrics_with
    assert metrics


def test_predictions_are_probabilities():
    model = classifier()
    predicted = torch.cat(trainer().predict(model, loader(10)))
    logits, _ = logits_of(model, loader(10))
    assert predicted.dtype == torch.float32
    torch.testing.assert_close(predicted.sum(1), torch.ones(10))
    torch.testing.assert_close(predicted.log(), logits.log_softmax(1), rtol=1e-5, atol=1e-5)


def test_an_empty_batch_has_gradients_of_zero_where_other_devices_wait_for_them(monkeypatch):
    module = classifier()
    module.trainer = trainer()
    monkeypatch.setattr(type(module.trainer), "world_size", 2)
    output = module.training_step(batch(4)._replace(images=torch.empty(0, 1, 14, 14)), 0)
    output["loss"].backward()
    assert output["loss"] == 0
    assert all(torch.equal(p.grad, torch.zeros_like(p)) for p in module.network.parameters())


def test_an_empty_batch_is_predicted_as_nothing():
    predicted = trainer().predict(classifier(), batches(batch(2), EMPTY))
    assert [tuple(part.shape) for part in predicted] == [(2, 10), (0, 10)]


def test_a_network_has_to_be_named():
    with pytest.raises(UsageError, match="no network and no weights were given"):
        Classifier()


@pytest.mark.parametrize("class_names", [None, NAMES, list(NAMES)])
def test_weights_of_the_same_classes_are_taken_whole(weights, class_names):
    torch.manual_seed(1)
    model = Classifier(weights=weights, num_classes=10, in_channels=1, class_names=class_names)
    images = batch(4).images
    fresh, theirs = classifier(), classifier(weights=weights)
    assert differing(model.network.state_dict(), fresh.network.state_dict())
    assert not differing(model.network.state_dict(), theirs.network.state_dict())
    assert all(
        value.min() >= 0.5 for value in model.network.state_dict().values() if value.is_floating_point()
    )
    assert torch.equal(model.eval()(images), theirs.eval()(images))
    assert model.hparams["network"] == "resnet20"
    assert model.hparams["attention"] == "cbam"
    trainer().test(model, loader(4), verbose=False)


@pytest.mark.parametrize("attention", ["cbam", "sagan"])
def test_attention_added_to_plain_weights_starts_from_what_they_give(tmp_path, caplog, attention):
    plain = classifier(attention="none").eval()
    path = tmp_path / "plain.safetensors"
    names = ("network", "attention", "num_classes", "in_channels", "network_options")
    save_checkpoint(path, plain.network.state_dict(), Header(**{name: plain.hparams[name] for name in names}))
    images = batch(4).images
    hint = "--model.attention_options.gate identity"
    with caplog.at_level("INFO"), torch.no_grad():
        options = {"gate": "identity"} if attention == "cbam" else {}
        model = Classifier(
            weights=path, num_classes=10, in_channels=1, attention=attention, attention_options=options
        )
        assert torch.equal(model.eval()(images), plain(images))
        assert "new attention" in caplog.text
        assert hint not in caplog.text
        if attention == "cbam":
            model = Classifier(weights=path, num_classes=10, in_channels=1, attention=attention)
            assert not torch.allclose(model.eval()(images), plain(images))
            assert hint in caplog.text
        caplog.clear()
        Classifier(weights=path, num_classes=10, in_channels=1, attention="simam")  # has no parameters
        assert "new attention changes what the weights compute" in caplog.text
        assert hint not in caplog.text


@pytest.mark.parametrize(
    "options",
    [{"class_names": NAMES[::-1]}, {"class_names": tuple("0123456789")}, {"num_classes": 7}],
    ids=["other order", "other names", "other number"],
)
def test_weights_of_other_classes_give_a_new_classifier_that_has_to_be_trained(weights, options):
    model = classifier(weights=weights, **options)
    fresh = {k: v for k, v in classifier(**options).network.state_dict().items() if k.startswith("fc.")}
    state = model.network.state_dict()
    # the same seed: the classifier is just the fresh one, and no other value is
    assert not differing({key: state[key] for key in fresh}, fresh)
    whole = classifier(weights=weights).network.state_dict()
    assert {key for key in whole if not torch.equal(state[key], whole[key])} <= set(fresh)

    for evaluate in (trainer().test, trainer().validate, trainer().predict):
        with pytest.raises(UsageError, match=r"start\.safetensors has 10 classes \(a, b, c, …\).*fine-tune"):
            evaluate(model, loader(4))
    run = trainer()
    data = batches(batch(4)._replace(labels=torch.arange(4)))
    run.fit(model, data)
    run.test(model, data, verbose=False)
    assert "test/top1" in run.callback_metrics


@pytest.mark.parametrize("options", [{"attention": "none"}, {"network": "resnet32"}, {"in_channels": 3}])
def test_weights_of_another_network_are_refused(weights, options):
    given = {"network_options": {"depths": [1, 1, 2], "widths": [8, 16, 32]}} if "network" in options else {}
    with pytest.raises(UsageError, match=r"start\.safetensors belongs to another network"):
        classifier(weights=weights, **options | given)


def test_what_fits_of_another_network_is_taken_if_asked_for(weights):
    model = classifier(weights=weights, attention="none", strict_weights=False)
    whole = classifier(weights=weights).network.state_dict()
    shared = {key: value for key, value in whole.items() if ".attention." not in key}
    assert not differing(model.network.state_dict(), shared)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"num_classes": 7}, "num_classes 10 and this run 7"),
        ({"attention": "se"}, "attention 'cbam' and this run 'se'"),
        ({"attention": "none"}, "attention 'cbam' and this run 'none'"),
        ({"network": "resnet32"}, "network 'resnet20' and this run 'resnet32'"),
        ({"in_channels": 3}, "in_channels 1 and this run 3"),
        (
            {"attention_options": {"gate": "identity"}},
            "attention_options {} and this run {'gate': 'identity'}",
        ),
        (
            {"network_options": {"depths": [1, 1, 1], "widths": [8, 16, 16]}},
            "network_options .* and this run ",
        ),
        ({"class_names": NAMES[::-1]}, r"classes \(a, b, c, …\) differ from the data's \(j, i, h, …\)"),
    ],
)
def test_a_checkpoint_of_another_network_is_refused_before_a_value_is_loaded(tmp_path, options, text):
    path, _ = saved_run(tmp_path, class_names=NAMES)
    model = classifier(**{"class_names": NAMES} | options)
    before = snapshot(model)
    for start in (trainer().test, trainer(max_epochs=2).fit):
        with pytest.raises(UsageError, match=text) as caught:
            start(model, loader(4), ckpt_path=path, weights_only=True)
        assert "--model.weights" in str(caught.value)
        assert "\n" not in str(caught.value)
    assert not differing(model.state_dict(), before)


def test_a_checkpoint_goes_on_with_another_implementation(tmp_path):
    with torch.compiler.set_stance("force_eager"):
        path, trained = saved_run(tmp_path, attention_options={"implementation": "fused", "reduction": 4})
    model = classifier(attention_options={"reduction": 4})
    trainer().test(model, loader(4), ckpt_path=path, weights_only=True, verbose=False)
    assert not differing(model.state_dict(), trained.state_dict())
    # The file says what the network is; how it is computed is up to the machine that opens it.
    assert load_checkpoint(path).header.attention_options == {"reduction": 4}
    tuned = classifier(weights=str(path), attention_options={"implementation": "reference"})
    assert tuned.hparams["attention_options"] == {"reduction": 4, "implementation": "reference"}


def test_a_checkpoint_with_attention_after_lists_of_modules_goes_on():
    """Version 0.1 made the attention after a stage the last module of the stage's list."""
    model = Classifier("torchvision/resnet18", attention="bam", num_classes=3)
    now = "network.layer1.1.attention.", "network.layer1.attention."
    state = {key.replace(*now): torch.ones_like(value) for key, value in model.state_dict().items()}
    checkpoint = {"state_dict": state, "current_model_state": dict(state), "hyper_parameters": {}}
    assert set(state) != set(model.state_dict())
    model.on_load_checkpoint(checkpoint)
    for name in ("state_dict", "current_model_state"):
        assert list(checkpoint[name]) == list(model.state_dict())
    model.load_state_dict(checkpoint["state_dict"])


def test_a_checkpoint_of_the_same_network_replaces_a_new_classifier(tmp_path, weights):
    path, trained = saved_run(tmp_path)
    model = classifier(weights=weights, class_names=NAMES[::-1])
    trainer().test(model, loader(4), ckpt_path=path, weights_only=True, verbose=False)
    assert not differing(model.state_dict(), trained.state_dict())


OPTIONS = {
    "default": {},
    "a lambda and a schedule": {
        "optimizer": lambda parameters: AdamW(parameters, lr=1e-3),
        "schedule": WarmupCosine(0.5),
        "class_names": NAMES,
        "mean": (0.286,),
        "std": [0.353],
        "size_px": 14,
        "dataset": "clothes",
    },
    "attention options": {"attention_options": {"reduction": 2, "pools": ("avg", "lse")}},
    "frozen": {"freeze": "layer1", "label_smoothing": 0.1, "channels_last": True},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_checkpoint_is_plain_and_rebuilds_the_classifier(tmp_path, options):
    path, model = saved_run(tmp_path, **options)
    known = torch.load(path, weights_only=True)["hyper_parameters"]
    assert known["network"] == "resnet20"
    assert known["attention"] == "cbam"
    assert known["network_options"] == {"depths": [1, 1, 1], "widths": [8, 16, 32]}
    again = Classifier.load_from_checkpoint(path)
    images = batch(6).images
    assert torch.equal(again.eval()(images), model.eval()(images))
    assert again.class_names == options.get("class_names")
    assert again.hparams["attention_options"] == options.get("attention_options", {})


def test_a_checkpoint_needs_no_file_the_run_started_from(tmp_path, weights):
    path, model = saved_run(tmp_path, weights=weights, network=None, attention=None, network_options=None)
    (tmp_path / "start.safetensors").unlink()
    again = Classifier.load_from_checkpoint(path)
    assert not differing(again.state_dict(), model.state_dict())


def test_a_run_takes_the_optimiser_and_schedule_it_is_given():
    schedule = WarmupCosine(0, final_factor=0.5)
    model = classifier(optimizer=lambda parameters: AdamW(parameters, lr=1e-3), schedule=schedule)
    run = trainer()
    run.fit(model, loader(16))
    assert type(run.optimizers[0]) is AdamW
    assert run.optimizers[0].param_groups[0]["lr"] == pytest.approx(5e-4)


def test_channels_last_gives_the_same_logits():
    plain, model = classifier().eval(), classifier(channels_last=True).eval()
    assert not differing(plain.state_dict(), model.state_dict())
    images = batch(6).images
    with torch.no_grad():
        torch.testing.assert_close(model(images), plain(images), rtol=1e-5, atol=1e-5)
    weight = model.network.layer2[0].conv1.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert not weight.is_contiguous()


def test_channels_last_reaches_the_images_and_survives_training():
    layouts = []
    model = classifier(channels_last=True, in_channels=3)
    model.network.register_forward_pre_hook(
        lambda module, inputs: layouts.append(inputs[0].is_contiguous(memory_format=torch.channels_last))
    )
    images = batch(4)
    colour = images._replace(images=images.images.repeat(1, 3, 1, 1))
    assert not colour.images.is_contiguous(memory_format=torch.channels_last)
    trainer().fit(model, batches(colour, colour))
    assert layouts == [True, True]
    assert not model.network.layer2[0].conv1.weight.is_contiguous()


def test_compiling_changes_no_key_and_no_value(tmp_path, monkeypatch):
    compiled = []
    original = torch.compile

    def compile_eagerly(function, **options):
        compiled.append(function)
        return original(function, backend="eager", **options)

    monkeypatch.setattr(torch, "compile", compile_eagerly)
    plain_path, plain = saved_run(tmp_path / "plain", EMA(0.9))
    assert not compiled
    path, model = saved_run(tmp_path / "compiled", EMA(0.9), compile=True)
    assert len(compiled) == 1
    assert list(model.state_dict()) == list(plain.state_dict())
    state, expected = (torch.load(p, weights_only=True)["state_dict"] for p in (path, plain_path))
    assert list(state) == list(expected)
    for key, value in expected.items():
        torch.testing.assert_close(state[key], value, msg=key)


@pytest.mark.slow
def test_the_compiled_network_trains_as_the_plain_one():
    plain, model = classifier(), classifier(compile=True)
    for given in (plain, model):
        trainer().fit(given, loader(8))
    assert list(model.state_dict()) == list(plain.state_dict())
    for key, value in plain.state_dict().items():
        torch.testing.assert_close(model.state_dict()[key], value, rtol=1e-4, atol=1e-5, msg=key)


def test_in_bfloat16_the_gates_are_float32_and_finite(monkeypatch):
    gates, logits = [], []
    gate_map = Gate.gate_map

    def record(self, x):
        gates.append((x.dtype, gate_map(self, x)))
        return gates[-1][1]

    monkeypatch.setattr(Gate, "gate_map", record)
    outputs = Outputs()
    model = classifier()
    model.network.register_forward_hook(lambda module, inputs, output: logits.append(output.dtype))
    run = trainer(outputs, precision="bf16-mixed", num_sanity_val_steps=0)
    run.fit(model, loader(8), loader(4))
    assert set(logits) == {torch.bfloat16}
    assert len(gates) == 3 * 2 * 3  # batches, gates of a block, blocks
    assert torch.bfloat16 in {dtype for dtype, _ in gates}
    assert {gate.dtype for _, gate in gates} == {torch.float32}
    assert all(gate.isfinite().all() for _, gate in gates)
    assert all(
        value.dtype != torch.bfloat16 and value.isfinite().all() for value in model.state_dict().values()
    )
    (output, images), *_ = outputs.val
    expected = literal_loss(output["logits"], images.labels)
    assert run.callback_metrics["val/loss"].item() == pytest.approx(expected, rel=1e-5)


def test_a_frozen_part_stays_in_evaluation_mode_whatever_is_asked():
    model = classifier(freeze="layer1*")
    for _ in range(2):
        model.train()
        modes = {name: module.training for name, module in model.network.named_modules() if name}
        assert modes == {name: not name.startswith("layer1") for name in modes}
        model.eval()
        assert not any(module.training for module in model.modules())


class OwnDefault(Classifier):
    """A task with a default optimiser of its own."""

    def __init__(self, optimizer=lambda params: AdamW(params, lr=0.5), **options):
        super().__init__(optimizer=optimizer, **options)


class NoDefault(OwnDefault):
    """A task that takes the default of its base class."""


@pytest.mark.parametrize("task", [Classifier, OwnDefault, NoDefault])
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
def test_a_task_with_the_default_optimiser_can_be_copied_and_pickled(task, copied):
    module = task(network="resnet8", num_classes=10, in_channels=1, schedule=WarmupCosine())
    other = copied(module)
    assert not differing(snapshot(module), snapshot(other))
    made, expected = (one.optimizer([torch.zeros(1, requires_grad=True)]) for one in (other, module))
    assert type(made) is type(expected)
    assert made.defaults == expected.defaults
    assert isinstance(made, SGD if task is Classifier else AdamW)


def test_frozen_attention_that_the_weights_do_not_have_is_told():
    with pytest.warns(UserWarning, match="--model.freeze backbone also freezes 36 parameters"):
        Classifier(
            weights="resnet20.fashion_mnist", attention="se", num_classes=10, in_channels=1, freeze="backbone"
        )
