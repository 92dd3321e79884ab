package e2e

import (
	"encoding/csv"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The replay is ten times as fast as the trace. All default times of Cluster Autoscaler are divided by ten.
// The back-off of kube-scheduler cannot be less than a second.
var compressed = []string{
	"--scan-interval=1s", "--scale-down-unneeded-time=60s", "--scale-down-delay-after-add=60s",
	"--scale-down-delay-after-delete=1s", "--scale-down-delay-after-failure=18s",
	"--unremovable-node-recheck-timeout=30s",
}

// TestReplay measures the cost of a part of a workload trace with a price list on a real cluster
// (docs/use/cost.md).
func TestReplay(t *testing.T) {
	folder := os.Getenv("E2E_REPLAY")
	if folder == "" {
		t.Skip("E2E_REPLAY must be a folder with pods.csv and offers.csv")
	}
	for _, d := range drivers(t) {
		t.Run(strings.ReplaceAll(d.name, " ", "_"), func(t *testing.T) {
			for _, expander := range []string{"least-waste", "price", "grpc"} {
				t.Run(expander, func(t *testing.T) { replay(t, d, folder, expander) })
			}
		})
	}
}

func replay(t *testing.T, d driver, folder, expander string) {
	offers, prices := market(t, folder)
	s := setting{
		nodeGroups: []object{nodeGroup("general", 500, offers...)}, expander: expander == "grpc", autoscaler: compressed,
		vpsie:     catalogue(t, folder),
		scheduler: prompt,
	}
	if expander != "grpc" {
		s.autoscaler = append(slices.Clone(compressed), "--expander="+expander)
	}
	w := s.world(t, d, newRecording())
	r := &run{w: w, prices: prices, pods: schedule(t, folder), began: time.Now(), asked: map[string]time.Time{}, boots: map[string]float64{}}
	r.last = r.began
	await(t, "all pods have run", time.Hour, r.advanceReplay)
	w.note("%d pods, %.4f USD, %d nodes that took %.1f s to be ready, mean wait %.1f s, %d evictions", len(r.pods), r.usd,
		len(r.asked), mean(r.boots), r.waited/float64(len(r.pods)), r.evictions)
	w.done(d, "replay, "+expander)
}

// run is the state of a replay.
type run struct {
	w           *world
	prices      map[string]float64 // USD per hour
	pods        []*traced
	began, last time.Time
	usd, waited float64
	evictions   int
	asked       map[string]time.Time // first listing of a VM, by name of its Node
	boots       map[string]float64   // seconds until its Node was ready, by name of the Node
}

// traced is a pod of a trace.
type traced struct {
	name            string
	cpu, memory     string
	arrival         time.Duration
	duration, left  time.Duration
	started         time.Time
	created, done   bool
	evictions, over int
}

func (p *traced) object() string { return fmt.Sprintf("%s-%d", p.name, p.evictions) }

// advanceReplay adds the cost since its last call. It creates arriving pods, ends finished ones and recreates
// evicted ones.
func (r *run) advanceReplay() error {
	if err := r.w.autoscaler.ended(); err != nil {
		return fatal{err}
	}
	machines, err := r.w.vpsie.workers()
	if err != nil {
		return err
	}
	now := time.Now()
	for _, machine := range machines {
		r.usd += r.prices[machine.Offer] * now.Sub(r.last).Hours()
		if _, known := r.asked[strings.ToLower(machine.Hostname)]; !known {
			r.asked[strings.ToLower(machine.Hostname)] = now
		}
	}
	r.last = now
	nodes, err := r.w.nodes(isOurs)
	if err != nil {
		return err
	}
	for _, node := range nodes {
		if _, known := r.boots[node.Name]; !known && ready(node) {
			if asked, known := r.asked[node.Name]; known {
				r.boots[node.Name] = now.Sub(asked).Seconds()
			}
		}
	}
	list, err := r.w.cluster.client.CoreV1().Pods("default").List(background, meta.ListOptions{})
	if err != nil {
		return err
	}
	there := map[string]*core.Pod{}
	for n := range list.Items {
		there[list.Items[n].Name] = &list.Items[n]
	}
	left := 0
	for _, pod := range r.pods {
		if !pod.done {
			if err := r.follow(pod, there[pod.object()], now); err != nil {
				return err
			}
		}
		if !pod.done {
			left++
		}
	}
	if left > 0 {
		return fmt.Errorf("%d of %d pods have not ended", left, len(r.pods))
	}
	return nil
}

func (r *run) follow(pod *traced, found *core.Pod, now time.Time) error {
	pods := r.w.cluster.client.CoreV1().Pods("default")
	switch {
	case !pod.created:
		if now.Sub(r.began) < pod.arrival {
			return nil
		}
		pod.created = true
		_, err := pods.Create(background, pod.manifest(), meta.CreateOptions{})
		return err
	case found == nil || found.DeletionTimestamp != nil:
		if !pod.started.IsZero() {
			pod.left -= now.Sub(pod.started)
			pod.started = time.Time{}
		}
		pod.evictions++
		r.evictions++
		_, err := pods.Create(background, pod.manifest(), meta.CreateOptions{})
		return err
	case found.Status.Phase != core.PodRunning:
		return nil
	case pod.started.IsZero():
		pod.started = now
	case now.Sub(pod.started) >= pod.left:
		pod.done = true
		r.waited += (now.Sub(r.began) - pod.arrival - pod.duration).Seconds()
		err := pods.Delete(background, found.Name, meta.DeleteOptions{GracePeriodSeconds: new(int64)})
		if !errors.IsNotFound(err) {
			return err
		}
	}
	return nil
}

func (p *traced) manifest() *core.Pod {
	requests := core.ResourceList{"cpu": resource.MustParse(p.cpu), "memory": resource.MustParse(p.memory)}
	return &core.Pod{
		ObjectMeta: meta.ObjectMeta{
			Name: p.object(), Labels: map[string]string{"app": "trace"},
			Annotations: map[string]string{"cluster-autoscaler.kubernetes.io/safe-to-evict": "true"},
		},
		Spec: core.PodSpec{
			NodeSelector: map[string]string{managed: "true"}, TerminationGracePeriodSeconds: new(int64),
			Containers: []core.Container{{
				Name: "main", Image: "none", Resources: core.ResourceRequirements{Requests: requests},
			}},
		},
	}
}

// schedule returns the pods of pods.csv.
func schedule(t *testing.T, folder string) []*traced {
	t.Helper()
	var pods []*traced
	for _, row := range rows(t, filepath.Join(folder, "pods.csv"), 5) {
		arrival, end := seconds(t, row[3]), seconds(t, row[4])
		pods = append(pods, &traced{
			name: row[0], cpu: row[1] + "m", memory: row[2] + "Mi", arrival: arrival, duration: end - arrival, left: end - arrival,
		})
	}
	return pods
}

// market returns the offers of offers.csv with their prices, USD per hour.
func market(t *testing.T, folder string) ([]string, map[string]float64) {
	t.Helper()
	var offers []string
	prices := map[string]float64{}
	for _, row := range rows(t, filepath.Join(folder, "offers.csv"), 4) {
		price, err := strconv.ParseFloat(row[3], 64)
		if err != nil {
			t.Fatal(err)
		}
		offers = append(offers, row[0])
		prices[row[0]] = price
	}
	return offers, prices
}

// catalogue returns the configuration of a simulated VPSie with these offers.
func catalogue(t *testing.T, folder string) string {
	t.Helper()
	text := &strings.Builder{}
	text.WriteString(quick)
	for n, row := range rows(t, filepath.Join(folder, "offers.csv"), 4) {
		fmt.Fprintf(text, "- {id: %d, name: %s, cpu: %s, ram: %s, disk: 80, monthly: \"1\", hourly: %q}\n", n+1, row[0], row[1], row[2], row[3])
	}
	fmt.Fprintf(text, "clusters:\n- {identifier: 5a1c94be-6f3d-11ef-9b52-bc24115e1e5f, name: Kubernetes-49ab, datacenter: ams1, controlPlane: 1, foreignWorkers: 1, offer: %s}\n",
		rows(t, filepath.Join(folder, "offers.csv"), 4)[0][0])
	return text.String()
}

func rows(t *testing.T, path string, columns int) [][]string {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	reader := csv.NewReader(file)
	reader.FieldsPerRecord = columns
	found, err := reader.ReadAll()
	if err != nil || len(found) < 2 {
		t.Fatalf("%s: %d rows: %v", path, len(found), err)
	}
	return found[1:]
}

func seconds(t *testing.T, text string) time.Duration {
	t.Helper()
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return time.Duration(n) * time.Second
}

func mean(values map[string]float64) float64 {
	sum := 0.0
	for _, value := range values {
		sum += value
	}
	return sum / math.Max(1, float64(len(values)))
}

const quick = `
seed: 1
times: {listed: 500ms, boot: 10s, deletion: 500ms}
datacenters:
- {identifier: ams1, name: Amsterdam}
offers:
`

const prompt = "podInitialBackoffSeconds: 1\npodMaxBackoffSeconds: 1\n"
