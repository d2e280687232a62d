# fish completion for pvhdbg. `pvhdbg completion fish` prints this file; load it with: pvhdbg completion fish | source

function __pvhdbg_complete
    set -l words (commandline -opc)
    set -l word (commandline -ct)
    for line in ($words[1] completion --words -- $words[2..-1] "$word" 2>/dev/null)
        if test "$line" = ":files"
            __fish_complete_path "$word"
        else
            printf '%s\n' $line
        end
    end
end

complete -c pvhdbg -f -a '(__pvhdbg_complete)'
