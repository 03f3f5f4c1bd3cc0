# bash completion of pyruntime, made by tools/make-docs from the flag tables
_pyruntime() {
    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} verb='' root=() count=0 i choice
    local flags='--debug --log --log-format --log-level --root --systemd-cgroup --cgroup-manager --rootless' valued='--log|--log-format|--log-level|--root|--cgroup-manager|--rootless' folders='--root' choices=('--log-format:text json' '--log-level:error warning info debug' '--cgroup-manager:cgroupfs systemd disabled' '--rootless:true false auto') takes=verb
    flags="$flags --help --version" COMPREPLY=()
    for ((i = 1; i < COMP_CWORD; i++)); do
        [[ -z $verb && ${COMP_WORDS[i]} == --root ]] && root=(--root "${COMP_WORDS[i+1]}")
        if [[ "|$valued|" == *"|${COMP_WORDS[i]}|"* ]]; then
            i=$((i + 1))
        elif [[ ${COMP_WORDS[i]} != -* && -n $verb ]]; then
            count=$((count + 1))
        elif [[ ${COMP_WORDS[i]} != -* ]]; then
            verb=${COMP_WORDS[i]} takes=nothing
            case $verb in
            create) flags='--bundle --config --console-socket --pidfd-socket --pid-file --no-pivot --no-new-keyring --preserve-fds' valued='--bundle|-b|--config|-f|--console-socket|--pidfd-socket|--pid-file|--preserve-fds' folders='--bundle|-b' choices=() takes=nothing ;;
            start) flags='' valued='-' folders='-' choices=() takes=id ;;
            run) flags='--bundle --config --console-socket --pidfd-socket --pid-file --no-pivot --no-new-keyring --preserve-fds --detach --keep --no-subreaper' valued='--bundle|-b|--config|-f|--console-socket|--pidfd-socket|--pid-file|--preserve-fds' folders='--bundle|-b' choices=() takes=folder ;;
            state) flags='' valued='-' folders='-' choices=() takes=id ;;
            kill) flags='--all --regex' valued='-' folders='-' choices=() takes=kill ;;
            delete) flags='--force --regex' valued='-' folders='-' choices=() takes=id ;;
            exec) flags='--process --cwd --env --user --additional-gids --tty --console-socket --pidfd-socket --pid-file --detach --process-label --apparmor --no-new-privs --cap --preserve-fds --cgroup --ignore-paused' valued='--process|-p|--cwd|--env|-e|--user|-u|--additional-gids|-g|--console-socket|--pidfd-socket|--pid-file|--process-label|--apparmor|--cap|-c|--preserve-fds|--cgroup' folders='--cwd' choices=() takes=exec ;;
            list) flags='--format --quiet' valued='--format|-f' folders='-' choices=('--format:table json' '-f:table json') takes=nothing ;;
            ps) flags='--format' valued='--format|-f' folders='-' choices=('--format:table json' '-f:table json') takes=id ;;
            pause) flags='' valued='-' folders='-' choices=() takes=id ;;
            resume) flags='' valued='-' folders='-' choices=() takes=id ;;
            update) flags='--resources --memory --memory-reservation --memory-swap --cpu-period --cpu-quota --cpu-burst --cpu-share --cpu-rt-period --cpu-rt-runtime --cpu-idle --cpuset-cpus --cpuset-mems --blkio-weight --pids-limit --l3-cache-schema --mem-bw-schema' valued='--resources|-r|--memory|--memory-reservation|--memory-swap|--cpu-period|--cpu-quota|--cpu-burst|--cpu-share|--cpu-rt-period|--cpu-rt-runtime|--cpu-idle|--cpuset-cpus|--cpuset-mems|--blkio-weight|--pids-limit|--l3-cache-schema|--mem-bw-schema' folders='-' choices=() takes=id ;;
            mounts) flags='' valued='-' folders='-' choices=() takes=mounts ;;
            events) flags='--interval --stats' valued='--interval' folders='-' choices=() takes=id ;;
            checkpoint) flags='--image-path --work-path --tcp-established --ext-unix-sk --shell-job --lazy-pages --file-locks --manage-cgroups-mode --empty-ns --auto-dedup --network-lock --parent-path --leave-running --tcp-skip-in-flight --link-remap --status-fd --page-server --pre-dump' valued='--image-path|--work-path|--manage-cgroups-mode|--empty-ns|--network-lock|--parent-path|--status-fd|--page-server' folders='--image-path|--work-path|--parent-path' choices=('--manage-cgroups-mode:soft full strict ignore' '--empty-ns:network' '--network-lock:iptables nftables skip') takes=id ;;
            restore) flags='--bundle --config --console-socket --pid-file --detach --no-pivot --no-subreaper --keep --image-path --work-path --tcp-established --ext-unix-sk --shell-job --lazy-pages --file-locks --manage-cgroups-mode --empty-ns --auto-dedup --network-lock --tcp-close --lsm-profile --lsm-mount-context' valued='--bundle|-b|--config|-f|--console-socket|--pid-file|--image-path|--work-path|--manage-cgroups-mode|--empty-ns|--network-lock|--lsm-profile|--lsm-mount-context' folders='--bundle|-b|--image-path|--work-path' choices=('--manage-cgroups-mode:soft full strict ignore' '--empty-ns:network' '--network-lock:iptables nftables skip') takes=nothing ;;
            spec) flags='--bundle --rootless --file' valued='--bundle|-b|--file|-f' folders='--bundle|-b' choices=() takes=nothing ;;
            features) flags='' valued='-' folders='-' choices=() takes=nothing ;;
            explain) flags='--json --show-env --bundle --config' valued='--bundle|-b|--config|-f' folders='--bundle|-b' choices=() takes=folder ;;
            validate) flags='--json --bundle --config' valued='--bundle|-b|--config|-f' folders='--bundle|-b' choices=() takes=folder ;;
            help) flags='' valued=- folders=- choices=() takes=verb ;;
            esac
        fi
    done
    if [[ "|$valued|" == *"|$before|"* && $i -gt $COMP_CWORD ]]; then
        for choice in "${choices[@]}"; do
            [[ ${choice%%:*} == "$before" ]] && COMPREPLY=($(compgen -W "${choice#*:}" -- "$word")) && return
        done
        if [[ "|$folders|" == *"|$before|"* ]]; then
            COMPREPLY=($(compgen -d -- "$word"))
        else
            COMPREPLY=($(compgen -f -- "$word"))
        fi
        return
    fi
    if [[ $word == -* ]]; then
        COMPREPLY=($(compgen -W "$flags" -- "$word"))
        return
    fi
    case $takes$count in
    verb0) COMPREPLY=($(compgen -W 'create start run state kill delete exec list ps pause resume update mounts events checkpoint restore spec features explain validate help' -- "$word")) ;;
    folder0) COMPREPLY=($(compgen -d -- "$word")) ;;
    kill1) COMPREPLY=($(compgen -W 'HUP INT QUIT KILL USR1 USR2 TERM CONT STOP WINCH' -- "$word")) ;;
    mounts0) COMPREPLY=($(compgen -W 'add remove' -- "$word")) ;;
    id0 | kill0 | exec0 | mounts1) COMPREPLY=($(compgen -W "$(pyruntime "${root[@]}" list -q 2>/dev/null)" -- "$word")) ;;
    exec* | mounts2) COMPREPLY=($(compgen -f -- "$word")) ;;
    esac
}
complete -o filenames -F _pyruntime pyruntime
