package api

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// program is a real client, with a kubeconfig for the server.
type program struct {
	*testing.T
	argv []string
	dir  string
	env  []string
}

// newKubectl returns the program that KUBECTL names (it may have arguments, as
// "skiff kubectl"), or the kubectl on the path.
func newKubectl(t *testing.T, s *server) *program {
	t.Helper()
	return newProgram(t, s, "kubectl")
}

// newProgram returns the program that the environment names under its name in
// capitals, or the one on the path.
func newProgram(t *testing.T, s *server, name string) *program {
	t.Helper()
	variable := strings.ToUpper(name)
	argv := strings.Fields(os.Getenv(variable))
	if len(argv) == 0 {
		path, err := exec.LookPath(name)
		if err != nil {
			t.Skipf("there is no %s on this machine: set %s to one", name, variable)
		}
		argv = []string{path}
	}
	dir := t.TempDir()
	config := clientcmdapi.NewConfig()
	config.Clusters["test"] = &clientcmdapi.Cluster{Server: s.URL(), CertificateAuthorityData: s.Config.CAData}
	config.AuthInfos["test"] = &clientcmdapi.AuthInfo{ClientCertificateData: s.Config.CertData, ClientKeyData: s.Config.KeyData}
	config.Contexts["test"] = &clientcmdapi.Context{Cluster: "test", AuthInfo: "test", Namespace: name}
	config.CurrentContext = "test"
	file := filepath.Join(dir, "kubeconfig")
	if err := clientcmd.WriteToFile(*config, file); err != nil {
		t.Fatal(err)
	}
	return &program{t, argv, dir, []string{"KUBECONFIG=" + file, "HOME=" + dir, "PATH=" + os.Getenv("PATH")}}
}

// run runs it with the arguments and stdin, and returns what it wrote.
func (p *program) run(stdin string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*patience)
	defer cancel()
	argv := append(append([]string{}, p.argv[1:]...), args...)
	cmd := exec.CommandContext(ctx, p.argv[0], argv...)
	cmd.Stdin, cmd.Env, cmd.WaitDelay = strings.NewReader(stdin), p.env, time.Second
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// ok runs what must succeed and say all of want.
func (p *program) ok(stdin, command string, want ...string) string {
	p.Helper()
	out, err := p.run(stdin, split(command)...)
	if err != nil {
		p.Fatalf("%s %s: %v\n%s", p.argv[0], command, err, out)
	}
	p.says(command, out, want)
	return out
}

// refused runs what must fail and say all of want.
func (p *program) refused(stdin, command string, want ...string) {
	p.Helper()
	out, err := p.run(stdin, split(command)...)
	if err == nil {
		p.Errorf("%s %s: no error\n%s", p.argv[0], command, out)
	}
	p.says(command, out, want)
}

func (p *program) says(command, out string, want []string) {
	p.Helper()
	for _, w := range want {
		if !strings.Contains(strings.Join(strings.Fields(out), " "), strings.Join(strings.Fields(w), " ")) {
			p.Errorf("%s %s does not say %q:\n%s", p.argv[0], command, w, out)
		}
	}
}

// split takes a command line apart; quotes hold words together.
func split(command string) (out []string) {
	word, quoted := "", false
	for _, c := range command + " " {
		switch {
		case c == '\'':
			quoted = !quoted
		case c == ' ' && !quoted:
			if word != "" {
				out = append(out, word)
			}
			word = ""
		default:
			word += string(c)
		}
	}
	return out
}

const web = `apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
  labels: {app: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: main
        image: example.com/web:1
        ports: [{containerPort: 80}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{port: 80, name: http}]
`

func TestKubectl(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.namespace("kubectl")
	s.serviceAccount("kubectl")
	k := newKubectl(t, s)
	for name, test := range map[string]func(*server, *program){
		"apply": applyCommands, "metadata": metadataCommands, "read": readCommands, "workloads": workloadCommands,
		"nodes": nodeCommands, "access": accessCommands, "patch": patchCommands, "apply server-side": serverSideCommands,
		"custom resources": customCommands,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := *k
			in.T = t
			test(s.in(t), &in)
		})
	}
}

