echo $((1 + 1))
(exit 3) || echo $?
cat /proc/self/comm
sleep 0.01 &
wait
trap 'echo trapped' USR1
kill -USR1 $$
truncate -s 1M s
cp --reflink=auto s s2
dd if=s of=s3 bs=64k status=none
sync s3
cmp s s3
df . > /dev/null
mktemp -d ./XXXXXX > /dev/null
yes | head -1
timeout 5 true
nice true
nohup true
(flock 9; echo locked) 9> lock
seq 30 | sort -R | sort -n | tail -1
taskset -c 0 true
setsid true
id -u
