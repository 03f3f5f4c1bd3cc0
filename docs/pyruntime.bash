# bash completion of pyruntime, made by tools/make-docs from the flag tables
_pyruntime() {
    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} verb='' root=() i flags valued ids
    COMPREPLY=()
    for ((i = 1; i < COMP_CWORD; i++)); do
        case ${COMP_WORDS[i]} in
        --root) root=(--root "${COMP_WORDS[i+1]}"); i=$((i + 1)) ;;
        --log|--log-format|--log-level|--root|--cgroup-manager|--rootless) i=$((i + 1)) ;;
        -*) ;;
        *) verb=${COMP_WORDS[i]}; break ;;
        esac
    done
    flags='--debug --log --log-format --log-level --root --systemd-cgroup --cgroup-manager --rootless --help --version' valued='--log|--log-format|--log-level|--root|--cgroup-manager|--rootless' ids=0
    case $verb in
    create) flags='--bundle --config --console-socket --pidfd-socket --pid-file --no-pivot --no-new-keyring --preserve-fds' valued='--bundle|--config|--console-socket|--pidfd-socket|--pid-file|--preserve-fds' ids=0 ;;
    start) flags='' valued='-' ids=1 ;;
    run) flags='--bundle --config --console-socket --pidfd-socket --pid-file --no-pivot --no-new-keyring --preserve-fds --detach --keep --no-subreaper' valued='--bundle|--config|--console-socket|--pidfd-socket|--pid-file|--preserve-fds' ids=1 ;;
    state) flags='' valued='-' ids=1 ;;
    kill) flags='--all --regex' valued='-' ids=1 ;;
    delete) flags='--force --regex' valued='-' ids=1 ;;
    exec) flags='--process --cwd --env --user --additional-gids --tty --console-socket --pidfd-socket --pid-file --detach --process-label --apparmor --no-new-privs --cap --preserve-fds --cgroup --ignore-paused' valued='--process|--cwd|--env|--user|--additional-gids|--console-socket|--pidfd-socket|--pid-file|--process-label|--apparmor|--cap|--preserve-fds|--cgroup' ids=1 ;;
    list) flags='--format --quiet' valued='--format' ids=0 ;;
    ps) flags='--format' valued='--format' ids=1 ;;
    pause) flags='' valued='-' ids=1 ;;
    resume) flags='' valued='-' ids=1 ;;
    update) flags='--resources --memory --memory-reservation --memory-swap --cpu-period --cpu-quota --cpu-burst --cpu-share --cpu-rt-period --cpu-rt-runtime --cpu-idle --cpuset-cpus --cpuset-mems --blkio-weight --pids-limit --l3-cache-schema --mem-bw-schema' valued='--resources|--memory|--memory-reservation|--memory-swap|--cpu-period|--cpu-quota|--cpu-burst|--cpu-share|--cpu-rt-period|--cpu-rt-runtime|--cpu-idle|--cpuset-cpus|--cpuset-mems|--blkio-weight|--pids-limit|--l3-cache-schema|--mem-bw-schema' ids=1 ;;
    mounts) flags='' valued='-' ids=0 ;;
    events) flags='--interval --stats' valued='--interval' ids=1 ;;
    checkpoint) flags='--image-path --work-path --tcp-established --ext-unix-sk --shell-job --lazy-pages --file-locks --manage-cgroups-mode --empty-ns --auto-dedup --network-lock --parent-path --leave-running --tcp-skip-in-flight --link-remap --status-fd --page-server --pre-dump' valued='--image-path|--work-path|--manage-cgroups-mode|--empty-ns|--network-lock|--parent-path|--status-fd|--page-server' ids=1 ;;
    restore) flags='--bundle --config --console-socket --pid-file --detach --no-pivot --no-subreaper --keep --image-path --work-path --tcp-established --ext-unix-sk --shell-job --lazy-pages --file-locks --manage-cgroups-mode --empty-ns --auto-dedup --network-lock --tcp-close --lsm-profile --lsm-mount-context' valued='--bundle|--config|--console-socket|--pid-file|--image-path|--work-path|--manage-cgroups-mode|--empty-ns|--network-lock|--lsm-profile|--lsm-mount-context' ids=1 ;;
    spec) flags='--bundle --rootless --file' valued='--bundle|--file' ids=0 ;;
    features) flags='' valued='-' ids=0 ;;
    explain) flags='--json --show-env --bundle --config' valued='--bundle|--config' ids=0 ;;
    validate) flags='--json --bundle --config' valued='--bundle|--config' ids=0 ;;
    esac
    if [[ "|$valued|" == *"|$before|"* ]]; then
        COMPREPLY=($(compgen -f -- "$word"))
    elif [[ $word == -* ]]; then
        COMPREPLY=($(compgen -W "$flags" -- "$word"))
    elif [[ -z $verb ]]; then
        COMPREPLY=($(compgen -W 'create start run state kill delete exec list ps pause resume update mounts events checkpoint restore spec features explain validate help' -- "$word"))
    elif ((ids)); then
        COMPREPLY=($(compgen -W "$(pyruntime "${root[@]}" list -q 2>/dev/null)" -- "$word"))
    else
        COMPREPLY=($(compgen -f -- "$word"))
    fi
}
complete -o filenames -F _pyruntime pyruntime
