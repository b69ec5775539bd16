"""The paper's tables and figures by name: `snakemake table2`. The report makes them all at once."""


localrules:
    table1,
    table2,
    table3,
    table4,
    table5,
    figure1,
    figure3,
    figure4,


rule table1:
    input:
        expand(
            "{results}/tables/table1.{kind}",
            results=RESULTS,
            kind=["md", "csv", "html"],
        ),


rule table2:
    input:
        expand(
            "{results}/tables/table2.{kind}",
            results=RESULTS,
            kind=["md", "csv", "html"],
        ),


rule table3:
    input:
        expand(
            "{results}/tables/table3.{kind}",
            results=RESULTS,
            kind=["md", "csv", "html"],
        ),


rule table4:
    input:
        expand(
            "{results}/tables/table4.{kind}",
            results=RESULTS,
            kind=["md", "csv", "html"],
        ),


rule table5:
    input:
        expand(
            "{results}/tables/table5.{kind}",
            results=RESULTS,
            kind=["md", "csv", "html"],
        ),


rule figure1:
    input:
        expand("{results}/figures/figure1.{kind}", results=RESULTS, kind=["svg", "png"]),


rule figure3:
    input:
        expand("{results}/figures/figure3.{kind}", results=RESULTS, kind=["svg", "png"]),


rule figure4:
    input:
        expand("{results}/figures/figure4.{kind}", results=RESULTS, kind=["svg", "png"]),
