package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	failures "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// canary is the value of a secret variable of the payload.
const canary = "canary-6f1d2b7c90"

// joinSecret is the Secret with variables of payloads.
const joinSecret = "vpsie-join"

// machinesJoin is a self-managed cluster with a pool that joins with kubeadm, with labels and taints, and one whose Nodes
// have an id of their own, as those of k3s do.
func machinesJoin(t *testing.T, d driver, recorded *recording) {
	w := selfManagedWorld(t, d, recorded, setting{autoscaler: []string{"--max-node-provision-time=40s"}},
		vmGroup("general", 4, object{
			"labels": object{"team": "one", "example.com/tier": "web"},
			"taints": []any{
				object{"key": "dedicated", "value": "web", "effect": "NoSchedule"},
				object{"key": "example.com/slow", "value": "", "effect": "PreferNoSchedule"},
			},
			"selfManaged": object{"variables": []any{
				object{"name": "install_command", "secretKeyRef": object{"name": joinSecret, "key": "command"}},
			}},
		}, small),
		vmGroup("edge", 4, object{"selfManaged": object{"joinKind": "k3s"}}, small))
	w.provideVariable("command", "true # "+canary)
	w.vpsie.must(t, "PUT", "/shapes", object{"delete-password": "required"})
	first := len(w.proxy.allExchanges())
	tolerations := []core.Toleration{{Key: "dedicated", Operator: core.TolerationOpExists}}
	var joined vm

	w.part("token before the VM, gone after the join", func() {
		// Machines of another cluster and of a user, with hostnames as the provider gives them.
		w.createVM("general-0a1b2c3d-1", "", object{})
		w.createVM("general-0a1b2c3d-2", otherMarker+"general/ams1/"+small+"/on-demand", object{})
		w.deployTo(ofGroup("general"), "intruder", 1, "100m", "100Mi")
		w.deployWith(core.PodSpec{NodeSelector: ofGroup("general"), Tolerations: tolerations}, "web", 2, "800m", "500Mi")
		w.awaitSettled(2, 1, 1, 2*time.Minute)
		at := time.Now()
		machines, err := w.vpsie.workers()
		if err != nil || len(machines) != 1 {
			w.t.Fatalf("VMs: %v %v", machines, err)
		}
		joined = machines[0]
		node, err := w.cluster.client.CoreV1().Nodes().Get(background, joined.Hostname, meta.GetOptions{})
		if err != nil {
			w.t.Fatal(err)
		}
		if want := "vpsie://" + joined.UUID; node.Spec.ProviderID != want {
			w.t.Errorf("the id of the Node is %q, want %q", node.Spec.ProviderID, want)
		}
		tokens := w.witness.tokensOf(joined.Hostname)
		if len(tokens) != 1 {
			w.t.Fatalf("%d tokens were made for %s, want 1", len(tokens), joined.Hostname)
		}
		if created := w.tokenCreated(tokens[0].id); created.IsZero() || !created.Before(joined.CreatedAt) {
			w.t.Errorf("the token was created at %s, the VM at %s", created, joined.CreatedAt)
		}
		w.awaitNoLeftovers(30 * time.Second)
		w.note("token and script gone at most %.0f s after the Node was bound", time.Since(at).Seconds())
		// The API server caches accepted tokens for ten seconds.
		await(w.t, "the old token gets 401", 15*time.Second, func() error {
			if err := w.cluster.checkToken(w.t, tokens[0].text); !failures.IsUnauthorized(err) {
				return fmt.Errorf("the reply is %v", err)
			}
			return nil
		})
		w.done(d, "1. join")
	})

	w.part("labels and taints in the first version of the Node", func() {
		node, seen := w.witness.firstVersion(joined.Hostname)
		if !seen {
			w.t.Fatal("the first version was not seen")
		}
		pool, err := w.poolOf(joined.Hostname)
		if err != nil || pool == "" {
			w.t.Fatalf("the pool of %s is %q: %v", joined.Hostname, pool, err)
		}
		w.checkRegistration(w.template(pool), node)
		pods, err := w.cluster.client.CoreV1().Pods("default").List(background, meta.ListOptions{LabelSelector: "app=intruder"})
		if err != nil {
			w.t.Fatal(err)
		}
		for _, pod := range pods.Items {
			if pod.Spec.NodeName != "" {
				w.t.Errorf("a pod without toleration runs on %s", pod.Spec.NodeName)
			}
		}
		w.scale("intruder", 0)
	})

	w.part("id of the Node's own", func() {
		w.deployTo(ofGroup("edge"), "agent", 1, "800m", "500Mi")
		w.awaitSettled(3, 0, 2, 2*time.Minute)
		nodes, err := w.nodesOf("edge")
		if err != nil || len(nodes) != 1 {
			w.t.Fatalf("Nodes of edge: %v %v", nodes, err)
		}
		id := "k3s://" + nodes[0].Name
		if nodes[0].Spec.ProviderID != id {
			w.t.Errorf("the id of the Node is %q, want %q", nodes[0].Spec.ProviderID, id)
		}
		pools, err := w.provider.pools(w.t)
		if err != nil {
			w.t.Fatal(err)
		}
		pool, err := w.poolOf(nodes[0].Name)
		if err != nil {
			w.t.Fatal(err)
		}
		if state, found := pools[pool].instances[id]; !found || state != 1 {
			w.t.Errorf("pool %q has no running instance %s: %v", pool, id, pools)
		}
		w.done(d, "2. id of the Node's own")
	})

	w.part("foreign VMs", func() {
		// Longer than Cluster Autoscaler waits for a machine that does not register.
		hold(w.t, "no machine is removed, and none is added", 45*time.Second, func() error { return w.checkSettled(3, 0, 2) })
		w.checkForeignVMs()
		w.checkCreated(2)
	})

	w.part("row that lingers after the deletion", func() {
		w.vpsie.must(w.t, "PUT", "/times", object{"listed": "1s", "boot": "4s", "deletion": "20s"})
		w.scale("web", 0)
		w.awaitSettled(1, 0, 1, 3*time.Minute)
		machines := w.allVMs()
		gone := slices.IndexFunc(machines, func(machine vm) bool { return machine.UUID == joined.UUID })
		if gone < 0 {
			w.t.Fatalf("%s is not among %v", joined.Hostname, machines)
		}
		left, deleted := machines[gone].End.GoneAt, w.witness.goneAt(joined.Hostname)
		if deleted.Before(left) {
			w.t.Errorf("the Node was deleted at %s, its VM was listed until %s", deleted, left)
		}
		w.note("Node deleted %.1f s after its VM was gone", deleted.Sub(left).Seconds())
		w.done(d, "21. row that lingers")
	})

	w.part("password of the deletion", func() {
		w.vpsie.must(w.t, "PUT", "/times", object{"listed": "1s", "boot": "4s", "deletion": "1s"})
		w.fault("DELETE **/vm status=400 message=Incorrect_password")
		before := w.deletions()
		w.scale("agent", 0)
		w.awaitMetric("vpsie_autoscaler_vpsie_api_password_refusals_total")
		at := time.Now()
		hold(w.t, "the machine is kept and counted", 15*time.Second, func() error {
			machines, err := w.vpsie.workers()
			if err == nil && len(machines) != 1 {
				err = fmt.Errorf("%d VMs", len(machines))
			}
			return err
		})
		asked := w.deletions() - before
		if asked > 12 {
			w.t.Errorf("%d requests for one deletion in %.0f s", asked, time.Since(at).Seconds())
		}
		w.vpsie.must(w.t, "DELETE", "/faults", nil)
		// A refusal is remembered; the correction of the key needs a restart.
		for _, replica := range w.provider.replicas {
			replica.end(syscall.SIGTERM)
		}
		w.awaitSettled(0, 0, 0, 4*time.Minute)
		w.note("%d requests while the password was refused", asked)
		w.done(d, "22. refused password")
	})

	w.part("secrets nowhere", func() {
		w.checkForeignVMs()
		w.checkNames()
		w.checkIncreases(first)
		w.checkWitnessed()
		w.note("%d secrets searched", w.checkSecrets())
		w.done(d, "23. secrets nowhere")
	})
}

