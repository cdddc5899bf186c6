git init -q r
cd r
git config user.email a@b.c
git config user.name n
for i in 1 2 3; do echo "$i" > "f$i"; done
git add .
git commit -qm one
git branch b
git gc -q
git clone -q --local . ../s
cd ../s
git log --format=%s
git worktree add -q ../w
git status --short
git fsck
