"""The order of heads that start from each other, and invalid initial heads."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mem.config import Crt, Head, ordered_heads
from tests.config.studies import error_message
from tests.heads.mem_heads import mem_settings
from tests.heads.test_baselines import HEADS, TRAINING


def crt(first: str | None = None) -> Crt:
    return Crt(method="crt", classifier_from=first, training=TRAINING)


def test_every_head_follows_the_head_that_it_starts_from():
    heads: dict[str, Head] = {
        "mem": mem_settings(classifier_from="again"),
        "again": crt("crt"),
        "tau": HEADS["tau"],
        "crt": crt(),
        "mem_on_tau": mem_settings(classifier_from="tau"),
        "probe": HEADS["probe"],
    }
    assert ordered_heads(heads, None) == ["tau", "crt", "probe", "again", "mem_on_tau", "mem"]
    assert ordered_heads(heads, "probe") == ["crt", "probe", "again", "tau", "mem", "mem_on_tau"]


@given(st.lists(st.integers(-1, 8), min_size=1, max_size=9), st.randoms(use_true_random=False))
def test_the_order_of_any_heads_is_topological_and_complete(parents, random):
    heads: dict[str, Head] = {
        f"h{i}": crt(f"h{parent % i}" if i and parent >= 0 else None) for i, parent in enumerate(parents)
    }
    names = list(heads)
    random.shuffle(names)
    order = ordered_heads({name: heads[name] for name in names}, None)
    assert sorted(order) == sorted(heads)
    for name, head in heads.items():
        if head.classifier_from is not None:
            assert order.index(head.classifier_from) < order.index(name)


@pytest.mark.parametrize(
    ("starts", "cycle"),
    [
        ({"crt": "crt"}, "crt -> crt"),
        ({"crt": "again", "again": "crt"}, "crt -> again -> crt"),
        ({"crt": "a", "a": "b", "b": "c", "c": "a"}, "a -> b -> c -> a"),
    ],
)
def test_heads_that_start_from_each_other_are_refused_with_the_cycle(tmp_path, mini_values, starts, cycle):
    template = mini_values["heads"]["crt"]
    for name, first in starts.items():
        mini_values["heads"][name] = {**template, "method": "crt", "classifier_from": first}
    message = error_message(tmp_path, mini_values)
    assert f"classifier_from: the heads start from each other: {cycle}. Let one of them start from" in message


@pytest.mark.parametrize("first", ["ncm", "mem", "absent"])
def test_an_initial_head_that_is_not_linear_or_missing_is_refused(tmp_path, mini_values, first):
    mini_values["heads"] |= {"ncm": {}, "warm": {**mini_values["heads"]["crt"], "method": "crt"}}
    mini_values["heads"]["warm"]["classifier_from"] = first
    message = error_message(tmp_path, mini_values)
    assert f"heads.warm.classifier_from: this study has no head `{first}` with a linear classifier" in message
    assert "choose one of ['ce', 'tau', 'crt', 'lws']" in message


@pytest.mark.parametrize("method", ["tau", "lws", "mislas", "logit_adjustment"])
def test_without_finetuning_a_head_on_the_finetuned_classifier_requires_a_probe(tmp_path, mini_values, method):
    mini_values["heads"] = {"head": HEADS[method].model_dump(mode="json"), "crt": mini_values["heads"]["crt"]}
    mini_values |= {"finetune": None}
    message = error_message(tmp_path, mini_values)
    assert "heads.head: starts from a classifier, but nothing is finetuned (finetune: null); add one head" in message


def test_a_control_on_tokens_requires_stored_tokens(tmp_path, mini_values):
    training = mini_values["heads"]["crt"]["training"]
    block = {"method": "block_classifier", "input": "tokens", "width": 8, "depth": 1, "training": training}
    mini_values["heads"] = {"ce": None, "block": block}
    mini_values["features"]["tokens"] = False
    assert "heads.block.input: `tokens` requires `features.tokens: true`" in error_message(tmp_path, mini_values)
