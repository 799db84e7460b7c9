"""The moving average of the weights, over real training steps."""

from functools import partial
from itertools import count

import pytest
import torch
from pytorch_lightning import Callback
from pytorch_lightning.callbacks import ModelCheckpoint
from torch.optim import SGD

from cbam_lightning.callbacks import EMA
from cbam_lightning.errors import UsageError
from tests.tasks.small import batch, batches, classifier, differing, loader, snapshot, trainer


class Raw(Callback):
    """Notes the raw weights after every optimiser step, and before the first."""

    def on_train_start(self, trainer, pl_module):
        self.states = [snapshot(pl_module)]
        self.seen = trainer.global_step

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step > self.seen:
            self.states.append(snapshot(pl_module))
            self.seen = trainer.global_step


def literal_average(states, decay, warmup=True):
    """The recursion of the average, in float64, from the raw weights after each step."""
    average = {key: value.double() for key, value in states[0].items()}
    for updates, state in zip(count(1), states[1:], strict=False):
        keep = min(decay, (1 + updates) / (10 + updates)) if warmup else decay
        for key, value in state.items():
            mixed = keep * average[key] + (1 - keep) * value.double()
            average[key] = mixed if value.is_floating_point() else value.double()
    return average


def assert_close(state, expected, atol=1e-6):
    assert state.keys() == expected.keys()
    for key, value in state.items():
        torch.testing.assert_close(value.double(), expected[key].double(), rtol=1e-6, atol=atol, msg=key)


def every_epoch(folder, **options):
    return ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1, **options)


def read(path):
    return torch.load(path, weights_only=True)


def fit(*callbacks, train=None, val=None, ckpt_path=None, **options):
    # a large learning rate, so that the average differs from the raw weights
    model = classifier(optimizer=partial(SGD, lr=0.3))
    run = trainer(*callbacks, **options)
    run.fit(model, train or loader(16), val, ckpt_path=ckpt_path, weights_only=True)
    return model, run


def evaluate(state, data):
    """Top-1 and mean cross entropy of a state of the classifier, by hand."""
    model = classifier().eval()
    model.load_state_dict(state)
    with torch.no_grad():
        scores = [(model(images).log_softmax(1), labels) for images, labels, _ in data]
    logs, labels = torch.cat([s for s, _ in scores]), torch.cat([labels for _, labels in scores])
    return {
        "top1": (logs.argmax(1) == labels).double().mean().item(),
        "loss": -logs[torch.arange(len(labels)), labels].double().mean().item(),
    }


@pytest.mark.parametrize("decay", [-0.1, 1.0, 1.5])
def test_a_decay_out_of_range_is_refused(decay):
    with pytest.raises(UsageError, match="allowed: 0 or more, and less than 1"):
        EMA(decay)


def test_the_decay_warms_up_to_its_limit():
    assert [EMA(0.25).decay_at(n) for n in range(5)] == [1 / 10, 2 / 11, 0.25, 0.25, 0.25]
    assert [EMA(0.25, warmup=False).decay_at(n) for n in (0, 1, 100)] == [0.25, 0.25, 0.25]
    assert EMA(0.999).decay_at(10**6) == 0.999


@pytest.mark.parametrize("options", [{"decay": 0.3}, {"decay": 0.999}, {"decay": 0.9, "warmup": False}])
def test_after_some_steps_the_module_holds_the_literal_average(options):
    raw = Raw()
    model, _ = fit(EMA(**options), raw, train=loader(12), max_epochs=2)
    assert len(raw.states) == 7
    average = literal_average(raw.states[1:], **options)
    assert_close(model.state_dict(), average)
    # so that the test can fail
    assert any((average[key] - raw.states[-1][key]).abs().max() > 1e-3 for key in average)


