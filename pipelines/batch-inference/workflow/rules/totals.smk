# After all parts: cohort.csv, patients.csv, the index and the state of every slide.
rule index:
    input:
        expand(OUT + "/parts/{part}.done", part=PARTS),
    output:
        OUT + "/index/slides.parquet",
    log:
        OUT + "/logs/index.txt",
    params:
        out=shlex.quote(OUT),
    resources:
        mem_mb=int(config["memory_gb"] * 1000),
    shell:
        "pathopatch index {params.out} --quiet > {log:q} 2>&1"


rule status:
    input:
        expand(OUT + "/parts/{part}.done", part=PARTS),
    output:
        OUT + "/status.txt",
    params:
        out=shlex.quote(OUT),
    shell:
        "code=0; pathopatch status {params.out} > {output:q} || code=$?; test $code -eq 0 -o $code -eq 3"