func applyCommands(_ *server, k *program) {
	k.ok(web, "apply -f - --dry-run=server", "deployment.apps/web created (server dry run)", "service/web created (server dry run)")
	k.ok(web, "apply -f -", "deployment.apps/web created", "service/web created")
	k.ok(web, "apply -f -", "deployment.apps/web unchanged", "service/web unchanged")
	changed := strings.Replace(web, "web:1", "web:2", 1)
	diff, err := k.run(changed, "diff", "-f", "-")
	if exit, ok := err.(*exec.ExitError); !ok || exit.ExitCode() != 1 || !strings.Contains(diff, "+") || !strings.Contains(diff, "image: example.com/web:2") {
		k.Errorf("diff: %v\n%s", err, diff)
	}
	k.ok(changed, "apply -f -", "deployment.apps/web configured", "service/web unchanged")
	k.ok("", "get deployment web -o jsonpath={.spec.template.spec.containers[0].image}", "example.com/web:2")
	// What is no longer in the file goes away.
	k.ok(strings.Replace(changed, "        ports: [{containerPort: 80}]\n", "", 1), "apply -f -", "deployment.apps/web configured")
	k.ok("", "get deployment web -o jsonpath={.spec.template.spec.containers[0].ports}#", "#")
	k.refused(strings.Replace(web, "replicas: 2", "replicas: many", 1), "apply -f -", "unrecognized type: int32")
	k.refused(strings.Replace(web, "replicas: 2", "replica: 2", 1), "apply -f -", `unknown field "spec.replica"`)
	k.refused(strings.Replace(web, "matchLabels: {app: web}", "matchLabels: {app: other}", 1), "apply -f -", "spec.selector: Invalid value", "field is immutable")
	k.ok(strings.Replace(web, "replicas: 2", "replicas: 7", 1), "replace -f -", "deployment.apps/web replaced")
	k.ok("", "get deploy web -o jsonpath={.spec.replicas}", "7")
	k.ok(web, "delete -f -", `deployment.apps "web" deleted`, `service "web" deleted`)
	k.refused("", "get deployment web", `deployments.apps "web" not found`)

	one := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: one, labels: {set: x}}\ndata: {a: b}\n"
	two := strings.ReplaceAll(one, "one", "two")
	k.ok(one+"---\n"+two, "apply --prune -l set=x -f -", "configmap/one created", "configmap/two created")
	k.ok(one, "apply --prune -l set=x --prune-allowlist=core/v1/ConfigMap -f -", "configmap/one unchanged", "configmap/two pruned")
	edit := filepath.Join(k.dir, "editor")
	if err := os.WriteFile(edit, []byte("#!/bin/sh\nsed -i 's/a: b/a: edited/' \"$1\"\n"), 0o755); err != nil {
		k.Fatal(err)
	}
	in := *k
	in.env = append(append([]string{}, k.env...), "EDITOR="+edit)
	in.ok("", "edit configmap one", "configmap/one edited")
	k.ok("", "get cm one -o yaml", "a: edited", "kind: ConfigMap", "set: x")
}

func serverSideCommands(_ *server, k *program) {
	manifest := strings.ReplaceAll(web, "name: web", "name: ssa")
	k.ok(manifest, "apply --server-side -f -", "deployment.apps/ssa serverside-applied", "service/ssa serverside-applied")
	k.ok(manifest, "apply --server-side -f -", "deployment.apps/ssa serverside-applied")
	k.ok("", "scale deployment ssa --replicas=5", "deployment.apps/ssa scaled")
	k.refused(manifest, "apply --server-side -f -", `Apply failed with 1 conflict: conflict with "kubectl" with subresource "scale" using apps/v1: .spec.replicas`)
	k.ok(manifest, "apply --server-side --force-conflicts -f -", "deployment.apps/ssa serverside-applied")
	k.ok("", "get deployment ssa -o jsonpath={.spec.replicas}", "2")
	k.ok(manifest, "diff --server-side -f -")

	// From client-side to server-side apply and on.
	legacy := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: moved}\ndata: {a: '1', b: '1'}\n"
	k.ok(legacy, "apply -f -", "configmap/moved created")
	k.ok(strings.Replace(legacy, ", b: '1'", "", 1), "apply --server-side -f -", "configmap/moved serverside-applied")
	k.ok("", "get cm moved -o jsonpath={.data}", `{"a":"1"}`)
}

