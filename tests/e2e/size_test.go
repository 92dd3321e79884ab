package e2e

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestSize scales the installed chart to E2E_NODES nodes, and reports the memory of the programs while
// Cluster Autoscaler runs its loop.
func TestSize(t *testing.T) {
	nodes, err := strconv.Atoi(os.Getenv("E2E_NODES"))
	if err != nil {
		t.Skip("E2E_NODES is not set")
	}
	installed(t, func(t *testing.T, d driver) { grown(t, d, nodes) })
}

func grown(t *testing.T, d driver, nodes int) {
	w := chartedWorld(t, d, nodes, small)
	w.began = time.Now()
	w.deploy("web", int32(nodes), "1200m", "500Mi") // One pod per node.
	runs := w.install()
	await(t, "all pods run", 10*time.Minute, runs(nodes))
	w.note("%d pods on %d nodes after %.0f s", nodes, len(w.uuids()), time.Since(w.began).Seconds())
	failures := w.failures()
	time.Sleep(time.Minute) // Measures the memory after a minute of loops over all nodes.
	for name, running := range w.kubelet.runningPods() {
		now, most := memory(t, running.process)
		w.note("%s: %d MB resident, %d at most", name, now, most)
	}
	if after := w.failures(); after != failures {
		t.Errorf("failed loops and scale-ups of Cluster Autoscaler: %v, and a minute later %v", failures, after)
	}
	summary.Lock()
	defer summary.Unlock()
	summary.lines = append(summary.lines, fmt.Sprintf("%-26s size; %s", d.name, strings.Join(w.notes, ", ")))
}

// memory returns the resident memory of a process and its maximum, MB.
func memory(t *testing.T, p *process) (now, most int) {
	t.Helper()
	file, err := os.Open(fmt.Sprintf("/proc/%d/status", p.command.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) < 2 {
			continue
		}
		kibibytes, _ := strconv.Atoi(fields[1])
		switch fields[0] {
		case "VmRSS:":
			now = kibibytes * 1024 / 1e6
		case "VmHWM:":
			most = kibibytes * 1024 / 1e6
		}
	}
	return now, most
}
