"""Pretrain a masked autoencoder on the long-tailed training images."""


rule pretrain:
    input:
        unpack(inputs),
        config="runs/{dataset}/{backbone}/pretrain-{key}/config.yaml",
    output:
        encoder="runs/{dataset}/{backbone}/pretrain-{key}/encoder.safetensors",
        autoencoder="runs/{dataset}/{backbone}/pretrain-{key}/autoencoder.safetensors",
        run="runs/{dataset}/{backbone}/pretrain-{key}/run.json",
    log:
        "logs/{dataset}/{backbone}/pretrain-{key}.log",
    conda:
        ENVIRONMENT
    threads: threads_of("pretrain")
    resources:
        **compute("pretrain"),
    shell:
        "mem pretrain --config {input.config} --log {log}"