func metadataCommands(_ *server, k *program) {
	k.ok("", "create configmap meta --from-literal=a=b", "configmap/meta created")
	k.ok("", "label configmap meta tier=front", "configmap/meta labeled")
	k.refused("", "label configmap meta tier=back", "'tier' already has a value (front), and --overwrite is false")
	k.ok("", "label configmap meta tier=back --overwrite", "configmap/meta labeled")
	k.ok("", "annotate configmap meta note='two words'", "configmap/meta annotated")
	k.ok("", "get configmap meta -o jsonpath={.metadata.labels.tier}:{.metadata.annotations.note}", "back:two words")
	k.ok("", "get cm -l tier=back --no-headers -o custom-columns=NAME:.metadata.name", "meta")
	k.ok("", "label configmap meta tier-", "configmap/meta unlabeled")
	k.ok("", "describe configmap meta", "Name: meta", "note: two words", "BinaryData")
	k.ok("", "create secret generic hidden --from-literal=password=x", "secret/hidden created")
	k.ok("", "describe secret hidden", "Type: Opaque", "password: 1 bytes")
	k.ok("", "create quota limits --hard=pods=10", "resourcequota/limits created")
	k.ok("", "describe quota limits", "Name: limits")
	k.ok("", "delete configmap,secret meta hidden --ignore-not-found", `configmap "meta" deleted`, `secret "hidden" deleted`)
	k.ok("", "delete quota limits")
}

func readCommands(s *server, k *program) {
	k.ok("", "api-resources", "NAME SHORTNAMES APIVERSION NAMESPACED KIND", "deployments deploy apps/v1 true Deployment", "poddisruptionbudgets pdb policy/v1 true PodDisruptionBudget")
	k.ok("", "api-resources --verbs=list --namespaced -o name --api-group=networking.k8s.io", "ingresses.networking.k8s.io networkpolicies.networking.k8s.io")
	k.ok("", "api-versions", "apps/v1", "autoscaling/v2", "v1")
	k.ok("", "explain pod.spec.containers.livenessProbe --recursive=false", "FIELD: livenessProbe <Probe>", "initialDelaySeconds <integer>")
	k.ok("", "explain deployments.spec.strategy", "KIND: Deployment", "rollingUpdate <RollingUpdateDeployment>")
	k.ok("", "version", "Server Version: v1.36")
	k.ok("", "cluster-info", "Kubernetes control plane is running at "+s.URL())
	k.ok("", "get --raw /readyz", "ok")
	k.ok("", "get ns", "NAME STATUS AGE", "kube-system Active")
	k.ok("", "get all", "") // in a namespace of others' making: whatever there is
	k.ok("", "get svc kubernetes -n default", "NAME TYPE CLUSTER-IP EXTERNAL-IP PORT(S) AGE", "kubernetes ClusterIP", "443/TCP")
	k.ok("", "describe svc kubernetes -n default", "Type: ClusterIP", "Session Affinity: None")
	k.ok("", "get clusterroles view -o name", "clusterrole.rbac.authorization.k8s.io/view")
	k.ok("", "describe clusterrole view", "PolicyRule", "deployments.apps [] [] [get list watch]")
	k.refused("", "get nonsense", `the server doesn't have a resource type "nonsense"`)
	k.refused("", "get pods absent", `Error from server (NotFound): pods "absent" not found`)
	k.ok("", "get pods -A --show-labels")
	k.ok("", "get pods -l nothing=here", "No resources found in kubectl namespace.")
}

