"""Train a head on the frozen features."""


rule train_head:
    input:
        unpack(inputs),
        config="runs/{dataset}/{backbone}/train_head-{key}/config.yaml",
    output:
        about="runs/{dataset}/{backbone}/train_head-{key}/head.json",
        weights="runs/{dataset}/{backbone}/train_head-{key}/head.safetensors",
        run="runs/{dataset}/{backbone}/train_head-{key}/run.json",
    log:
        "logs/{dataset}/{backbone}/train_head-{key}.log",
    conda:
        ENVIRONMENT
    threads: threads_of("train_head")
    resources:
        **compute("train_head"),
        bundle=bundle("train_head"),
    shell:
        "mem train_head --config {input.config} --log {log}"
