# After all parts: cohort.csv, patients.csv and the state of every slide.
rule status:
    input:
        expand(OUT + "/parts/{part}.done", part=PARTS),
    output:
        OUT + "/cohort.csv",
        OUT + "/patients.csv",
        status=OUT + "/status.txt",
    params:
        out=shlex.quote(OUT),
    shell:
        "code=0; pathopatch status {params.out} --tables > {output.status:q} || code=$?; test $code -eq 0 -o $code -eq 3"
