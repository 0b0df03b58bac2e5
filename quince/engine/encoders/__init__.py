"""Encoder models, which mlx-lm has none of, in the form in which mlx-lm loads models.

Each file has ``ModelArgs`` (made by ``from_dict`` from config.json) and ``Model``, whose parameters are named as in the
published checkpoints, and which may ``sanitize`` a checkpoint's weights. Which model types there are: ``MODULES``.

    Model.hidden(token_ids, lengths, second_from) -> [rows, columns, hidden_size]
    Model.classify(hidden, lengths)               -> [rows, labels]: logits; only of models made with a classifier

``token_ids`` [rows, columns] are padded on the right; ``lengths`` [rows] says how much of a row is text, and
``second_from`` [rows] where its second text begins (its length, if there is none). What stands in the padding changes
nothing in the text's part of the result, whose padding is undefined.
"""

from __future__ import annotations

from quince.engine.encoders import bert, modernbert, xlm_roberta

MODULES = {
    "bert": bert,
    "roberta": xlm_roberta,
    "xlm-roberta": xlm_roberta,
    "modernbert": modernbert,
}
