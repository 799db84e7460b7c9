"""Which values in a data flow are, or become, the outputs of the network: attention never goes there."""

from __future__ import annotations

from cbam_lightning.models.insertion.dataflow import Dataflow, Value
from cbam_lightning.models.insertion.maps import is_map, module_of, resolution


def outputs_of(flow: Dataflow) -> list[str]:
    """Return the modules after which the network's outputs follow without another layer."""
    last = [value for value in flow.modules_of if is_map(flow, value) and makes_output(flow, value)]
    ends = [v for v in last if not any(v.bit & other.ancestors for other in last if other is not v)]
    return [name for name in (module_of(flow, value, any_kind=True) for value in ends) if name]


def is_output(flow: Dataflow, value: Value, pooled: bool = True) -> bool:
    """Return whether an output of the network is computed from this value alone, without another layer.

    Args:
        flow: Of the network.
        value: A value in it.
        pooled: Whether vectors, such as logits pooled from a map, count as outputs.
    """
    return any(
        value.bit & result.dominators and result.depth == value.depth and (pooled or len(result.shape) > 2)
        for result in _final_results(flow)
    )


def _final_results(flow: Dataflow) -> list[Value]:
    """Return the network's outputs but for features: maps from which others of lower resolution are computed.

    Of a network that returns its pooled features, and says so by ``num_classes`` 0, they are none either.
    """
    features = [
        result
        for result in flow.results
        if any(result.bit & other.ancestors and other.depth > result.depth for other in flow.results)
    ]
    smallest = min((resolution(feature) for feature in features), default=0)
    ends = [
        result
        for result in flow.results
        if resolution(result) < smallest and any(f.bit & result.ancestors for f in features)
    ]
    others = [result for result in flow.results if result not in (*features, *ends) or len(result.shape) < 4]
    return [result for result in others if not (flow.headless and len(result.shape) == 2)]


def makes_output(flow: Dataflow, value: Value) -> bool:
    """Return whether a value enters the network's output without another layer, perhaps beside others.

    So does a map with the channels of an output map that one layer follows.
    """
    for result in _final_results(flow):
        layers = result.depth - value.depth if value.bit & result.ancestors else -1
        same = result.channel_axis is not None and len(result.shape) > 2
        if layers == 0 or (layers == 1 and same and _channels(result) == _channels(value)):
            return True
    return False


def _channels(value: Value) -> int:
    return value.shape[value.channel_axis] if value.channel_axis is not None else 0


def is_used(flow: Dataflow, value: Value) -> bool:
    """Return whether an output of the network depends on a value."""
    return not flow.results or any(value.bit & result.ancestors for result in flow.results)
