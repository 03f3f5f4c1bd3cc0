# bash completion of pyctr, made by tools/make-docs from the table of commands
_pyctr() {
    local word=${COMP_WORDS[COMP_CWORD]} i command='' words='bundle events history image images import info inspect load login logout pull push rmi save search system tag version' flags='--host --debug --config --version --help' images=0
    COMPREPLY=()
    for ((i = 1; i < COMP_CWORD; i++)); do
        case ${COMP_WORDS[i]} in
        -H|--host|--config) i=$((i + 1)) ;;
        -*) ;;
        *) command="$command${command:+ }${COMP_WORDS[i]}"
           [[ $command == image || $command == system ]] || break ;;
        esac
    done
    case $command in
    image) words='history import inspect list load ls prune pull push remove rm save tag' ;;
    system) words='df events info prune' ;;
    'bundle') flags='--platform --help' images=1 ;;
    'events') flags='--filter --format --since --until --help' images=0 ;;
    'history') flags='--format --human --no-trunc --quiet --help' images=1 ;;
    'image history') flags='--format --human --no-trunc --quiet --help' images=1 ;;
    'image import') flags='--change --message --platform --help' images=0 ;;
    'image inspect') flags='--format --help' images=1 ;;
    'image list') flags='--all --digests --filter --format --no-trunc --quiet --help' images=0 ;;
    'image load') flags='--input --platform --quiet --help' images=0 ;;
    'image ls') flags='--all --digests --filter --format --no-trunc --quiet --help' images=0 ;;
    'image prune') flags='--all --filter --force --help' images=0 ;;
    'image pull') flags='--all-tags --platform --quiet --help' images=1 ;;
    'image push') flags='--all-tags --platform --quiet --help' images=1 ;;
    'image remove') flags='--force --no-prune --help' images=1 ;;
    'image rm') flags='--force --no-prune --help' images=1 ;;
    'image save') flags='--output --platform --help' images=1 ;;
    'image tag') flags=' --help' images=1 ;;
    'images') flags='--all --digests --filter --format --no-trunc --quiet --help' images=0 ;;
    'import') flags='--change --message --platform --help' images=0 ;;
    'info') flags='--format --help' images=0 ;;
    'inspect') flags='--format --type --help' images=1 ;;
    'load') flags='--input --platform --quiet --help' images=0 ;;
    'login') flags='--password --password-stdin --username --help' images=0 ;;
    'logout') flags=' --help' images=0 ;;
    'pull') flags='--all-tags --platform --quiet --help' images=1 ;;
    'push') flags='--all-tags --platform --quiet --help' images=1 ;;
    'rmi') flags='--force --no-prune --help' images=1 ;;
    'save') flags='--output --platform --help' images=1 ;;
    'search') flags='--filter --format --limit --no-trunc --help' images=0 ;;
    'system df') flags='--format --verbose --help' images=0 ;;
    'system events') flags='--filter --format --since --until --help' images=0 ;;
    'system info') flags='--format --help' images=0 ;;
    'system prune') flags='--all --force --filter --volumes --help' images=0 ;;
    'tag') flags=' --help' images=1 ;;
    'version') flags='--format --help' images=0 ;;
    esac
    if [[ $word == -* ]]; then
        COMPREPLY=($(compgen -W "$flags" -- "$word"))
    elif [[ -z $command || $command == image || $command == system ]]; then
        COMPREPLY=($(compgen -W "$words" -- "$word"))
    elif ((images)); then
        COMPREPLY=($(compgen -W "$(pyctr images --format '{{.Repository}}:{{.Tag}}' 2>/dev/null)" -- "$word"))
    else
        COMPREPLY=($(compgen -f -- "$word"))
    fi
}
complete -o filenames -F _pyctr pyctr
