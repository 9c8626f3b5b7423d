"""What can be started from the page: each command's form, field by field.

Defaults are those of the commands' own dataclasses; a test holds them against each other.
"""

from __future__ import annotations

from ui.pages.panels.job_fields import Field, Form

NAME_HELP = "Letters, digits, “.”, “_” and “-”."
LM_HELP = "demo: the embedded language model; else a model folder, or a Hugging Face hub id."
SITE_HELP = (
    "Where in the model activations are read: resid_post.L (residual stream after block L), "
    "mlp_out.L, attn_z.L, or hook:PATH:input|output."
)
TEXT_HELP = (
    "A file or folder on the server (.txt, .md, .py, .jsonl, .parquet), hf:NAME[:SPLIT], "
    "python:stdlib (Python’s own library) or python:installed."
)
ARCHITECTURES = ("jumprelu", "gated", "relu", "topk", "batchtopk", "matryoshka")
PRESETS = ("small_budget", "small_budget_mlp", "deepmind", "gemma_scope_2", "anthropic_2025",
           "gated_paper", "openai_topk")  # fmt: skip
READERS = ("auto", "saelens", "dictionary_learning", "sparsify", "gemma_scope", "gemma_scope_2",
           "llamascopium", "openai")  # fmt: skip
WEIGHT_FORMATS = ("saelens", "gemma_scope", "dictionary_learning", "gated")
FEATURE_FORMATS = ("parquet", "csv", "jsonl", "neuronpedia", "html")
EXAMPLE_KINDS = ("top", "quantile", "active", "near_miss", "random")

SAE = Field("name", "Sparse autoencoder", "sae", positional=True)
DEVICE = Field("device", "Device", "choice", "auto", "auto: the graphics card, if there is one.",
               choices=("auto", "cpu", "cuda"), more=True)  # fmt: skip
SEED = Field("seed", "Seed", "whole", 0, "The same seed gives the same result.", low=0, more=True)
FEATURES = Field("features", "Features", "text", "all", "all, or numbers and ranges, as 0:100,205.")
REPLACE = Field("replace", "Make it again", "flag", False, more=True,
                help="Also where it was made before with the same settings.")  # fmt: skip
TEXT_FIELD = Field("text_field", "Text column", "text", "text", more=True,
                   help="The column of JSONL, Parquet and hub data sets.")  # fmt: skip
DTYPE = Field("dtype", "Number format of the model", "choice", "float32",
              choices=("float32", "bfloat16", "float16"), more=True)  # fmt: skip


