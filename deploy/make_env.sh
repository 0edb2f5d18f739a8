#!/bin/sh
# Writes .env: deploy/example.env with a fresh random secret wherever it leaves one out: after = and after :.
set -eu
cd "$(dirname "$0")/.."

# Compose mounts these, and the containers' own users read them, whatever umask they were cloned with.
chmod -R a+rX deploy/rabbitmq deploy/examples/generator.py deploy/monitoring

if [ -e .env ]; then
    echo ".env exists already. Its passwords are those of the volumes; to begin anew: docker compose down --volumes && rm .env" >&2
    exit 1
fi

random() {
    od -An -N24 -tx1 /dev/urandom | tr -d ' \n'
}

umask 077
while IFS= read -r line; do
    case $line in
        '#'*) echo "$line" ;;
        *=) echo "$line$(random)" ;;
        *=,*:) echo "${line%%,*}$(random),${line#*,}$(random)" ;;
        *) echo "$line" ;;
    esac
done < deploy/example.env > .env
echo "wrote .env, to be read by nobody but you. Next: docker compose up --build" >&2
