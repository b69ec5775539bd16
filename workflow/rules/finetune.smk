"""Finetune the complete backbone with cross-entropy, starting from pretrained, user-provided or random weights."""


rule finetune:
    input:
        unpack(inputs),
        config="runs/{dataset}/{backbone}/finetune-{key}/config.yaml",
    output:
        model="runs/{dataset}/{backbone}/finetune-{key}/model.safetensors",
        run="runs/{dataset}/{backbone}/finetune-{key}/run.json",
    log:
        "logs/{dataset}/{backbone}/finetune-{key}.log",
    conda:
        ENVIRONMENT
    threads: threads_of("finetune")
    resources:
        **compute("finetune"),
    shell:
        "mem finetune --config {input.config} --log {log}"
