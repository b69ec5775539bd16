"""Rules for variants of finetuning: which ones are the same, which values they inherit, and what the messages say."""

from __future__ import annotations

import copy

from tests.config.studies import error_message


def with_variants(mini_values: dict, variants: dict, heads: dict | None = None) -> dict:
    """Return the mini study with variants of finetuning and with a head `NAME_head` for each variant."""
    values = copy.deepcopy(mini_values)
    values["heads"] |= {f"{name}_head": {"method": "ce", "finetuning": name} for name in variants}
    values["heads"] |= heads or {}
    return values | {"finetune_variants": variants}


def test_variants_that_share_a_run_key_are_rejected(tmp_path, mini_values):
    epochs = mini_values["finetune"]["validate_every_epochs"]
    values = with_variants(mini_values, {"other": {"validate_every_epochs": epochs + 1}})
    assert (
        "finetune_variants.other: has the same settings as finetune, apart from settings that cannot change the result"
    ) in error_message(tmp_path, values)
