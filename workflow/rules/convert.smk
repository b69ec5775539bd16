"""Convert the images of a dataset to one .beton file per split."""


rule convert:
    input:
        config="runs/{dataset}/data/convert-{key}/config.yaml",
    output:
        train="runs/{dataset}/data/convert-{key}/train.beton",
        val="runs/{dataset}/data/convert-{key}/val.beton",
        test="runs/{dataset}/data/convert-{key}/test.beton",
        dataset="runs/{dataset}/data/convert-{key}/dataset.json",
        images="runs/{dataset}/data/convert-{key}/images.csv",
        run="runs/{dataset}/data/convert-{key}/run.json",
    log:
        "logs/{dataset}/data/convert-{key}.log",
    conda:
        ENVIRONMENT
    threads: threads_of("convert")
    resources:
        **compute("convert"),
    shell:
        "mem convert --config {input.config} --log {log}"
