apt-cache policy dpkg | head -1
apt-get --version | head -1
dpkg -s dpkg | head -1
