"""Arrow schemas of every table, in the order in which the data flows.

The store holds what was computed (`sources` to `failures`); the views hold what the current recipe selects from
it (`candidates`, `scores`, `pairs`). Ids are explained in schemas/ids.py.
"""

import pyarrow as pa

STRING, BINARY, INT, FLOAT, BOOL = pa.string(), pa.binary(), pa.int64(), pa.float64(), pa.bool_()

# ---- store: append-only, content-addressed -------------------------------------------------------------------

# The ingest index: which input a file, line or row turned out to be. `stamp` changes when the source does.
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

# One row per resolved model or metric: what a fingerprint stands for, as JSON.
MODEL = pa.schema([("fingerprint", STRING), ("name", STRING), ("kind", STRING), ("identity", STRING)])

# One row per generation, candidate and reconstruction alike. `source_id` is the content that was read. `seed` is that
# of the draw that gave an output, `draw` counts those before it that gave none (see SampledSpec in specs.py); the id is
# that of draw 0. `truncated`: a caption that ended by its token limit, or an image whose prompt no text encoder read to
# its end. `cut_by` names what cut: "max_new_tokens", or each tokenizer that cut the prompt, even where another read on
# (SD3: CLIP's, not T5's).
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

# How likely an image is what the recipe's safety model looks for: the probability of that label, in [0, 1].
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

# What went wrong, once per row that could not be made. `id` is the id that the row would have had; `attempt` counts
# the tries, of which deaths of a worker are some and `--retry-failed` adds more.
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

# Cycle score of a candidate, a row for each metric and one more where the recipe mixes them (metric "mix"): mean over
# its `n` reconstructions, `spread` their population standard deviation; a mix of ranks has none.
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
