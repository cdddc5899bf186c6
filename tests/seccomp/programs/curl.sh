curl --version | head -1
curl -s "file://$PWD/program.bpf" -o /dev/null || echo $?
curl -s --max-time 2 http://127.0.0.1:9/ || echo $?
