umask 022
mkdir -p d/e
echo one > d/e/f
ln -s f d/e/l
ln d/e/f d/e/h
mkfifo d/p
chmod 1777 d/e
chmod +x d/e/f
tar cf t.tar d
mkdir x
tar xpf t.tar -C x
cp -a d y
diff -r x/d/e y/e
tar czf t.tgz x
gzip -t t.tgz
find x -type f -print0 | xargs -0 -n1 -P2 wc -l | sort
touch -d 2020-01-01 d/e/f
mv d z
rm -r x y
install -m 755 t.tar i
stat -c %a i z/e z/e/f
