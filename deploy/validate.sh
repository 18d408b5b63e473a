#!/usr/bin/env bash
# Validates what is deployed with the tools that know most about it; called by `make validate` with their folder.
set -euo pipefail
tools=$1
cd "$(dirname "$0")/.."

echo "hadolint"
"$tools/hadolint" Dockerfile deploy/containers/Dockerfile
for version in 1.34 1.37; do
    echo "kubernetes-validate $version"
    # Kinds of operators are unknown to it and only warned about; tests/deploy/test_custom_kinds.py validates those.
    "$tools/kubernetes-validate" --strict --kubernetes-version "$version" deploy/kubernetes/rendered/*.yaml 2>&1 \
        | { grep -v -e '^INFO' -e "WARN .*Couldn't find schema for kind \(Cluster\|ScheduledBackup\|ObjectStore\)" || true; } >"${TMPDIR:-/tmp}/validated.$$"
    if [[ -s ${TMPDIR:-/tmp}/validated.$$ ]]; then
        cat "${TMPDIR:-/tmp}/validated.$$"
        exit 1
    fi
    rm -f "${TMPDIR:-/tmp}/validated.$$"
done
echo "checkov"
"$tools/checkov" --config-file deploy/checkov.yaml --file deploy/kubernetes/rendered/*.yaml Dockerfile
echo "zizmor"
# Its newest advice is a way of naming workflows that older runners do not know.
"$tools/zizmor" --offline --quiet --min-severity medium .github/workflows
echo "nothing to say"
