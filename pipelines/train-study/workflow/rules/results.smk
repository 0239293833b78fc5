# All runs are current by now. Evaluate them, predict with the best one, and write the report.
rule results:
    input:
        expand(WORK + "/jobs/{run}.done", run=RUNS),
        study=config["study"],
    output:
        WORK + "/report/index.html",
    log:
        WORK + "/jobs/results.txt",
    threads: config["tile_workers"]
    resources:
        mem_mb=int(config["memory_gb"] * 1000),
    shell:
        "code=0; pathopatch run {input.study:q} --workers {threads} --quiet > {log:q} 2>&1 || code=$?;"
        " test $code -eq 0 -o $code -eq 3"
