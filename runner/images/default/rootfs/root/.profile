# A login shell reads what every other shell reads.
if [ -n "${BASH-}" ] && [ -r ~/.bashrc ]; then
  . ~/.bashrc
fi
