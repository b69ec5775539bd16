"""Compute the predictions and scores of a head on val and test."""


rule evaluate:
    input:
        unpack(inputs),
        config="runs/{dataset}/{backbone}/evaluate-{key}/config.yaml",
    output:
        metrics="runs/{dataset}/{backbone}/evaluate-{key}/metrics.json",
        predictions="runs/{dataset}/{backbone}/evaluate-{key}/predictions.parquet",
        run="runs/{dataset}/{backbone}/evaluate-{key}/run.json",
    log:
        "logs/{dataset}/{backbone}/evaluate-{key}.log",
    conda:
        ENVIRONMENT
    threads: threads_of("evaluate")
    resources:
        **compute("evaluate"),
        bundle=bundle("evaluate"),
    shell:
        "mem evaluate --config {input.config} --log {log}"