def test_buffers_are_averaged_and_counts_copied():
    raw = Raw()
    model, _ = fit(EMA(0.9, warmup=False), raw, train=loader(20))
    state, average = model.state_dict(), literal_average(raw.states[1:], 0.9, warmup=False)
    variance = "network.layer2.0.bn1.running_var"
    torch.testing.assert_close(state[variance].double(), average[variance], rtol=1e-6, atol=1e-7)
    assert not torch.allclose(state[variance], raw.states[-1][variance], rtol=1e-2)
    assert state["network.bn1.num_batches_tracked"] == 5
    assert state["network.bn1.num_batches_tracked"].dtype == torch.int64


def test_a_step_of_several_batches_is_averaged_once():
    raw = Raw()
    model, run = fit(EMA(0.9, warmup=False), raw, train=loader(24), accumulate_grad_batches=2)
    assert run.global_step == 3
    assert_close(model.state_dict(), literal_average(raw.states[1:], 0.9, warmup=False))


def test_training_itself_goes_on_with_the_raw_weights():
    with_average, without = Raw(), Raw()
    for callbacks in ((EMA(0.9), with_average), (without,)):
        fit(*callbacks, val=loader(8, start=100), max_epochs=2)
    assert len(without.states) == 9
    for ours, theirs in zip(with_average.states, without.states, strict=True):
        assert not differing(ours, theirs)


def test_a_late_start_validates_and_saves_the_raw_weights_until_then(tmp_path):
    raw, ema, val = Raw(), EMA(0.9, warmup=False, start_epoch=1), loader(40, start=100)
    measured = []

    class Metrics(Callback):
        def on_validation_end(self, trainer, pl_module):
            if not trainer.sanity_checking:
                measured.append({k: v.item() for k, v in trainer.callback_metrics.items() if "val" in k})

    fit(ema, raw, Metrics(), every_epoch(tmp_path), val=val, max_epochs=2)
    first, second = (read(tmp_path / f"epoch={epoch}.ckpt") for epoch in (0, 1))

    assert not differing(first["state_dict"], raw.states[4])
    assert not differing(first["current_model_state"], raw.states[4])
    assert first["cbam_lightning"]["averaged"] is False
    expected = evaluate(raw.states[4], val)
    assert measured[0]["val/loss"] == pytest.approx(expected["loss"], rel=1e-5)
    assert measured[0]["val/top1"] == measured[0]["val/top1_raw"] == pytest.approx(expected["top1"])
    # the untrained copy is something else
    assert evaluate(raw.states[0], val)["loss"] != pytest.approx(expected["loss"], rel=1e-4)

    assert second["cbam_lightning"]["averaged"] is True
    assert_close(second["state_dict"], literal_average(raw.states[5:], 0.9, warmup=False))
    assert measured[1]["val/loss"] == pytest.approx(evaluate(second["state_dict"], val)["loss"], rel=1e-5)


def test_an_average_that_never_starts_leaves_the_raw_weights():
    raw = Raw()
    model, _ = fit(EMA(start_epoch=5), raw, val=loader(8), max_epochs=2)
    assert not differing(model.state_dict(), raw.states[-1])


def test_a_checkpoint_holds_the_average_and_the_raw_weights_beside(tmp_path):
    raw = Raw()
    model, _ = fit(EMA(0.9, warmup=False), raw, every_epoch(tmp_path), val=loader(8), max_epochs=2)
    for epoch in (0, 1):
        saved, steps = read(tmp_path / f"epoch={epoch}.ckpt"), 4 * (epoch + 1)
        assert_close(saved["state_dict"], literal_average(raw.states[1 : steps + 1], 0.9, warmup=False))
        assert not differing(saved["current_model_state"], raw.states[steps])
        assert saved["cbam_lightning"] == {"averaged": True}
    assert not differing(saved["state_dict"], model.state_dict())
    assert differing(saved["state_dict"], saved["current_model_state"])