// provideVariable creates the Secret with variables of payloads that the provider may read.
func (w *world) provideVariable(key, value string) {
	w.t.Helper()
	w.cluster.must(w.t, "POST", "/api/v1/namespaces/"+namespace+"/secrets", object{
		"metadata": object{"name": joinSecret}, "stringData": object{key: value},
	})
}

// tokenCreated returns the time at which the API server had created a token, by its audit log.
func (w *world) tokenCreated(id string) time.Time {
	w.t.Helper()
	content, err := os.ReadFile(w.cluster.file("audit.log"))
	if err != nil {
		w.t.Fatal(err)
	}
	for line := range strings.Lines(string(content)) {
		var event struct {
			Verb   string
			At     time.Time                       `json:"stageTimestamp"`
			Object struct{ Resource, Name string } `json:"objectRef"`
			Status struct{ Code int }              `json:"responseStatus"`
		}
		if json.Unmarshal([]byte(line), &event) == nil && event.Verb == "create" && event.Object.Resource == "secrets" &&
			event.Object.Name == "bootstrap-token-"+id && event.Status.Code == 201 {
			return event.At
		}
	}
	return time.Time{}
}

// kubeletLabels are the labels that each kubelet sets.
var kubeletLabels = []string{
	"kubernetes.io/hostname", "kubernetes.io/os", "kubernetes.io/arch", "beta.kubernetes.io/os", "beta.kubernetes.io/arch",
}

