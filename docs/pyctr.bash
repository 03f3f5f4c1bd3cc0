# bash completion of pyctr, made by tools/make-docs from the table of commands
_pyctr() {
    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} i command='' words='bundle events history image images import info inspect load login logout pull push rmi save search system tag version' images=0 host=()
    local flags='--host --debug --config --version --help' valued='--host|-H|--config'
    COMPREPLY=()
    for ((i = 1; i < COMP_CWORD; i++)); do
        case ${COMP_WORDS[i]} in
        -H|--host) i=$((i + 1)) host=(-H "${COMP_WORDS[i]}") ;;
        --config) i=$((i + 1)) ;;
        -*) ;;
        *) command="$command${command:+ }${COMP_WORDS[i]}"
           [[ $command == image || $command == system ]] || break ;;
        esac
    done
    case $command in
    image) words='history import inspect list load ls prune pull push remove rm save tag' ;;
    system) words='df events info prune' ;;
    'bundle') flags='--platform --tty --help' valued='--platform' images=1 ;;
    'events') flags='--filter --format --since --until --help' valued='--filter|-f|--format|--since|--until' images=0 ;;
    'history') flags='--format --human --no-trunc --quiet --help' valued='--format' images=1 ;;
    'image history') flags='--format --human --no-trunc --quiet --help' valued='--format' images=1 ;;
    'image import') flags='--change --message --platform --help' valued='--change|-c|--message|-m|--platform' images=0 ;;
    'image inspect') flags='--format --help' valued='--format|-f' images=1 ;;
    'image list') flags='--all --digests --filter --format --no-trunc --quiet --help' valued='--filter|-f|--format' images=0 ;;
    'image load') flags='--input --platform --quiet --help' valued='--input|-i|--platform' images=0 ;;
    'image ls') flags='--all --digests --filter --format --no-trunc --quiet --help' valued='--filter|-f|--format' images=0 ;;
    'image prune') flags='--all --filter --force --help' valued='--filter' images=0 ;;
    'image pull') flags='--all-tags --platform --quiet --help' valued='--platform' images=1 ;;
    'image push') flags='--all-tags --platform --quiet --help' valued='--platform' images=1 ;;
    'image remove') flags='--force --no-prune --help' valued='-' images=1 ;;
    'image rm') flags='--force --no-prune --help' valued='-' images=1 ;;
    'image save') flags='--output --platform --help' valued='--output|-o|--platform' images=1 ;;
    'image tag') flags=' --help' valued='-' images=1 ;;
    'images') flags='--all --digests --filter --format --no-trunc --quiet --help' valued='--filter|-f|--format' images=0 ;;
    'import') flags='--change --message --platform --help' valued='--change|-c|--message|-m|--platform' images=0 ;;
    'info') flags='--format --help' valued='--format|-f' images=0 ;;
    'inspect') flags='--format --type --help' valued='--format|-f|--type' images=1 ;;
    'load') flags='--input --platform --quiet --help' valued='--input|-i|--platform' images=0 ;;
    'login') flags='--password --password-stdin --username --help' valued='--password|-p|--username|-u' images=0 ;;
    'logout') flags=' --help' valued='-' images=0 ;;
    'pull') flags='--all-tags --platform --quiet --help' valued='--platform' images=1 ;;
    'push') flags='--all-tags --platform --quiet --help' valued='--platform' images=1 ;;
    'rmi') flags='--force --no-prune --help' valued='-' images=1 ;;
    'save') flags='--output --platform --help' valued='--output|-o|--platform' images=1 ;;
    'search') flags='--filter --format --limit --no-trunc --help' valued='--filter|-f|--format|--limit' images=0 ;;
    'system df') flags='--format --verbose --help' valued='--format' images=0 ;;
    'system events') flags='--filter --format --since --until --help' valued='--filter|-f|--format|--since|--until' images=0 ;;
    'system info') flags='--format --help' valued='--format|-f' images=0 ;;
    'system prune') flags='--all --force --filter --volumes --help' valued='--filter' images=0 ;;
    'tag') flags=' --help' valued='-' images=1 ;;
    'version') flags='--format --help' valued='--format|-f' images=0 ;;
    esac
    if [[ "|$valued|" == *"|$before|"* ]]; then
        COMPREPLY=($(compgen -f -- "$word"))
    elif [[ $word == -* ]]; then
        COMPREPLY=($(compgen -W "$flags" -- "$word"))
    elif [[ -z $command || $command == image || $command == system ]]; then
        COMPREPLY=($(compgen -W "$words" -- "$word"))
    elif [[ $command == bundle && $before != bundle ]]; then
        COMPREPLY=($(compgen -d -- "$word"))
    elif ((images)); then
        COMPREPLY=($(compgen -W "$(pyctr "${host[@]}" images --format '{{.Repository}}:{{.Tag}}' 2>/dev/null | grep -v '<none>')" -- "$word"))
    else
        COMPREPLY=($(compgen -f -- "$word"))
    fi
}
complete -o filenames -F _pyctr pyctr