func workloadCommands(s *server, k *program) {
	k.ok("", "create deployment shop --image=example.com/shop:1 --replicas=3 --port=8080", "deployment.apps/shop created")
	k.ok("", "get deployment shop -o wide", "NAME READY UP-TO-DATE AVAILABLE AGE CONTAINERS IMAGES SELECTOR", "shop 0/3 0 0", "shop example.com/shop:1 app=shop")
	k.ok("", "set image deployment/shop shop=example.com/shop:2", "deployment.apps/shop image updated")
	k.ok("", "set env deployment/shop MODE=test", "deployment.apps/shop env updated")
	k.ok("", "set resources deployment/shop --limits=cpu=200m,memory=64Mi", "deployment.apps/shop resource requirements updated")
	k.ok("", "scale deployment/shop --replicas=4 --current-replicas=3", "deployment.apps/shop scaled")
	k.refused("", "scale deployment/shop --replicas=4 --current-replicas=9", "Expected replicas to be 9, was 4")
	k.ok("", "autoscale deployment shop --min=2 --max=9 --cpu-percent=70", "horizontalpodautoscaler.autoscaling/shop autoscaled")
	k.ok("", "get hpa shop", "NAME REFERENCE TARGETS MINPODS MAXPODS REPLICAS AGE", "shop Deployment/shop cpu: <unknown>/70% 2 9 0")
	k.ok("", "expose deployment shop --port=80 --target-port=8080 --type=NodePort", "service/shop exposed")
	k.ok("", "get service shop -o wide", "shop NodePort", "80:3", "app=shop")
	k.ok("", "rollout pause deployment/shop", "deployment.apps/shop paused")
	k.ok("", "rollout resume deployment/shop", "deployment.apps/shop resumed")
	k.ok("", "rollout restart deployment/shop", "deployment.apps/shop restarted")
	s.ok(200, call{Method: "PATCH", Path: "/apis/apps/v1/namespaces/kubectl/deployments/shop/status", Type: mergePatch,
		Body: `{"status":{"observedGeneration":99,"replicas":4,"updatedReplicas":4,"readyReplicas":4,"availableReplicas":4,"conditions":[{"type":"Available","status":"True","reason":"MinimumReplicasAvailable"}]}}`})
	k.ok("", "rollout status deployment/shop", `deployment "shop" successfully rolled out`)
	k.ok("", "wait deployment/shop --for=condition=Available --timeout=10s", "deployment.apps/shop condition met")
	k.ok("", "wait deployment/shop --for=jsonpath={.status.readyReplicas}=4 --timeout=10s", "deployment.apps/shop condition met")
	k.ok("", "describe deployment shop", "Replicas: 4 desired | 4 updated | 4 total | 4 available | 0 unavailable", "MODE: test", "Available True MinimumReplicasAvailable")
	k.ok("", "rollout history deployment/shop", "deployment.apps/shop")

	k.ok("", "run once --image=example.com/once --restart=Never --labels=run=once --env=A=B -- sleep 10", "pod/once created")
	k.ok("", "get pod once -o wide", "NAME READY STATUS RESTARTS AGE IP NODE NOMINATED NODE READINESS GATES", "once 0/1 Pending 0", "<none> <none> <none> <none>")
	k.ok("", "describe pod once", "Name: once", "Node: <none>", "Status: Pending", "QoS Class: BestEffort", "A: B")
	k.ok("", "create job task --image=example.com/task -- true", "job.batch/task created")
	k.ok("", "get job task", "NAME STATUS COMPLETIONS DURATION AGE", "task Running 0/1")
	k.ok("", "create cronjob nightly --image=example.com/task --schedule='0 3 * * *' -- true", "cronjob.batch/nightly created")
	k.ok("", "get cronjob nightly", "NAME SCHEDULE TIMEZONE SUSPEND ACTIVE LAST SCHEDULE AGE", "nightly 0 3 * * * <none> False 0 <none>")
	k.ok("", "create job manual --from=cronjob/nightly", "job.batch/manual created")
	k.ok("", "create ingress way --rule=example.com/=shop:80 --class=nginx", "ingress.networking.k8s.io/way created")
	k.ok("", "get ingress way", "NAME CLASS HOSTS ADDRESS PORTS AGE", "way nginx example.com 80")
	k.ok("", "create poddisruptionbudget keep --selector=app=shop --min-available=1", "poddisruptionbudget.policy/keep created")
	k.ok("", "get pdb keep", "keep 1 N/A 0")
	k.ok("", "create priorityclass important --value=1000 --description=x", "priorityclass.scheduling.k8s.io/important created")
	s.ok(201, call{Method: "POST", Path: "/api/v1/namespaces/kubectl/events", Body: `{"metadata":{"name":"e1"},"involvedObject":{"kind":"Pod","name":"once","namespace":"kubectl","apiVersion":"v1"},"reason":"Testing","message":"an event","type":"Warning","source":{"component":"test"},"firstTimestamp":"2026-01-01T00:00:00Z","lastTimestamp":"2026-01-01T00:00:00Z","count":2}`})
	k.ok("", "events --for=pod/once", "LAST SEEN TYPE REASON OBJECT MESSAGE", "Warning Testing Pod/once an event")
	k.ok("", "get events --field-selector=reason=Testing", "Warning Testing pod/once an event")
	k.ok("", "delete pod once --now", `pod "once" `)
	k.ok("", "delete deployment shop --cascade=orphan --wait=false", `deployment.apps "shop" deleted`)
}