// checkRegistration checks that labels and taints of a registered Node equal those of the template.
func (w *world) checkRegistration(template, node core.Node) {
	w.t.Helper()
	labels := func(of core.Node) map[string]string {
		found := maps.Clone(of.Labels)
		for _, label := range kubeletLabels {
			delete(found, label)
		}
		return found
	}
	if want, is := labels(template), labels(node); !maps.Equal(want, is) {
		w.t.Errorf("labels of the first version:\n%v\nof the template:\n%v", is, want)
	}
	taints := func(of core.Node) []string {
		var found []string
		for _, taint := range of.Spec.Taints {
			if !strings.HasPrefix(taint.Key, "node.kubernetes.io/") {
				found = append(found, fmt.Sprintf("%s=%s:%s", taint.Key, taint.Value, taint.Effect))
			}
		}
		slices.Sort(found)
		return found
	}
	if want, is := taints(template), taints(node); !slices.Equal(want, is) || len(is) != 2 {
		w.t.Errorf("taints of the first version %v, of the template %v", is, want)
	}
}

// checkForeignVMs checks that the VMs of others exist, and are no instances.
func (w *world) checkForeignVMs() {
	w.t.Helper()
	seen, err := w.vpsie.overview()
	if err != nil {
		w.t.Fatal(err)
	}
	foreign := 0
	for _, machine := range seen.VMs {
		if machine.Kind == "plain" && !machine.ofProvider() && machine.Phase == "running" {
			foreign++
		}
	}
	if foreign != 2 {
		w.t.Errorf("%d VMs of others run, want 2", foreign)
	}
}

// checkNames checks that no hostname was used twice.
func (w *world) checkNames() {
	w.t.Helper()
	seen := map[string]bool{}
	for _, machine := range w.allVMs() {
		if seen[machine.Hostname] {
			w.t.Errorf("hostname %s was used twice", machine.Hostname)
		}
		seen[machine.Hostname] = true
	}
}

// deletions returns the number of requests to delete a VM.
func (w *world) deletions() int {
	w.t.Helper()
	seen, err := w.vpsie.overview()
	if err != nil {
		w.t.Fatal(err)
	}
	return seen.Calls["DELETE /vm"]
}

// awaitMetric waits until a metric of the leader is above 0.
func (w *world) awaitMetric(name string) {
	w.t.Helper()
	await(w.t, name+" is above 0", 90*time.Second, func() error {
		text, err := w.metrics()
		if err != nil {
			return err
		}
		for line := range strings.Lines(text) {
			if fields := strings.Fields(line); len(fields) == 2 && strings.HasPrefix(fields[0], name) && fields[1] != "0" {
				return nil
			}
		}
		return errors.New("it is not")
	})
}

