"""Compute the frozen backbone's features once per view. If `features.online` is set, store only the labels."""

ONLINE = STUDY.features is not None and STUDY.features.online
FEATURES = ["labels"] if ONLINE else ["pooled", "labels"]
if STUDY.features is not None and STUDY.features.tokens and not ONLINE:
    FEATURES.append("tokens")
CLASSIFIER = [] if STUDY.finetune is None else ["classifier.safetensors"]
BATCH_NORM = STUDY.features is not None and STUDY.features.batch_norm is not None
STATISTICS = ["batch-norm.safetensors"] if BATCH_NORM else []


rule features:
    input:
        unpack(inputs),
        config="runs/{dataset}/{backbone}/features-{key}/config.yaml",
    output:
        features=expand(
            "runs/{{dataset}}/{{backbone}}/features-{{key}}/{split}-{kind}.npy",
            split=["train", "val", "test"],
            kind=FEATURES,
        ),
        classifier=expand(
            "runs/{{dataset}}/{{backbone}}/features-{{key}}/{file}", file=CLASSIFIER
        ),
        statistics=expand(
            "runs/{{dataset}}/{{backbone}}/features-{{key}}/{file}", file=STATISTICS
        ),
        about="runs/{dataset}/{backbone}/features-{key}/features.json",
        run="runs/{dataset}/{backbone}/features-{key}/run.json",
    log:
        "logs/{dataset}/{backbone}/features-{key}.log",
    conda:
        ENVIRONMENT
    threads: threads_of("features")
    resources:
        **compute("features"),
    shell:
        "mem features --config {input.config} --log {log}"
