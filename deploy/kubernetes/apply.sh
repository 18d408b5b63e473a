#!/usr/bin/env bash
# Applies an overlay to a cluster: databases and bus, then migrations, then services. Rolls services back if they fail.
#
#     deploy/kubernetes/apply.sh production IMAGE@sha256:DIGEST
#     deploy/kubernetes/apply.sh development [IMAGE]
set -euo pipefail
overlay=$1 image=${2:-}
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

if [[ $overlay == production ]]; then
    if [[ $image != */admitone@sha256:* ]]; then
        echo "Name the image to deploy: $0 production REGISTRY/admitone@sha256:DIGEST" >&2
        exit 2
    fi
    if grep --quiet --fixed-strings --regexp example.com --regexp replace_me "$here/rendered/production.yaml"; then
        echo "$here/production.toml has examples. Change them, and run \`make manifests\`." >&2
        exit 2
    fi
fi

cp "$here/rendered/$overlay.yaml" "$work/all.yaml"
mapfile -t services < <(sed --quiet 's/^ *args: \[serve, \(.*\)\]$/\1/p' "$work/all.yaml")
if [[ -n $image ]]; then
    # Only our own image, which runs `serve` and `migrate`, is replaced.
    python3 - "$work/all.yaml" "$image" <<'PY'
import re, sys
path, image = sys.argv[1:]
text = open(path).read()
text, count = re.subn(r"^(\s+(?:- )?image: )(?:\S*/)?admitone:\S+$", lambda line: line[1] + image, text, flags=re.MULTILINE)
assert count, "no image to replace"
open(path, "w").write(text)
PY
fi

say() { printf '\n== %s\n' "$*"; }
apply() { kubectl apply --filename "$work/all.yaml" "$@"; }

say "namespace, network, settings, bus and databases"
kubectl apply --filename "$here/namespace.yaml"
apply --selector 'app.kubernetes.io/component notin (service, migration)'
kubectl --namespace admitone rollout status statefulset/nats --timeout 5m
if [[ $overlay == production ]]; then
    kubectl --namespace admitone wait clusters.postgresql.cnpg.io --all --for=condition=Ready --timeout 15m
else
    kubectl --namespace admitone rollout status statefulset/postgres --timeout 5m
fi

say "migrations"
# A finished job cannot be changed, only created again.
kubectl --namespace admitone delete job --selector app.kubernetes.io/component=migration --ignore-not-found
apply --selector app.kubernetes.io/component=migration
kubectl --namespace admitone wait job --selector app.kubernetes.io/component=migration --for=condition=complete --timeout 10m

say "services"
for service in "${services[@]}"; do
    # At the first deployment there is no revision to go back to.
    kubectl --namespace admitone get deployment "$service" --output 'jsonpath={.metadata.annotations.deployment\.kubernetes\.io/revision}' \
        >"$work/$service" 2>/dev/null || : >"$work/$service"
done
apply --selector app.kubernetes.io/component=service

failed=()
for service in "${services[@]}"; do
    kubectl --namespace admitone rollout status "deployment/$service" --timeout 5m || failed+=("$service")
done
if ((${#failed[@]})); then
    say "${failed[*]} did not start; rolling back"
    kubectl --namespace admitone get pods --selector app.kubernetes.io/component=service
    for service in "${services[@]}"; do
        revision=$(<"$work/$service")
        # Migrations only add, so the previous version runs on the new tables.
        if [[ -n $revision ]]; then
            kubectl --namespace admitone rollout undo "deployment/$service" --to-revision "$revision" || true
        fi
    done
    for service in "${services[@]}"; do
        [[ ! -s $work/$service ]] || kubectl --namespace admitone rollout status "deployment/$service" --timeout 5m
    done
    exit 1
fi
say "every service runs the new version"