TRAIN = Form(
    "train", "Train", "Learns a new sparse autoencoder from a language model’s activations.",
    (
        Field("name", "Name", "text", positional=True, help=NAME_HELP),
        Field("lm", "Language model", "text", "demo", LM_HELP),
        Field("site", "Site", "text", "resid_post.2", SITE_HELP),
        Field("text", "Text", "text", "python:stdlib", TEXT_HELP),
        Field("arch", "Architecture", "choice", None, "The preset’s own if none is chosen.",
              choices=ARCHITECTURES),
        Field("d_sae", "Features", "whole", 2048, "How many features the SAE has.", high=4_194_304),
        Field("l0", "Wanted L0", "number", None, "Active features per token, which the trainer "
              "holds; small_budget takes 32.", low=0.01),
        Field("tokens", "Training tokens", "whole", 2_000_000,
              "Activations to train on; passes over the "
              "text repeat.", low=1_000, step=500_000),
        Field("preset", "Preset", "choice", "small_budget", "The recipe: our own for small "
              "budgets, or a published one.", choices=PRESETS, more=True),
        Field("corpus_tokens", "Tokens to read", "whole", None,
              "From the text; as many as are trained on "
              "if empty.", low=1_000, step=500_000, more=True),
        Field("coefficient", "Sparsity coefficient", "number", None, "λ, the price of sparsity, "
              "for presets that fix it.", low=0.0, more=True),
        Field("lr", "Learning rate", "number", None, "Adam’s step; the preset’s if empty.",
              low=1e-9, more=True),
        Field("batch", "Batch", "whole", None, "Activations of one step; the preset’s if empty.",
              more=True),
        Field("context", "Context", "whole", 256, "Tokens of a context.", low=2, more=True),
        Field("per_document", "Contexts of a document", "whole", None,
              "At most so many, so that none "
              "dominates.", more=True),
        Field("skip_first", "Skip first", "whole", 0,
              "Positions after the first token that are left out.",
              low=0, more=True),
        TEXT_FIELD, DTYPE, DEVICE, SEED,
        Field("set", "Other settings", "words", (), "FIELD=VALUE pairs with blanks between them, "
              "as bandwidth=0.05 kernel=gaussian.", more=True),
        Field("pack", "Join documents in one context", "flag", False, more=True),
        Field("chat", "Wrap documents in the chat template", "flag", False, more=True),
    ),
    "Start training",
)  # fmt: skip
IMPORT = Form(
    "import", "Import", "Takes in an SAE that another program saved, from this server or the hub.",
    (
        Field("path", "Where it is", "text", positional=True, help="A folder or file on the "
              "server, or a hub id OWNER/NAME:FOLDER[@REVISION]."),
        Field("name", "Name here", "text", None, "Taken from its files if empty."),
        Field("format", "Format", "choice", "auto", choices=READERS),
        Field("lm", "Language model", "text", None,
              LM_HELP + " Evaluating and harvesting need it."),
        Field("site", "Site", "text", None, SITE_HELP + " What the files say if empty."),
        Field("text", "Text", "text", "python:stdlib", "To evaluate and harvest on. " + TEXT_HELP),
        Field("tokens", "Tokens to read", "whole", 2_000_000, low=1_000, step=500_000, more=True),
        Field("context", "Context", "whole", 256, "Tokens of a context.", low=2, more=True),
        TEXT_FIELD, DTYPE, DEVICE,
    ),
    "Import",
)  # fmt: skip
EVALUATE = Form(
    "evaluate", "Evaluate", "Measures an SAE on documents nothing was trained on.",
    (
        SAE,
        Field("text", "Other text", "text", None, "Than the one it was trained on; all of it is "
              "used. " + TEXT_HELP),
        Field("tokens", "Tokens of that text", "whole", None, low=1_000, step=100_000, more=True),
        Field("loss_tokens", "Tokens for the loss", "whole", 65_536,
              "On which the language model runs with "
              "the SAE spliced in.", low=256, more=True),
        Field("attribution_tokens", "Tokens for attribution", "whole", 8_192,
              "Whose predictions are "
              "attributed to features; 0: none.", low=0, more=True),
        TEXT_FIELD, DEVICE,
    ),
    "Evaluate",
)  # fmt: skip
HARVEST = Form(
    "harvest", "Harvest", "Reads a text once and stores every feature’s statistics and examples.",
    (
        SAE,
        Field("tokens", "Tokens to read", "whole", None, "All that it was trained on if empty.",
              low=1_000,
              step=500_000),
        Field("top", "Top examples", "whole", 20,
              "Strongest examples per feature, one a document.", 0,
              more=True),
        Field("quantile", "Per band of ranks", "whole", 8,
              "Examples of each of four bands of a feature’s "
              "fires.", 0, more=True),
        Field("active", "Sampled fires", "whole", 20, "Per feature, all fires alike.", 0,
              more=True),
        Field("near_miss", "Near misses", "whole", 10,
              "Just under the threshold, or silent on a token of "
              "the top examples.", 0, more=True),
        Field("random", "Silent tokens", "whole", 20, "Per feature, all alike.", 0, more=True),
        Field("shards", "Parts", "whole", None, "After each of them a stopped harvest can go on.",
              more=True),
        Field("block", "Features at once", "whole", 16_384, "Memory grows with it.", more=True),
        SEED, DEVICE,
        Field("resume", "Go on with a stopped harvest", "flag", False, more=True),
    ),
    "Harvest",
)  # fmt: skip
EFFECTS = Form(
    "effects", "Effects", "Takes features away where they are active and measures what that does "
    "to the model’s loss.",
    (
        SAE, FEATURES,
        Field("per_feature", "Examples of each kind", "whole", 5),
        Field("kinds", "Kinds of examples", "several", ("top",), "active is a fair sample of a "
              "feature’s fires.", choices=EXAMPLE_KINDS, more=True),
        Field("batch", "Contexts at once", "whole", None, "What fits if empty.", more=True),
        SEED, DEVICE, REPLACE,
    ),
    "Measure effects",
)  # fmt: skip
NEIGHBOURS = Form(
    "neighbours", "Neighbours", "Finds which features point the same way or fire together, and "
    "draws a map of them.",
    (
        SAE,
        Field("other", "Compare with", "sae", None, "Another SAE: its features are the "
              "neighbours, and the reverse."),
        Field("tokens", "Sampled tokens", "whole", 1_000_000,
              "To see which fire together; 0: directions "
              "alone.", 0, step=100_000),
        Field("keep", "Neighbours kept", "whole", 32, "Of each feature and kind.", more=True),
        Field("map", "Map", "choice", "pca", "umap needs the package umap-learn.",
              choices=("pca", "umap"), more=True),
        SEED, DEVICE, REPLACE,
    ),
    "Find neighbours",
)  # fmt: skip
EXPLAIN = Form(
    "explain", "Explain and score", "Lets a judge say what features stand for, then scores the "
    "labels on text the judge never saw.",
    (
        SAE, FEATURES,
        Field("judge", "Judge", "choice", "lexical", "lexical: a baseline that looks tokens up, "
              "without network or key. Language models and people’s words are chosen on the "
              "Auto-interp page, which tells beforehand what they take.", choices=("lexical",)),
        Field("run", "Name of the run", "text", None, "NAME-JUDGE if empty. " + NAME_HELP,
              more=True),
    ),
    "Explain and score",
)  # fmt: skip
VERIFY = Form(
    "verify", "Verify", "Computes a feature store again, from the model and the text, and compares "
    "every number.",
    (
        SAE,
        Field("sample", "How many features", "whole", 200, "Drawn by the seed."),
        Field("features", "Out of", "text", "all", "all, or numbers and ranges, as 0:100,205."),
        Field("examples", "Examples of each", "whole", 10, "Drawn by the seed."),
        Field("statistics", "Count the whole text again", "choice", "no", "Takes as long as a "
              "harvest.", choices=("no", "yes")),
        Field("tolerance", "Tolerance", "number", 1e-4, "Relative.", low=1e-12, more=True),
        SEED, DEVICE,
    ),
    "Verify",
)  # fmt: skip
EXPORT = Form(
    "export", "Export", "Writes an SAE’s weights for another program, or its features as tables "
    "and pages.",
    (
        SAE,
        Field("format", "Format", "choice", "saelens", "Weights: saelens, gemma_scope "
              "(params.npz), dictionary_learning (ae.pt), gated. Features: parquet, csv, jsonl, "
              "neuronpedia, html.", choices=(*WEIGHT_FORMATS, *FEATURE_FORMATS)),
        Field("features", "Features", "text", None, "Of the feature formats: numbers and ranges, "
              "as 0:100,205; all of them if empty. html needs some."),
    ),
    "Export",
)  # fmt: skip
FORMS = {
    form.command: form
    for form in (TRAIN, IMPORT, EVALUATE, HARVEST, EFFECTS, NEIGHBOURS, EXPLAIN, VERIFY, EXPORT)
}
