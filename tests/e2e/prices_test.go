package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// priced has three offers, such that the option with the least waste is not the cheapest.
const priced = `
seed: 1
times: {listed: 500ms..1500ms, boot: 3s..5s, deletion: 500ms..1500ms}
datacenters:
- {identifier: ams1, name: Amsterdam}
- {identifier: nyc1, name: New York}
offers:
- {id: 1, name: s-2vcpu-4gb, cpu: 2, ram: 4096, disk: 80, monthly: "20"}
- {id: 2, name: m-4vcpu-12gb, cpu: 4, ram: 12288, disk: 160, monthly: "36"}
- {id: 3, name: s-8vcpu-16gb, cpu: 8, ram: 16384, disk: 320, monthly: "100"}
clusters:
- identifier: 5a1c94be-6f3d-11ef-9b52-bc24115e1e5f
  name: Kubernetes-49ab
  datacenter: %s
  controlPlane: 1
  foreignWorkers: 1
  offer: s-2vcpu-4gb
`

// discounted is a price file with a discount for one datacenter.
const discounted = `
overrides:
- {datacenter: nyc1, offer: s-8vcpu-16gb, discountPercent: "70"}
`

var prices = map[string]map[string]float64{
	"ams1": {"s-2vcpu-4gb": 20, "m-4vcpu-12gb": 36, "s-8vcpu-16gb": 100},
	"nyc1": {"s-2vcpu-4gb": 20, "m-4vcpu-12gb": 36, "s-8vcpu-16gb": 30},
}

// cheapestSet is scenario o: Cluster Autoscaler creates the cheapest set of nodes of three offers for all
// pods, at the prices of each of two datacenters. Without the expander it continues with the rest of the
// chain.
func cheapestSet(t *testing.T, d driver, recorded *recording) {
	for _, datacenter := range slices.Sorted(maps.Keys(prices)) {
		t.Run(datacenter, func(t *testing.T) {
			folder := t.TempDir()
			file := filepath.Join(folder, "prices.yaml")
			write(t, file, []byte(discounted))
			group := nodeGroupIn(datacenter, "general", 8, slices.Sorted(maps.Keys(prices[datacenter]))...)
			w := setting{
				nodeGroups: []object{group}, expander: true, vpsie: fmt.Sprintf(priced, datacenter),
				provider: []string{"--price-file=" + file},
			}.world(t, d, recorded)
			// Paused, so that its next loop has all pods.
			w.autoscaler.signal(syscall.SIGSTOP)
			w.deploy("web", 4, "800m", "1Gi")
			// The simulated scheduler must place it first: it fits on no node with two of the other pods.
			w.prioritize("db", 1000)
			w.deployWith(core.PodSpec{PriorityClassName: "db"}, "db", 1, "7", "10Gi")
			await(t, "the scheduler reports all pods as unschedulable", time.Minute, w.unschedulable(5))
			w.autoscaler.signal(syscall.SIGCONT)
			want, cost := optimum(prices[datacenter], []request{{800, 1024}, {800, 1024}, {800, 1024}, {800, 1024}, {7000, 10240}})
			w.awaitSettled(5, 0, size(want), 2*time.Minute)
			if got := w.offers(); !maps.Equal(got, want) {
				t.Errorf("created %v, want %v (%.0f USD per month)", got, want, cost)
			}
			w.checkCreated(size(want))
			w.checkExplain(want)
			w.awaitCost("general", cost)
			w.note("in %s %v for %.0f USD per month", datacenter, want, cost)

			asked := w.decisions()
			if asked == 0 {
				t.Error("the expander got no request")
			}
			w.expander.stop()
			w.deploy("more", 9, "700m", "1Gi")
			await(t, "pods run that were created without the expander", 2*time.Minute, func() error {
				running, waiting, err := w.pods()
				if err == nil && (running != 14 || waiting != 0) {
					err = fmt.Errorf("%d run, %d wait", running, waiting)
				}
				return err
			})
			if now := w.decisions(); now != asked {
				t.Errorf("the expander got %d requests after it was stopped", now-asked)
			}
			w.done(d, "o. cheapest set")
		})
	}
}

// priceExpander is scenario p: Cluster Autoscaler's own price expander, with the prices of the provider.
func priceExpander(t *testing.T, d driver, recorded *recording) {
	w := setting{
		nodeGroups: []object{nodeGroup("general", 8, small, large)}, autoscaler: []string{"--expander=price,least-waste"},
	}.world(t, d, recorded)
	w.deploy("web", 5, "800m", "500Mi")
	w.deploy("db", 1, "3", "5Gi")
	await(t, "all pods run", 2*time.Minute, func() error {
		running, waiting, err := w.pods()
		if err == nil && (running != 6 || waiting != 0) {
			err = fmt.Errorf("%d run, %d wait", running, waiting)
		}
		return err
	})
	asked := map[string]int{}
	for _, e := range w.proxy.allExchanges() {
		if !strings.HasPrefix(e.rpc, "Pricing") {
			continue
		}
		asked[e.rpc]++
		if e.code != "OK" || !(parse(e.reply).float(1) > 0) {
			t.Errorf("%s: %s, %v", e.rpc, e.code, parse(e.reply).float(1))
		}
	}
	if asked["PricingNodePrice"] == 0 || asked["PricingPodPrice"] == 0 {
		t.Errorf("requests for prices are missing: %v", asked)
	}
	w.scale("web", 0)
	w.scale("db", 0)
	w.awaitSettled(0, 0, 0, 2*time.Minute)
	w.done(d, "p. price expander")
}

