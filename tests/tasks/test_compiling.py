"""The option ``compile``: what it takes and refuses, and real runs of a compiled network."""

import pytest
import torch
from torchmetrics import Metric

from cbam_lightning.callbacks.compiled_steps import CompiledSteps
from cbam_lightning.errors import UsageError
from cbam_lightning.tasks.compiling import compile_arguments
from tests.command import call
from tests.tasks.small import classifier, differing, loader, trainer

# Few operations, which are traced in a second
TINY = {"attention": "se", "network_options": {"depths": [1], "widths": [8]}}
EAGER = {"mode": "reduce-overhead", "backend": "eager"}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (False, None),
        (True, {}),
        ({}, {}),
        (EAGER, EAGER),
        ({"fullgraph": True, "dynamic": None, "mode": "max-autotune"}, ...),
        ({"options": {"triton.cudagraphs": True, "max-autotune": False}}, ...),
        ({"backend": print}, ...),
    ],
)
def test_takes_what_torch_takes(given, expected):
    assert compile_arguments(given) == (given if expected is ... else expected)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("reduce-overhead", "is 'reduce-overhead'; allowed: true, false, or a mapping .*mode, fullgraph"),
        (None, "is None; allowed: true"),
        (1, "is 1; allowed: true"),
        ({"mod": "default"}, "unknown key of --model.compile 'mod'. Did you mean 'mode'.*backend, dynamic"),
        ({3: 4}, "unknown key of --model.compile '3'"),
        ({"mode": "fast"}, "mode=fast, should be one of: .*reduce-overhead"),
        ({"mode": ["default"]}, r"mode is \['default'\]; allowed: one of"),
        ({"fullgraph": "yes"}, "fullgraph is 'yes'; allowed: true or false"),
        ({"dynamic": 1}, "dynamic is 1; allowed: true, false or null"),
        ({"backend": "inducter"}, "unknown backend .*Did you mean 'inductor'.*aot_eager"),
        ({"backend": 3}, "backend is 3"),
        ({"options": "max_autotune"}, "options is 'max_autotune'; allowed: a mapping"),
        ({"options": {"max_autotun": True}}, "unknown option 'max_autotun'.*Did you mean 'max_autotune'"),
        ({"options": {3: True}}, "unknown option '3'"),
        ({"options": {"max_autotune": "yes"}}, "max_autotune, got str should be bool"),
        ({"mode": "default", "options": {"max_autotune": True}}, "Either mode or options"),
    ],
)
def test_refuses_in_one_line(given, message):
    with pytest.raises(UsageError, match=message) as caught:
        compile_arguments(given)
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 600


class Graphs:
    """A backend that runs each graph as it is, and counts graphs.

    Outputs go where the run before wrote them, as those of a CUDA graph.
    """

    def __init__(self):
        self.modes = []

    def __call__(self, graph, inputs):
        self.modes.append(torch.is_grad_enabled())
        buffers = {}

        def run(*args):
            outputs = graph(*args)
            if torch.is_grad_enabled():
                return outputs
            kept = (buffers.setdefault((i, o.shape), torch.empty_like(o)) for i, o in enumerate(outputs))
            return tuple(k.copy_(o) for k, o in zip(kept, outputs, strict=True))

        return run


class AllLogits(Metric):
    """A metric that keeps the very tensors that it is given."""

    def __init__(self):
        super().__init__()
        self.add_state("logits", default=[], dist_reduce_fx=None)

    def update(self, logits, labels):
        self.logits.append(logits)

    def compute(self):
        return torch.cat(self.logits).double().square().sum()


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch.compiler.reset()


def run_of(path=None, epochs=1, **options):
    model = classifier(**TINY, **options)
    run = trainer(max_epochs=epochs)
    run.fit(model, loader(16), loader(12, start=50), ckpt_path=path, weights_only=path and True)
    run.test(model, loader(8, start=80), verbose=False)
    return model, dict(run.callback_metrics), run


def test_a_compiled_run_is_the_plain_run_and_keeps_no_overwritten_logits():
    graphs = Graphs()
    plain, expected, _ = run_of(metrics={"all": AllLogits()})
    model, metrics, run = run_of(metrics={"all": AllLogits()}, compile={"backend": graphs})
    assert not differing(model.state_dict(), plain.state_dict())
    assert metrics == expected
    assert graphs.modes.count(True) == 1
    assert False in graphs.modes  # the validation, too
    assert sum(isinstance(callback, CompiledSteps) for callback in run.callbacks) == 1


@pytest.mark.parametrize("stage", ["validate", "test", "predict"])
def test_evaluation_alone_is_compiled(stage):
    graphs = Graphs()
    options = {} if stage == "predict" else {"verbose": False}
    models = classifier(**TINY), classifier(**TINY, compile={"backend": graphs, "fullgraph": True})
    expected, found = (getattr(trainer(), stage)(model, loader(8), **options) for model in models)
    torch.testing.assert_close(found, expected)
    assert graphs.modes == [False]


def test_a_run_is_resumed_with_another_choice_to_the_bit(tmp_path):
    whole, expected, _ = run_of(epochs=2)
    _, _, first = run_of()
    first.save_checkpoint(tmp_path / "half.ckpt")
    resumed, metrics, _ = run_of(tmp_path / "half.ckpt", epochs=2, compile=EAGER)
    assert not differing(resumed.state_dict(), whole.state_dict())
    assert metrics == expected
    assert resumed.hparams["compile"] == EAGER


def test_every_step_is_announced(monkeypatch):
    begun = []
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: begun.append(1))
    run_of()
    assert not begun
    run_of(compile=EAGER)
    assert len(begun) == 2 + 4 + 3 + 2  # batches of the check before training, training, validation, test


@pytest.mark.parametrize("batches", [1, 2])
def test_gradients_of_several_batches_outlive_the_memory_of_one(batches):
    model = torch.nn.Linear(2, 2)
    model(torch.ones(1, 2)).sum().backward()
    before = model.weight.grad
    CompiledSteps().on_after_backward(trainer(accumulate_grad_batches=batches), model)
    assert torch.equal(model.weight.grad, before)
    assert (model.weight.grad is before) == (batches == 1)


@pytest.mark.parametrize("way", ["command line", "YAML"])
def test_the_command_refuses_before_anything_is_trained(way, tmp_path, capsys):
    (tmp_path / "bad.yaml").write_text(
        "model: {class_path: Classifier, init_args: {compile: {mod: default}}}"
    )
    option = "--model.compile '{mode: fast}'" if way == "command line" else "--config bad.yaml"
    options = "--model Classifier --model.network resnet8 --data FashionMNIST"
    assert call("fit", options if way == "command line" else "--data FashionMNIST", option) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1
    assert "reduce-overhead" in error[0] if way == "command line" else "Did you mean 'mode'" in error[0]
    assert not (tmp_path / "runs").exists()
