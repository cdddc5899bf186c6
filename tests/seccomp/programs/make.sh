printf 'all: a b\na b:\n\t@echo made\n' > Makefile
make -j2 all
