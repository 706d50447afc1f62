# Runs one command after the other in a sandbox; shell.py is at the other end, and says why.
# In: "TOKEN SIZE" and a script of so many bytes; meanwhile, a line of any kind ends what the script started.
# Out: "TOKEN start", what the script prints, "TOKEN CODE". Needs bash 4.4, coreutils, setsid and /proc.
exec 3<&0 4>&1 < /dev/null > /dev/null 2>&1
signals='HUP INT QUIT PIPE TERM USR1 USR2 ALRM'
trap : $signals # caught, because what is ignored here is ignored in every command

# Stop every process of the command's session before any is killed: what is stopped neither forks nor complains.
end_session() {
    local stat line session= is_quiet
    while kill -0 $$; do
        is_quiet=yes
        for stat in /proc/[0-9]*/stat; do
            line=
            IFS= read -r -d '' line < "$stat"
            set -- ${line%% *} ${line##*) } # pid, state, parent, process group, session
            [ "$3" = $$ ] && [ "$1" = "$5" ] && session=$1
            [ "$5" = "$session" ] || continue
            case $2 in
                [TtZX]) ;;
                *) is_quiet=; kill -STOP "$1" ;;
            esac
        done
        [ "$session" ] && [ "$is_quiet" ] && kill_session
    done
}

kill_session() { # the leader last: its end is the command's
    for stat in /proc/[0-9]*/stat; do
        line=
        IFS= read -r -d '' line < "$stat"
        set -- ${line%% *} ${line##*) }
        [ "$5" = "$session" ] && [ "$1" != "$session" ] && kill -KILL "$1"
    done
    kill -KILL "$session"
}

while :; do
    exec 5> >(trap '' $signals; exec cat >&4 3<&-) # a pipe of its own: later, what still writes to it has no reader
    next=$!
    while read -r -u 3 token size; do [ "$size" ] && break; done || exit
    LC_ALL=C IFS= read -r -u 3 -N "$size" script || exit
    [ "$pump" ] && kill -KILL "$pump" && wait "$pump"
    pump=$next
    (trap '' $signals; exec 4>&- 5>&-; read -r -u 3; end_session) &
    listener=$!
    (exec 3<&- >&5 2>&1 5>&-; printf '%s start\n' "$token" >&4; exec 4>&-; eval "$script")
    code=$?
    kill -KILL "$listener"
    wait "$listener"
    printf '%s %d\n' "$token" "$code" >&5 || printf '%s %d\n' "$token" "$code" >&4
    exec 5>&-
done
