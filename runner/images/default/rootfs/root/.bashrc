# Every interactive bash. It starts no other program.
case $- in *i*) ;; *) return ;; esac

# demo:/workspace$ - with a dollar for root too: root of a cell is an ordinary user outside.
PS1='\[\e[1;32m\]\h\[\e[0m\]:\[\e[1;34m\]\w\[\e[0m\]$ '
[ "$TERM" = dumb ] && PS1='\h:\w$ '

# Written after each command, so that a shell that is ended leaves its history to the next.
HISTSIZE=20000
HISTFILESIZE=40000
HISTCONTROL=ignoreboth
PROMPT_COMMAND='history -a'
shopt -s histappend checkwinsize globstar

alias ls='ls --color=auto'
alias ll='ls -lh'
alias la='ls -lhA'
alias grep='grep --color=auto'
alias diff='diff --color=auto'
export LESS=-R

# Loads the completions of all commands at the first Tab, then lets bash ask again.
_load_completions() {
  complete -r -D
  unset -f _load_completions
  . /usr/share/bash-completion/bash_completion
  return 124
}
[ -r /usr/share/bash-completion/bash_completion ] && complete -D -F _load_completions