func nodeCommands(s *server, k *program) {
	s.ok(201, call{Method: "POST", Path: "/api/v1/nodes", Body: `{"metadata":{"name":"n1","labels":{"node-role.kubernetes.io/control-plane":"","kubernetes.io/role":"worker"}}}`})
	s.ok(200, call{Method: "PATCH", Path: "/api/v1/nodes/n1/status", Type: mergePatch, Body: `{"status":{"conditions":[{"type":"Ready","status":"True"}],"addresses":[{"type":"InternalIP","address":"10.0.0.1"}],"capacity":{"cpu":"2","memory":"4Gi","pods":"110"},"allocatable":{"cpu":"2","memory":"4Gi","pods":"110"},"nodeInfo":{"kubeletVersion":"v1.36.3","osImage":"Debian","kernelVersion":"6","containerRuntimeVersion":"containerd://2","operatingSystem":"linux","architecture":"amd64"}}}`})
	k.ok("", "get node n1 -o wide", "NAME STATUS ROLES AGE VERSION INTERNAL-IP EXTERNAL-IP OS-IMAGE KERNEL-VERSION CONTAINER-RUNTIME", "n1 Ready control-plane,worker", "v1.36.3 10.0.0.1 <none> Debian 6 containerd://2")
	k.ok("", "cordon n1", "node/n1 cordoned")
	k.ok("", "get node n1", "Ready,SchedulingDisabled")
	k.ok("", "uncordon n1", "node/n1 uncordoned")
	k.ok("", "taint node n1 key=value:NoSchedule", "node/n1 tainted")
	k.ok("", "describe node n1", "Roles: control-plane,worker", "key=value:NoSchedule", "Ready True", "cpu: 2", "Non-terminated Pods: (0 in total)")
	k.ok("", "taint node n1 key-", "node/n1 untainted")
	s.ok(201, call{Method: "POST", Path: "/api/v1/namespaces/kubectl/pods", Body: `{"metadata":{"name":"on-n1","ownerReferences":[{"apiVersion":"apps/v1","kind":"ReplicaSet","name":"x","uid":"y","controller":true}]},"spec":{"nodeName":"n1","terminationGracePeriodSeconds":0,"containers":[{"name":"c","image":"i"}]}}`})
	s.ok(201, call{Method: "POST", Path: "/apis/apps/v1/namespaces/kubectl/replicasets", Body: `{"metadata":{"name":"x"},"spec":{"selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"i"}]}}}}`})
	k.ok("", "drain n1 --ignore-daemonsets --timeout=20s", "node/n1 cordoned", "evicting pod kubectl/on-n1", "node/n1 drained")
}

