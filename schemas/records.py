"""Arrow schemas of every table, in the order in which the data flows.

The store holds what was computed (`sources` to `failures`); the views hold what the current recipe selects from
it (`candidates`, `scores`, `pairs`). Ids are explained in schemas/ids.py.
"""

import pyarrow as pa

STRING, BINARY, INT, FLOAT, BOOL = pa.string(), pa.binary(), pa.int64(), pa.float64(), pa.bool_()

# ---- store: append-only, content-addressed -------------------------------------------------------------------

# The ingest index: which input each file, line or row holds. `stamp` changes when the source changes.
SOURCE = pa.schema([("source_key", STRING), ("source", STRING), ("stamp", STRING), ("input_id", STRING)])

# One row per distinct input; exactly one of `text` and `image` (encoded bytes) is set.
INPUT = pa.schema(
    [
        ("input_id", STRING),
        ("modality", STRING),
        ("text", STRING),
        ("image", BINARY),
        ("width", INT),
        ("height", INT),
    ]
)

# One row per resolved model or metric: the settings behind a fingerprint, as JSON.
MODEL = pa.schema([("fingerprint", STRING), ("name", STRING), ("kind", STRING), ("identity", STRING)])

# One row per generation, candidate and reconstruction alike. `source_id` is the content that the model read. `draw`
# counts the draws that gave no output before this one (see SampledSpec in specs.py) and `seed` is the seed of the
# successful draw; the id is always made from the seed of draw 0. `truncated` marks a caption that reached its token
# limit, or an image whose prompt no text encoder read to its end. `cut_by` names what cut it: "max_new_tokens", or each
# tokenizer that cut the prompt, even if another one read all of it (SD3: CLIP's cuts, T5's does not).
GENERATION = pa.schema(
    [
        ("generation_id", STRING),
        ("source_id", STRING),
        ("model", STRING),
        ("fingerprint", STRING),
        ("seed", INT),
        ("draw", INT),
        ("content_id", STRING),
        ("text", STRING),
        ("raw_text", STRING),
        ("image", BINARY),
        ("width", INT),
        ("height", INT),
        ("truncated", BOOL),
        ("cut_by", pa.list_(STRING)),
        ("code_version", STRING),
    ]
)

SIMILARITY = pa.schema(
    [
        ("similarity_id", STRING),
        ("input_id", STRING),
        ("content_id", STRING),
        ("metric", STRING),
        ("fingerprint", STRING),
        ("value", FLOAT),
        ("code_version", STRING),
    ]
)

# The probability, in [0, 1], that an image has the label that the recipe's safety model looks for.
VERDICT = pa.schema(
    [
        ("verdict_id", STRING),
        ("content_id", STRING),
        ("model", STRING),
        ("fingerprint", STRING),
        ("value", FLOAT),
        ("code_version", STRING),
    ]
)

# One row for each row that could not be made. `id` is the id that the row would have had; `attempt` counts the tries,
# including those that ended with a worker's death and those of `--retry-failed`.
FAILURE = pa.schema(
    [
        ("id", STRING),
        ("stage", STRING),
        ("model", STRING),
        ("source", STRING),
        ("error_class", STRING),
        ("message", STRING),
        ("attempt", INT),
        ("code_version", STRING),
    ]
)

# ---- views: derived from the store and the recipe, no model needed --------------------------------------------

# `status` is "ok" or "failed"; a failed candidate has no content, seed or draw.
CANDIDATE = pa.schema(
    [
        ("generation_id", STRING),
        ("input_id", STRING),
        ("model", STRING),
        ("sample_index", INT),
        ("seed", INT),
        ("draw", INT),
        ("fingerprint", STRING),
        ("content_id", STRING),
        ("text", STRING),
        ("truncated", BOOL),
        ("status", STRING),
    ]
)

# Cycle score of a candidate: one row for each metric, and one with metric "mix" if the recipe mixes them. `score` is
# the mean over its `n` reconstructions, `spread` their population standard deviation; a mix of ranks has no spread.
SCORE = pa.schema(
    [
        ("generation_id", STRING),
        ("input_id", STRING),
        ("metric", STRING),
        ("fingerprint", STRING),
        ("value", FLOAT),
        ("spread", FLOAT),
        ("n", INT),
    ]
)

# `margin` is how much better the chosen candidate's score is, >= 0 whatever the metric's direction.
# Equal outputs of one input are one candidate: `*_models` lists every model that made it.
PAIR = pa.schema(
    [
        ("pair_id", STRING),
        ("input_id", STRING),
        ("chosen_id", STRING),
        ("rejected_id", STRING),
        ("chosen_model", STRING),
        ("rejected_model", STRING),
        ("chosen_models", pa.list_(STRING)),
        ("rejected_models", pa.list_(STRING)),
        ("metric", STRING),
        ("chosen_score", FLOAT),
        ("rejected_score", FLOAT),
        ("margin", FLOAT),
    ]
)
