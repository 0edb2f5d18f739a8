#!/bin/sh
# Prints every Secret that the chart's default values name, and those of rabbitmq.yaml and postgres.yaml beside this, with
# fresh random passwords. Once, because a second run makes other passwords:
#
#     REPLICATE_API_TOKEN=r8_… sh secrets.sh NAMESPACE | kubectl apply -f -
set -eu
namespace=${1:?name the namespace: sh secrets.sh modelswap}
: "${REPLICATE_API_TOKEN:?set it to the token of your account}"

random() {
    od -An -N24 -tx1 /dev/urandom | tr -d ' \n'
}

begin() { # NAME [TYPE]
    printf -- '---\napiVersion: v1\nkind: Secret\nmetadata: {name: %s, namespace: %s}\ntype: %s\nstringData:\n' \
        "$1" "$namespace" "${2:-Opaque}"
}

entry() { # KEY VALUE
    printf '  %s: "%s"\n' "$1" "$2"
}

rabbitmq=modelswap-rabbitmq
postgres=modelswap-postgres-rw
admin=$(random)

begin modelswap-rabbitmq-admin
entry username modelswap
entry password "$admin"
entry default_user.conf "default_user = modelswap\ndefault_pass = $admin\n"
entry host "$rabbitmq.$namespace.svc"
entry port 5672
entry provider rabbitmq
entry type rabbitmq

begin modelswap-rabbitmq
entry admin-url "amqp://modelswap:$admin@$rabbitmq:5672/modelswap"
entry management-url "http://modelswap:$admin@$rabbitmq:15672"
for process in receiver extractor state ops notifier; do
    password=$(random)
    entry "$process-password" "$password"
    entry "$process-url" "amqp://modelswap-$process:$password@$rabbitmq:5672/modelswap"
done
password=$(random)
entry keda-password "$password"
# KEDA asks from another namespace.
entry keda-url "http://modelswap-keda:$password@$rabbitmq.$namespace:15672/modelswap"

owner=$(random) state=$(random) ops=$(random) notifier=$(random)
login() { # NAME USER PASSWORD
    begin "modelswap-postgres-$1" kubernetes.io/basic-auth
    entry username "$2"
    entry password "$3"
}
login owner modelswap_owner "$owner"
login state modelswap_state_login "$state"
login ops modelswap_ops_login "$ops"
login notifier modelswap_notifier_login "$notifier"

begin modelswap-postgres
entry owner-url "postgresql://modelswap_owner:$owner@$postgres:5432/modelswap?sslmode=require"
entry state-url "postgresql://modelswap_state_login:$state@$postgres:5432/modelswap?sslmode=require"
entry ops-url "postgresql://modelswap_ops_login:$ops@$postgres:5432/modelswap?sslmode=require"
entry notifier-url "postgresql://modelswap_notifier_login:$notifier@$postgres:5432/modelswap?sslmode=require"

begin modelswap-replicate
entry api-token "$REPLICATE_API_TOKEN"

begin modelswap-tokens
entry api-tokens "$(random),service/ops:$(random)"
entry ops-tokens "$(random)"

begin modelswap-signing
entry ref-secrets "$(random)"
entry webhook-master-secrets "$(random)"