// requestsUnclear are requests to VPSie with an unclear outcome.
func requestsUnclear(t *testing.T, d driver, recorded *recording) {
	w := selfManagedWorld(t, d, recorded, setting{}, vmGroup("general", 8, object{}, small))

	w.part("reply lost, VM created", func() {
		w.fault("POST **/vm lost count=1")
		w.deploy("web", 2, "800m", "500Mi")
		w.awaitSettled(2, 0, 1, 2*time.Minute)
		w.checkCreated(1)
		if tokens := w.witness.allTokens(); len(tokens) != 1 {
			w.t.Errorf("%d tokens were made, want 1", len(tokens))
		}
		w.awaitNoLeftovers(30 * time.Second)
		w.done(d, "4. reply lost")
	})

	w.part("late VM is refused and deleted", func() {
		// With user data, only the token keeps the late VM out: a script would be deleted.
		w.cluster.patch(w.t, objects+"/nodegroups/general", object{"spec": object{"selfManaged": object{"delivery": "userData"}}})
		w.proxy.awaitLoops(w.t, 3)
		scripts := len(w.witness.allScripts())
		// Nothing shows the first VM for longer than the provider waits for it.
		w.vpsie.must(w.t, "PUT", "/times", object{"listed": "100s", "gap": "100s", "boot": "100s", "deletion": "1s"})
		w.fault("POST **/vm lost count=1")
		w.scale("web", 4)
		await(w.t, "the first VM is requested", time.Minute, func() error {
			if n := w.countCreated(); n != 2 {
				return fmt.Errorf("%d VMs", n)
			}
			return nil
		})
		late := w.allVMs()[1]
		w.vpsie.must(w.t, "PUT", "/times", object{"listed": "1s", "boot": "4s", "deletion": "1s"})
		// So that the late VM boots before its deletion.
		w.fault("DELETE **/vm delay=8s count=1")
		await(w.t, "the second VM is requested", 2*time.Minute, func() error {
			if n := w.countCreated(); n != 3 {
				return fmt.Errorf("%d VMs", n)
			}
			return nil
		})
		w.note("requested again after %.0f s", time.Since(late.CreatedAt).Seconds())
		second := w.allVMs()[2]
		if second.Hostname == late.Hostname {
			w.t.Errorf("both VMs have the hostname %s", late.Hostname)
		}
		tokens := w.witness.tokensOf(late.Hostname)
		if len(tokens) != 1 || tokens[0].gone.IsZero() || !tokens[0].gone.Before(second.CreatedAt.Add(time.Second)) {
			w.t.Errorf("the token of the first VM: %+v; the second VM was created at %s", tokens, second.CreatedAt)
		}
		refused := "it was deleted before its boot"
		await(w.t, "the late VM is deleted", 3*time.Minute, func() error {
			machines, err := w.vpsie.workers()
			for _, machine := range machines {
				if machine.UUID == late.UUID {
					if machine.Plain.Boot.State == "refused" {
						refused = machine.Plain.Boot.Reason
					}
					err = errors.Join(err, fmt.Errorf("it is %s; its boot: %+v", machine.Phase, machine.Plain.Boot))
				}
			}
			return err
		})
		w.awaitSettled(4, 0, 2, time.Minute)
		if _, seen := w.witness.firstVersion(late.Hostname); seen {
			w.t.Errorf("the late VM has joined as %s", late.Hostname)
		}
		if !strings.Contains(refused, "401") {
			w.t.Errorf("the late VM was not refused for its token: %s", refused)
		}
		if now := len(w.witness.allScripts()); now != scripts {
			w.t.Errorf("%d scripts were added", now-scripts)
		}
		w.checkCreated(3)
		w.awaitNoLeftovers(30 * time.Second)
		w.done(d, "5. late VM")
	})
	w.checkIncreases(0)
	w.checkNames()
}

// killedWhileRequesting kills all replicas between the steps of a request: after the token, after the script, and after
// VPSie created the VM.
func killedWhileRequesting(t *testing.T, d driver, recorded *recording) {
	w := selfManagedWorld(t, d, recorded, setting{}, vmGroup("general", 8, object{}, small))
	nodes := int32(0)
	for _, step := range []struct {
		name, fault string
		reached     func(before int) bool
	}{
		{"after the token", "POST **/script/add delay=20s count=1", func(before int) bool { return len(w.witness.allTokens()) > before }},
		{"after the script", "POST **/vm delay=20s count=1", func(before int) bool { return len(w.witness.allScripts()) > before }},
		{"after the VM", "POST **/vm slow=20s count=1", func(before int) bool { return w.countCreated() > before }},
	} {
		w.part(step.name, func() {
			before := map[string]int{
				"after the token": len(w.witness.allTokens()), "after the script": len(w.witness.allScripts()),
				"after the VM": w.countCreated(),
			}[step.name]
			created := w.countCreated()
			w.fault(step.fault)
			nodes++
			if nodes == 1 {
				w.deploy("web", 1, "1500m", "500Mi")
			} else {
				w.scale("web", nodes)
			}
			await(w.t, "the step is reached", time.Minute, func() error {
				if !step.reached(before) {
					return errors.New("it is not")
				}
				return nil
			})
			at := time.Now()
			w.provider.kill()
			w.vpsie.must(w.t, "DELETE", "/faults", nil)
			w.awaitSettled(int(nodes), 0, int(nodes), 3*time.Minute)
			w.note("settled %.0f s after the kill", time.Since(at).Seconds())
			w.checkCreated(created + 1)
			w.awaitNoLeftovers(45 * time.Second)
			w.done(d, "7. killed "+step.name)
		})
	}
	w.checkNames()
}
