package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// provider is the tested program: replicas in separate processes, one of which leads.
type provider struct {
	replicas []*replica
	// mayEnd permits the end of a process, such as after a long outage of the API server.
	mayEnd bool
}

// replica is a process of the provider. It is restarted after its end, as by a kubelet.
type replica struct {
	name       string
	grpc, http string
	// expander is the address of its expander; empty without one.
	expander  string
	arguments []string
	dir       string
	mutex     sync.Mutex
	process   *process
	stopping  bool
	// restarts without a cause in the test.
	restarts int
	wanted   bool
}

func (p *provider) add(t testing.TB, dir string, arguments ...string) {
	t.Helper()
	r := &replica{
		name: fmt.Sprintf("provider-%d", len(p.replicas)+1), dir: dir,
		grpc: fmt.Sprintf("127.0.0.1:%d", port(t)), http: fmt.Sprintf("127.0.0.1:%d", port(t)),
		expander: fmt.Sprintf("127.0.0.1:%d", port(t)),
	}
	r.arguments = append([]string{
		"serve", "--grpc-listen=" + r.grpc, "--http-listen=" + r.http, "--expander-listen=" + r.expander,
	}, arguments...)
	if err := r.launch(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		r.mutex.Lock()
		r.stopping = true
		process := r.process
		r.mutex.Unlock()
		process.stop()
		if t.Failed() {
			t.Logf("--- output of %s:\n%s", r.name, tail(process.log, 4000))
		}
	})
	await(t, r.name+" is alive", 20*time.Second, func() error {
		if err := r.current().ended(); err != nil {
			return fatal{err}
		}
		return r.get("/healthz")
	})
	p.replicas = append(p.replicas, r)
}

// launch starts it, and restarts it after each end.
func (r *replica) launch() error {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	process, err := launch(r.dir, r.name, os.Getenv("E2E_VPSIE_AUTOSCALER"), r.arguments...)
	if err != nil {
		return err
	}
	r.process, r.wanted = process, false
	go func() {
		<-process.done
		r.mutex.Lock()
		stopping := r.stopping
		if !stopping && !r.wanted {
			r.restarts++
		}
		r.mutex.Unlock()
		if !stopping {
			time.Sleep(500 * time.Millisecond)
			_ = r.launch()
		}
	}()
	return nil
}

func (r *replica) current() *process {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	return r.process
}

// end ends the process; a new one replaces it.
func (r *replica) end(signal syscall.Signal) {
	r.mutex.Lock()
	r.wanted = true
	process := r.process
	r.mutex.Unlock()
	process.signal(signal)
	<-process.done
}

// countSurprises returns the number of ends without a cause in the test.
func (r *replica) countSurprises() int {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	return r.restarts
}

// pid returns the process id, which changes with a restart.
func (r *replica) pid() int { return r.current().command.Process.Pid }

var probe = http.Client{Timeout: 500 * time.Millisecond}

func (r *replica) get(path string) error {
	response, err := probe.Get("http://" + r.http + path)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s %s", r.name, path, response.Status)
	}
	return nil
}

// leader returns the replica that is ready.
func (p *provider) leader() (*replica, error) {
	var all error
	for _, r := range p.replicas {
		err := r.get("/readyz")
		if err == nil {
			return r, nil
		}
		all = errors.Join(all, err)
	}
	return nil, all
}

// kill sends SIGKILL to all replicas at once.
func (p *provider) kill() {
	for _, r := range p.replicas {
		r.end(syscall.SIGKILL)
	}
}

// awaitLeader waits for a leader.
func (p *provider) awaitLeader(t testing.TB) *replica {
	t.Helper()
	var leader *replica
	await(t, "a replica leads", time.Minute, func() (err error) {
		leader, err = p.leader()
		return err
	})
	return leader
}

// killLeader sends SIGKILL to the leader and returns the time.
func (p *provider) killLeader(t testing.TB) time.Time {
	t.Helper()
	leader := p.awaitLeader(t)
	at := time.Now()
	leader.end(syscall.SIGKILL)
	return at
}

// checkLogs checks that no replica ended by itself, and that its logs have neither panics nor forbidden
// requests.
func (p *provider) checkLogs(t testing.TB) {
	t.Helper()
	for _, r := range p.replicas {
		if n := r.countSurprises(); n > 0 && !p.mayEnd {
			t.Errorf("%s ended by itself %d times", r.name, n)
		}
		for _, line := range strings.Split(tail(r.current().log, 1<<24), "\n") {
			if strings.Contains(line, "panicked at") || !p.mayEnd && forbidden.MatchString(durations.ReplaceAllString(line, "")) {
				t.Errorf("log of %s: %s", r.name, line)
			}
		}
	}
}

var (
	forbidden = regexp.MustCompile(`(?i)\b403\b|forbidden`)
	// durations are times in debug logs.
	durations = regexp.MustCompile(`\b(micros|millis)=[0-9]+`)
)

func (p *provider) pools(t testing.TB) (map[string]pool, error) {
	t.Helper()
	leader, err := p.leader()
	if err != nil {
		return nil, err
	}
	return pools(t, leader.grpc)
}

// startProvider starts two replicas with records in Kubernetes.
func startProvider(t testing.TB, cluster *controlPlane, election ...string) *provider {
	t.Helper()
	p := &provider{}
	arguments := append([]string{
		"--store=kubernetes", "--namespace=" + namespace, "--kubeconfig=" + cluster.kubeconfigOf("provider"),
		"--vpsie-secret-name=" + secret, "--vpsie-rate-limit=6000", "--observe-interval=1s",
	}, election...)
	for range 2 {
		p.add(t, cluster.dir, arguments...)
	}
	return p
}

// startLocalProvider starts one replica with records and NodeGroups in files.
func startLocalProvider(t testing.TB, cluster *controlPlane, vpsie *simulator, nodeGroups ...object) *provider {
	t.Helper()
	folder := filepath.Join(cluster.dir, "nodegroups")
	if err := os.Mkdir(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	for n, group := range nodeGroups {
		content, err := json.Marshal(group)
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(folder, fmt.Sprintf("%d.yaml", n)), content)
	}
	p := &provider{}
	p.add(t, cluster.dir, "--node-groups="+folder, "--data-file="+filepath.Join(cluster.dir, "records.redb"),
		"--kubeconfig="+cluster.kubeconfigOf("provider"), "--vpsie-api-url="+vpsie.url+"/apps/v2", "--vpsie-api-token=simulated-token",
		"--vpsie-rate-limit=6000", "--observe-interval=1s")
	return p
}

// patient has the election times of production.
var patient = []string{}

// impatient has short election times. Elections of production take up to 17 seconds.
var impatient = []string{
	"--leader-election-lease-duration=4s", "--leader-election-renew-deadline=3s", "--leader-election-retry-period=1s",
}

// nodeGroup returns a NodeGroup with offers in order of preference.
func nodeGroup(name string, most int, offers ...string) object {
	return nodeGroupIn("ams1", name, most, offers...)
}

func nodeGroupIn(datacenter, name string, most int, offers ...string) object {
	return object{
		"apiVersion": "autoscaler.vpsie.com/v1alpha1", "kind": "NodeGroup", "metadata": object{"name": name},
		"spec": object{
			"minNodes": 0, "maxNodes": most, "datacenterID": datacenter,
			"resourceIdentifier": "5a1c94be-6f3d-11ef-9b52-bc24115e1e5f", "offeringIDs": offers,
		},
	}
}
