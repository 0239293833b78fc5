# Slides to patches to groups. Failed slides (exit code 3) do not stop a study.
rule groups:
    input:
        study=config["study"],
    output:
        touch(WORK + "/jobs/groups.done"),
    log:
        WORK + "/jobs/groups.txt",
    threads: config["tile_workers"]
    resources:
        mem_mb=int(config["memory_gb"] * 1000),
    shell:
        "code=0; pathopatch run {input.study:q} --until groups --workers {threads} --quiet > {log:q} 2>&1 || code=$?;"
        " test $code -eq 0 -o $code -eq 3"
