#!/usr/bin/env bash
# Validates manifests, images and workflows; `make validate` calls it with the folder of the tools.
set -euo pipefail
tools=$1
cd "$(dirname "$0")/.."

echo "hadolint"
"$tools/hadolint" deploy/image/Dockerfile deploy/containers/Dockerfile
for version in 1.34 1.37; do
    echo "kubernetes-validate $version"
    # It only warns about kinds of operators; tests/deploy/test_custom_kinds.py validates those.
    "$tools/kubernetes-validate" --strict --kubernetes-version "$version" deploy/kubernetes/rendered/*.yaml 2>&1 \
        | { grep -v -e '^INFO' -e "WARN .*Couldn't find schema for kind \(Cluster\|ScheduledBackup\|ObjectStore\|Issuer\|Middleware\)" || true; } >"${TMPDIR:-/tmp}/validated.$$"
    if [[ -s ${TMPDIR:-/tmp}/validated.$$ ]]; then
        cat "${TMPDIR:-/tmp}/validated.$$"
        exit 1
    fi
    rm -f "${TMPDIR:-/tmp}/validated.$$"
done
echo "checkov"
"$tools/checkov" --config-file deploy/checkov.yaml --file deploy/kubernetes/rendered/*.yaml deploy/image/Dockerfile
echo "zizmor"
# Findings of low severity suggest syntax that older runners do not support.
"$tools/zizmor" --offline --quiet --min-severity medium .github/workflows
echo "all valid"
