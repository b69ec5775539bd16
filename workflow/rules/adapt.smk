"""Learn the weights of a backbone's experts on the test images, without their labels."""


rule adapt:
    input:
        unpack(inputs),
        config="runs/{dataset}/{backbone}/adapt-{key}/config.yaml",
    output:
        weights="runs/{dataset}/{backbone}/adapt-{key}/weights.json",
        run="runs/{dataset}/{backbone}/adapt-{key}/run.json",
    log:
        "logs/{dataset}/{backbone}/adapt-{key}.log",
    conda:
        ENVIRONMENT
    threads: threads_of("adapt")
    resources:
        **compute("adapt"),
    shell:
        "mem adapt --config {input.config} --log {log}"