def test_the_accuracies_of_both_copies_are_those_counted_by_hand(tmp_path):
    val = loader(42, start=100)
    _, run = fit(EMA(0.95, warmup=False), every_epoch(tmp_path), train=loader(80), val=val, max_epochs=2)
    saved = read(tmp_path / "epoch=1.ckpt")
    average, raw = (evaluate(saved[name], val) for name in ("state_dict", "current_model_state"))
    assert run.callback_metrics["val/top1"].item() == pytest.approx(average["top1"], abs=1e-6)
    assert run.callback_metrics["val/loss"].item() == pytest.approx(average["loss"], rel=1e-5)
    assert run.callback_metrics["val/top1_raw"].item() == pytest.approx(raw["top1"], abs=1e-6)
    assert average["top1"] != raw["top1"]


def test_a_test_in_the_same_process_is_of_the_average(tmp_path):
    test = loader(42, start=200)
    model, run = fit(EMA(0.95, warmup=False), every_epoch(tmp_path), train=loader(80), max_epochs=2)
    path = tmp_path / "epoch=0.ckpt"
    run.test(model, test, ckpt_path=path, weights_only=True, verbose=False)
    saved = read(path)
    assert not differing(model.state_dict(), saved["state_dict"])
    average = evaluate(saved["state_dict"], test)
    assert run.callback_metrics["test/loss"].item() == pytest.approx(average["loss"], rel=1e-5)
    assert evaluate(saved["current_model_state"], test)["loss"] != pytest.approx(average["loss"], rel=1e-3)
    assert "val/top1_raw" not in run.callback_metrics


def test_a_validation_outside_training_is_of_what_the_module_holds():
    model, val = classifier(), loader(42, start=200)
    before = snapshot(model)
    run = trainer(EMA())
    run.validate(model, val, verbose=False)
    assert run.callback_metrics["val/loss"].item() == pytest.approx(evaluate(before, val)["loss"], rel=1e-5)
    assert not differing(model.state_dict(), before)


@pytest.mark.parametrize("start_epoch", [0, 1, 2])
def test_a_resumed_run_continues_both_copies(tmp_path, start_epoch):
    def run(folder, epochs, ckpt_path=None):
        ema = EMA(0.9, warmup=True, start_epoch=start_epoch)
        options = {"val": loader(8, start=100), "max_epochs": epochs, "ckpt_path": ckpt_path}
        fit(ema, every_epoch(tmp_path / folder), **options)

    run("unbroken", 3)
    run("broken", 1)
    run("broken", 3, tmp_path / "broken" / "epoch=0.ckpt")
    for epoch in (0, 1, 2):
        ours, theirs = (read(tmp_path / folder / f"epoch={epoch}.ckpt") for folder in ("broken", "unbroken"))
        for entry in ("state_dict", "current_model_state", "averaging_state"):
            assert not differing(ours[entry], theirs[entry]), (epoch, entry)
        assert ours["cbam_lightning"] == theirs["cbam_lightning"]


def test_a_run_resumed_within_an_epoch_continues_both_copies(tmp_path):
    # the same batch again and again, as the place in the epoch is not what this is about
    train = batches(*[batch(4)] * 4)

    def run(folder, ckpt_path=None):
        ema = EMA(0.9, warmup=False, start_epoch=1)
        saving = ModelCheckpoint(tmp_path / folder, filename="{step}", save_top_k=-1, every_n_train_steps=1)
        fit(ema, saving, train=train, max_epochs=2, ckpt_path=ckpt_path)

    run("unbroken")
    run("broken", tmp_path / "unbroken" / "step=6.ckpt")
    ours, theirs = (read(tmp_path / folder / "step=8.ckpt") for folder in ("broken", "unbroken"))
    assert theirs["averaging_state"]["n_averaged"] == 4
    for entry in ("state_dict", "current_model_state", "averaging_state"):
        assert not differing(ours[entry], theirs[entry]), entry


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, RuntimeError])
def test_a_run_broken_off_while_validating_saves_each_copy_in_its_place(tmp_path, interruption):
    class Break(Callback):
        def on_validation_batch_end(self, trainer, *arguments):
            if not trainer.sanity_checking:
                raise interruption

    raw = Raw()
    saving = every_epoch(tmp_path, save_on_exception=True)
    with pytest.raises((interruption, SystemExit)):
        fit(EMA(0.9, warmup=False), raw, Break(), saving, val=loader(8))
    (path,) = tmp_path.iterdir()
    saved = read(path)
    assert not differing(saved["current_model_state"], raw.states[4])
    assert_close(saved["state_dict"], literal_average(raw.states[1:], 0.9, warmup=False))
    assert saved["cbam_lightning"]["averaged"] is True


