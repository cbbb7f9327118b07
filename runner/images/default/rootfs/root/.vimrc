set nocompatible
set backspace=indent,eol,start
set ruler showcmd showmatch
set incsearch ignorecase smartcase
set autoindent expandtab shiftwidth=4 softtabstop=4
set scrolloff=3 wildmenu
set ttimeout ttimeoutlen=20
set encoding=utf-8
set viminfo=
