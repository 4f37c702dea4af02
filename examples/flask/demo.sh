#!/bin/bash
# Runs the example application in a development cluster of its own, in real
# containers behind a real Service, and shows what a cluster is for: scaling,
# updates without a failed request, going back, and healing. Leaves the cluster
# up. Run it as root after `make build`, or with `make demo`.
set -euo pipefail
cd "$(dirname "$0")"

skiff=$(realpath ../../bin/skiff)
cluster=demo
deployment=flask-app-deployment
image=docker.io/your-registry/flask-hello-k8s
cache=${XDG_CACHE_HOME:-/var/cache}/skiff-demo
buildah=(buildah --root "$cache/storage" --runroot /run/skiff-demo --storage-driver overlay)
work=$(mktemp -d)
client=

end() {
    status=$?
    [ -z "$client" ] || kill "$client" 2>/dev/null || true
    rm -rf "$work"
    [ $status = 0 ] || echo "The demo failed. Look around with: SKIFF_CLUSTER=$cluster $skiff kubectl get pods -A; remove it with: $skiff down --name $cluster" >&2
}
trap end EXIT

say() { printf '\n\033[1m== %s\033[0m\n' "$*"; }
fail() { echo "FAILED: $*" >&2; exit 1; }
kubectl() { "$skiff" kubectl "$@"; }

# await SECONDS COMMAND...: until the command succeeds.
await() {
    local deadline=$((SECONDS + $1)); shift
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $deadline ] || fail "this did not come true: $*"
        sleep 0.1
    done
}

install_packages() {
    local missing=()
    for command in runc buildah debootstrap curl; do
        command -v "$command" >/dev/null || missing+=("$command")
    done
    [ ${#missing[@]} = 0 ] && return
    say "Installing ${missing[*]}"
    apt-get update -q
    DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "${missing[@]}"
}

# build TAG DIRECTORY: the image as an archive in $work.
build() {
    "${buildah[@]}" bud --quiet --isolation chroot --pull=never --tag "$image:$1" "$2" >/dev/null
    "${buildah[@]}" push --quiet "$image:$1" "docker-archive:$work/$1.tar:$image:$1"
}

# A client that asks without a pause, each time on a new connection, and writes
# down what it gets.
start_client() {
    : >"$work/answers"
    while :; do
        curl --silent --max-time 5 --write-out ' %{http_code}\n' "http://$address/" || echo ' failed'
    done >>"$work/answers" &
    client=$!
}

# stop_client ends the client and fails unless every request was answered.
stop_client() {
    kill "$client"
    wait "$client" 2>/dev/null || true
    client=
    # The last line may have been cut off by the kill.
    sed -i '$d' "$work/answers"
    local asked failed
    asked=$(wc -l <"$work/answers")
    failed=$(grep -vc ' 200$' "$work/answers" || true)
    echo "$asked requests, $failed failed:"
    sort "$work/answers" | uniq -c
    [ "$asked" -gt 0 ] || fail "the client asked nothing"
    [ "$failed" = 0 ] || fail "$failed of $asked requests failed"
}

rollout() { kubectl rollout status "deployment/$deployment" --timeout=120s; }
answer() { curl --silent --show-error --fail --max-time 5 "http://$address/"; }
answers() { [ "$(answer)" = "$1" ]; }
pods() { kubectl get pods -l app=flask-hello "$@"; }
settled() { [ "$(pods --no-headers | wc -l)" = 5 ] && available 5; }
available() { [ "$(kubectl get deployment $deployment -o 'jsonpath={.status.availableReplicas}')" = "$1" ]; }

[ "$(id -u)" = 0 ] || fail "the demo makes namespaces and containers; run it as root (sudo make demo)"
[ -x "$skiff" ] || fail "there is no $skiff; run make build"
install_packages
mkdir -p "$cache"

say "Building the application's images"
./base-image.sh "$cache" "${buildah[@]}"
build v1 .
cp -r . "$work/v2"
sed -i 's/Hello from Kubernetes!/Hello from Kubernetes, v2!/' "$work/v2/app.py"
build v2 "$work/v2"
ls -sh "$work"/*.tar

say "Making a cluster"
"$skiff" down --name $cluster
"$skiff" up --name $cluster --isolated
export SKIFF_CLUSTER=$cluster
unset KUBECONFIG
kubectl get nodes -o wide

say "Importing the images"
"$skiff" image import "$work/v1.tar" "$work/v2.tar"

say "Applying the manifests"
kubectl apply -f flask-deployment.yaml -f flask-service.yaml
rollout
pods -o wide
await 30 kubectl wait service/flask-app-service --for='jsonpath={.status.loadBalancer.ingress}' --timeout=10s
address=$(kubectl get service flask-app-service -o 'jsonpath={.status.loadBalancer.ingress[0].ip}')
kubectl get service flask-app-service

say "Asking http://$address/"
await 30 answers 'Hello from Kubernetes!'
answer; echo

say "Scaling to 5"
kubectl scale "deployment/$deployment" --replicas=5
rollout
pods -o wide

# The manifest has none, so a new pod counts as ready before Python listens.
say "Adding a readiness probe"
kubectl patch "deployment/$deployment" --patch-file readiness.yaml
rollout

say "Updating to v2 and going back, while a client asks"
start_client
kubectl set image "deployment/$deployment" "flask-hello-k8s=your-registry/flask-hello-k8s:v2"
rollout
await 60 answers 'Hello from Kubernetes, v2!'
answer; echo
kubectl rollout undo "deployment/$deployment"
rollout
await 60 answers 'Hello from Kubernetes!'
answer; echo
kubectl rollout history "deployment/$deployment"
stop_client

say "Killing a container"
await 90 settled # the old pods are gone
pod=$(pods -o 'jsonpath={.items[0].metadata.name}')
container=$(kubectl get pod "$pod" -o 'jsonpath={.status.containerStatuses[0].containerID}')
pid=$(grep -ls "${container#*://}" /proc/[0-9]*/cgroup | head -n 1 | cut -d/ -f3)
echo "killing process $pid, the container of pod $pod"
kill -9 "$pid"
await 60 kubectl wait "pod/$pod" --for='jsonpath={.status.containerStatuses[0].restartCount}=1' --timeout=5s
await 60 settled
kubectl get pod "$pod"

say "Deleting a pod"
kubectl delete pod "$pod"
await 60 settled
pods

say "Done"
cat <<TEXT
The cluster is up; the application answers at http://$address/
  export SKIFF_CLUSTER=$cluster
  $skiff kubectl get pods -o wide
  $skiff kubectl logs deployment/$deployment
Remove it with
  $skiff down --name $cluster
TEXT