def test_a_checkpoint_of_the_end_of_training_holds_the_raw_weights_too(tmp_path):
    raw = Raw()
    saving = ModelCheckpoint(tmp_path, every_n_epochs=5, save_last=True)
    model, _ = fit(EMA(0.9, warmup=False), raw, saving, val=loader(8))
    saved = read(tmp_path / "last.ckpt")
    assert not differing(saved["current_model_state"], raw.states[4])
    assert not differing(saved["state_dict"], model.state_dict())
    assert differing(saved["state_dict"], raw.states[4])


def test_a_checkpoint_after_training_holds_both_copies(tmp_path):
    raw = Raw()
    model, run = fit(EMA(0.9, warmup=False), raw)
    run.save_checkpoint(tmp_path / "by_hand.ckpt")
    saved = read(tmp_path / "by_hand.ckpt")
    assert not differing(saved["current_model_state"], raw.states[4])
    assert not differing(saved["state_dict"], model.state_dict())
    assert_close(saved["state_dict"], literal_average(raw.states[1:], 0.9, warmup=False))


def test_a_run_after_one_that_was_broken_off_starts_afresh(tmp_path):
    class Break(Callback):
        armed = True

        def on_validation_batch_end(self, trainer, *arguments):
            if self.armed and not trainer.sanity_checking:
                raise RuntimeError

    ema, breaking, raw = EMA(0.9, warmup=False), Break(), Raw()
    with pytest.raises(RuntimeError):
        fit(ema, breaking, val=loader(8))
    breaking.armed = False
    fit(ema, breaking, raw, every_epoch(tmp_path), val=loader(8))
    saved = read(tmp_path / "epoch=0.ckpt")
    assert not differing(saved["current_model_state"], raw.states[4])
    assert_close(saved["state_dict"], literal_average(raw.states[1:], 0.9, warmup=False))


def test_the_same_callback_serves_a_second_run():
    ema = EMA(0.9, warmup=False)
    fit(ema, train=loader(24))
    raw = Raw()
    model, _ = fit(ema, raw, train=loader(16))
    assert_close(model.state_dict(), literal_average(raw.states[1:], 0.9, warmup=False))


def test_a_checkpoint_without_an_average_starts_one(tmp_path):
    fit(every_epoch(tmp_path))
    raw = Raw()
    with pytest.warns(UserWarning, match="not created with WeightAveraging"):
        model, _ = fit(EMA(0.9, warmup=False), raw, ckpt_path=tmp_path / "epoch=0.ckpt", max_epochs=2)
    assert [int(s["network.bn1.num_batches_tracked"]) for s in raw.states] == [4, 5, 6, 7, 8]
    assert_close(model.state_dict(), literal_average(raw.states[1:], 0.9, warmup=False))


def test_in_double_precision_neither_copy_is_rounded():
    raw = Raw()
    average = EMA(decay=0.5)
    module = classifier()
    run = trainer(raw, average, precision="64-true", max_epochs=2)
    run.fit(module, loader(8), loader(4, start=20))
    assert all(value.dtype == torch.float64 for value in raw.states[-1].values() if value.is_floating_point())
    expected = literal_average(raw.states[1:], 0.5)
    for key, value in snapshot(module).items():  # the average, after the training
        if key.startswith("network.") and value.is_floating_point():
            assert torch.allclose(value, expected[key], rtol=0, atol=1e-13), key