// request has the requests of a pod: millicores and MiB.
type request struct{ cpu, memory int }

// optimum searches every set of up to four nodes of each offer, and every placement of the pods. 100
// millicores and 512 MiB of a node are not allocatable.
func optimum(prices map[string]float64, pods []request) (map[string]int, float64) {
	shapes := map[string]request{"s-2vcpu-4gb": {1900, 3584}, "m-4vcpu-12gb": {3900, 11776}, "s-8vcpu-16gb": {7900, 15872}}
	names := slices.Sorted(maps.Keys(prices))
	var best map[string]int
	cost := 0.0
	for n := range 125 {
		set, sum, nodes := map[string]int{}, 0.0, []request{}
		for _, name := range names {
			if count := n % 5; count > 0 {
				set[name] = count
				sum += float64(count) * prices[name]
				for range count {
					nodes = append(nodes, shapes[name])
				}
			}
			n /= 5
		}
		if (best == nil || sum < cost) && fits(nodes, pods) {
			best, cost = set, sum
		}
	}
	return best, cost
}

func fits(nodes, pods []request) bool {
	if len(pods) == 0 {
		return true
	}
	pod := pods[0]
	for n, node := range nodes {
		if node.cpu >= pod.cpu && node.memory >= pod.memory {
			nodes[n] = request{node.cpu - pod.cpu, node.memory - pod.memory}
			ok := fits(nodes, pods[1:])
			nodes[n] = node
			if ok {
				return true
			}
		}
	}
	return false
}

func size(set map[string]int) int {
	sum := 0
	for _, count := range set {
		sum += count
	}
	return sum
}

// offers returns the number of workers by offer.
func (w *world) offers() map[string]int {
	w.t.Helper()
	machines, err := w.vpsie.workers()
	if err != nil {
		w.t.Fatal(err)
	}
	found := map[string]int{}
	for _, machine := range machines {
		found[machine.Offer]++
	}
	return found
}

// unschedulable checks that the scheduler has reported this number of pods as unschedulable.
func (w *world) unschedulable(count int) func() error {
	return func() error {
		pods, err := w.cluster.client.CoreV1().Pods("default").List(background, meta.ListOptions{})
		if err != nil {
			return err
		}
		reported := 0
		for _, pod := range pods.Items {
			if slices.ContainsFunc(pod.Status.Conditions, func(condition core.PodCondition) bool {
				return condition.Type == core.PodScheduled && condition.Reason == core.PodReasonUnschedulable
			}) {
				reported++
			}
		}
		if reported != count {
			return fmt.Errorf("reported: %d pods", reported)
		}
		return nil
	}
}

// awaitCost waits for the monthly cost in the status of a NodeGroup, USD. It is based on VPSie's hourly
// prices: VPSie's month has 720 hours, that of the status 730.
func (w *world) awaitCost(group string, want float64) {
	w.t.Helper()
	await(w.t, fmt.Sprintf("%s costs %.0f USD per month", group, want), 20*time.Second, func() error {
		var found declared
		if _, err := w.cluster.get(objects+"/nodegroups/"+group, &found); err != nil {
			return err
		}
		cost := found.Status.Cost
		hourly, err := strconv.ParseFloat(cost.Hourly, 64)
		if err != nil {
			return err
		}
		monthly, err := strconv.ParseFloat(cost.Monthly, 64)
		if err == nil && (math.Abs(monthly/730*720-want) > 0.005*want || math.Abs(hourly*730-monthly) > 0.005*want) {
			err = fmt.Errorf("the status has %s per month, %s per hour", cost.Monthly, cost.Hourly)
		}
		return err
	})
}

// decisions returns the number of requests to the expander.
func (w *world) decisions() int {
	w.t.Helper()
	text, err := w.provider.awaitLeader(w.t).read("/metrics")
	if err != nil {
		w.t.Fatal(err)
	}
	sum := 0
	for line := range strings.SplitSeq(text, "\n") {
		if !strings.HasPrefix(line, "vpsie_autoscaler_expander_decisions_total{") {
			continue
		}
		var count float64
		if _, err := fmt.Sscan(line[strings.LastIndex(line, " ")+1:], &count); err != nil {
			w.t.Fatalf("%s: %v", line, err)
		}
		sum += int(count)
	}
	return sum
}

// checkExplain checks that `explain` shows the created offers.
func (w *world) checkExplain(set map[string]int) {
	w.t.Helper()
	leader := w.provider.awaitLeader(w.t)
	text, err := exec.Command(os.Getenv("E2E_VPSIE_AUTOSCALER"), "explain", "--last=20", "--url=http://"+leader.http).CombinedOutput()
	if err != nil {
		w.t.Fatalf("explain: %v: %s", err, text)
	}
	for offer := range set {
		if !strings.Contains(string(text), offer) {
			w.t.Errorf("explain does not show %s:\n%s", offer, text)
		}
	}
	raw, err := leader.read("/debug/decisions")
	if err != nil || !json.Valid([]byte(raw)) {
		w.t.Errorf("/debug/decisions: %v: %s", err, raw)
	}
}

func (r *replica) read(path string) (string, error) {
	response, err := probe.Get("http://" + r.http + path)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	return string(content), err
}
