bash -euc '
  diff <(echo a) <(echo a)
  coproc cat
  echo x >&"${COPROC[1]}"
  read -r y <&"${COPROC[0]}"
  echo "$y"
  ulimit -n 64
  ulimit -n
'