func accessCommands(s *server, k *program) {
	k.ok("", "auth can-i create deployments", "yes")
	k.refused("", "auth can-i create deployments --as=jane", "no")
	k.ok("", "create role reader --verb=get,list --resource=pods", "role.rbac.authorization.k8s.io/reader created")
	k.ok("", "create rolebinding jane --role=reader --user=jane", "rolebinding.rbac.authorization.k8s.io/jane created")
	k.until("auth can-i list pods --as=jane", "yes")
	k.ok("", "auth can-i --list --as=jane", "pods [] [] [get list]")
	k.ok("", "auth whoami", "Username")
	k.refused("", "get secrets --as=jane", `secrets is forbidden: User "jane" cannot list resource "secrets" in API group "" in the namespace "kubectl"`)
	k.ok("", "create serviceaccount robot", "serviceaccount/robot created")
	token := strings.TrimSpace(k.ok("", "create token robot --duration=1h"))
	k.ok("", "auth whoami --token="+token+" --client-certificate= --client-key=")
	csr := samples(k.T)
	for gvk, obj := range csr {
		if gvk.Kind != "CertificateSigningRequest" {
			continue
		}
		obj.SetName("someone")
		data, err := obj.MarshalJSON()
		if err != nil {
			k.Fatal(err)
		}
		k.ok(string(data), "create -f -", "certificatesigningrequest.certificates.k8s.io/someone created")
	}
	k.ok("", "get csr someone", "NAME AGE SIGNERNAME REQUESTOR REQUESTEDDURATION CONDITION", "Pending")
	k.ok("", "certificate approve someone", "certificatesigningrequest.certificates.k8s.io/someone approved")
	k.ok("", "get csr someone", "Approved")
	k.refused("", "certificate deny someone", "already Approved")
}

// until runs a command until it succeeds and says want.
func (p *program) until(command, want string) {
	p.Helper()
	p.again(command, want, func(err error) bool { return err == nil })
}

// untilRefused runs a command until it fails and says want.
func (p *program) untilRefused(command, want string) {
	p.Helper()
	p.again(command, want, func(err error) bool { return err != nil })
}

func (p *program) again(command, want string, ended func(error) bool) {
	p.Helper()
	deadline := time.Now().Add(patience)
	for {
		out, err := p.run("", split(command)...)
		if ended(err) && strings.Contains(out, want) {
			return
		}
		if time.Now().After(deadline) {
			p.Fatalf("%s %s does not say %q: %v\n%s", p.argv[0], command, want, err, out)
		}
	}
}

func patchCommands(_ *server, k *program) {
	k.ok(strings.ReplaceAll(web, "name: web", "name: patched"), "create -f -", "deployment.apps/patched created")
	k.ok("", `patch deployment patched -p '{"spec":{"template":{"spec":{"containers":[{"name":"side","image":"s"}]}}}}'`, "deployment.apps/patched patched")
	k.ok("", "get deployment patched -o jsonpath={.spec.template.spec.containers[*].name}", "side main")
	k.ok("", `patch deployment patched --type=merge -p '{"spec":{"replicas":9}}'`, "deployment.apps/patched patched")
	k.ok("", `patch deployment patched --type=json -p '[{"op":"replace","path":"/spec/replicas","value":8}]'`, "deployment.apps/patched patched")
	k.ok("", `patch deployment patched --subresource=status --type=merge -p '{"status":{"replicas":8,"observedGeneration":1}}'`, "deployment.apps/patched patched")
	k.ok("", "get deployment patched --subresource=status -o jsonpath={.spec.replicas}:{.status.replicas}", "8:8")
	k.ok("", `patch deployment patched --type=merge -p '{"spec":{"replicas":8}}'`, "deployment.apps/patched patched (no change)")
	k.refused("", `patch deployment patched --type=merge -p '{"spec":{"replicas":-1}}'`, "spec.replicas: Invalid value: -1: must be greater than or equal to 0")
	k.ok("", "delete deployment patched --wait=false", `deployment.apps "patched" deleted`)
	k.ok("", "delete service patched")
}
