package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// simulator is a simulated VPSie in a separate process.
type simulator struct {
	url       string
	arguments []string
	dir       string
	process   *process
	// looks is the number of reads by the test itself.
	looks atomic.Int64
}

type vm struct {
	UUID     string `json:"uuid"`
	Hostname string `json:"hostname"`
	Kind     string `json:"kind"`
	Phase    string `json:"phase"`
	Offer    string `json:"offer"`
	// Datacenter, and the parts of plain VMs.
	Datacenter string    `json:"datacenter"`
	CreatedAt  time.Time `json:"createdAt"`
	Plain      struct {
		Request struct{ Notes string }
		// Boot is the state of its join.
		Boot struct{ State, Reason, Node string }
	} `json:"plain"`
	End struct {
		GoneAt time.Time `json:"goneAt"`
	} `json:"end"`
}

// ofProvider returns true iff the provider requested it.
func (v vm) ofProvider() bool {
	return v.Kind == "worker" || v.Kind == "plain" && strings.HasPrefix(v.Plain.Request.Notes, marker) &&
		!strings.HasPrefix(v.Plain.Request.Notes, otherMarker)
}

type overview struct {
	VMs   []vm           `json:"vms"`
	Calls map[string]int `json:"calls"`
}

func startSimulator(t testing.TB, dir, kubeconfig, configuration string, arguments ...string) *simulator {
	t.Helper()
	config := filepath.Join(dir, "simulator.yaml")
	write(t, config, []byte(configuration))
	address := fmt.Sprintf("127.0.0.1:%d", port(t))
	s := &simulator{url: "http://" + address, dir: dir, arguments: append([]string{
		"simulator", "--listen=" + address, "--config=" + config, "--state=" + filepath.Join(dir, "simulator-state.json"),
		"--kubeconfig=" + kubeconfig,
	}, arguments...)}
	s.start(t)
	return s
}

func (s *simulator) start(t testing.TB) {
	t.Helper()
	s.process = start(t, s.dir, "simulator", os.Getenv("E2E_VPSIE_AUTOSCALER"), s.arguments...)
	await(t, "the simulator replies", 20*time.Second, func() error {
		if err := s.process.ended(); err != nil {
			return fatal{err}
		}
		_, err := s.overview()
		return err
	})
}

func (s *simulator) overview() (overview, error) {
	var seen overview
	return seen, s.control(http.MethodGet, "/state", nil, &seen)
}

// workers returns the VMs that were requested through the API.
func (s *simulator) workers() ([]vm, error) {
	seen, err := s.overview()
	var workers []vm
	for _, machine := range seen.VMs {
		if machine.ofProvider() {
			workers = append(workers, machine)
		}
	}
	return workers, err
}

func (s *simulator) must(t testing.TB, method, path string, body any) {
	t.Helper()
	if err := s.control(method, path, body, nil); err != nil {
		t.Fatal(err)
	}
}

func (s *simulator) control(method, path string, body, into any) error {
	return s.call(method, "/_simulator"+path, body, into)
}

// user sends a request to VPSie's API, as a user of the account does.
func (s *simulator) user(method, path string, body, into any) error {
	if method == http.MethodGet {
		s.looks.Add(1)
	}
	return s.call(method, "/apps/v2"+path, body, into)
}

func (s *simulator) call(method, path string, body, into any) error {
	var content bytes.Buffer
	if body != nil {
		if err := json.NewEncoder(&content).Encode(body); err != nil {
			return err
		}
	}
	request, err := http.NewRequest(method, s.url+path, &content)
	if err != nil {
		return err
	}
	request.Header.Set("Vpsie-Auth", "simulated-token")
	request.Header.Set("Content-Type", "application/json")
	client := http.Client{Timeout: 5 * time.Second}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode >= 300 {
		return fmt.Errorf("%s %s: %s: %s", method, path, response.Status, answer)
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(answer, into)
}

// VMs boot slowly enough to kill processes meanwhile.
const simulated = `
seed: 1
times: {listed: 500ms..1500ms, boot: 3s..5s, deletion: 500ms..1500ms}
clusters:
- identifier: 5a1c94be-6f3d-11ef-9b52-bc24115e1e5f
  name: AMS-Kubernetes-49ab
  datacenter: ams1
  controlPlane: 1
  foreignWorkers: 1
  offer: s-2vcpu-4gb
`
