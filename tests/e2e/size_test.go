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

// TestSize lets the installed chart grow to as many nodes as E2E_NODES says, and tells how much memory the programs
// take while Cluster Autoscaler goes on asking.
func TestSize(t *testing.T) {
	nodes, err := strconv.Atoi(os.Getenv("E2E_NODES"))
	if err != nil {
		t.Skip("E2E_NODES does not say how many")
	}
	installed(t, func(t *testing.T, d driver) { grown(t, d, nodes) })
}

func grown(t *testing.T, d driver, nodes int) {
	w := chartedWorld(t, d, nodes, small)
	w.began = time.Now()
	w.deploy("web", int32(nodes), "1200m", "500Mi") // One on a node.
	runs := w.install()
	await(t, "all pods run", 10*time.Minute, runs(nodes))
	w.note("%d pods on %d nodes after %.0f s", nodes, len(w.uuids()), time.Since(w.began).Seconds())
	failures := w.failures()
	time.Sleep(time.Minute) // What is measured is the memory after a minute of loops over all of it.
	for name, running := range w.kubelet.all() {
		now, most := memory(t, running.process)
		w.note("%s: %d MB resident, %d at most", name, now, most)
	}
	if after := w.failures(); after != failures {
		t.Errorf("loops and growths of Cluster Autoscaler that failed: %v, and a minute later %v", failures, after)
	}
	summary.Lock()
	defer summary.Unlock()
	summary.lines = append(summary.lines, fmt.Sprintf("%-26s size; %s", d.name, strings.Join(w.notes, ", ")))
}

// memory is what a process has in memory, and the most that it had, in MB.
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
