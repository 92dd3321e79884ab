// Package e2e tests the provider with real processes: see docs/develop/e2e.md. `tests/e2e/run` starts it.
package e2e

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

var summary = struct {
	sync.Mutex
	lines []string
	// used has the rights and the requests of accounts.
	used []used
}{}

// done adds the costs of a scenario to the summary.
func (w *world) done(d driver, scenario string) {
	w.t.Helper()
	if w.t.Failed() {
		return
	}
	runs, rpcs := loops(w.proxy.allExchanges()), 0
	for _, run := range runs {
		rpcs += len(run)
	}
	// Only calls that change something count: the number of reads does not depend on the number of nodes.
	looks, changes := 0, 0
	if seen, err := w.vpsie.overview(); err == nil {
		for call, n := range seen.Calls {
			if strings.HasPrefix(call, "GET ") {
				looks += n
			} else {
				changes += n
			}
		}
	}
	looks -= int(w.vpsie.looks.Load())
	made := w.countCreated()
	line := fmt.Sprintf("%-26s %-19s %4.0f s  %5.1f RPCs a loop (%3d loops)  %4.1f API calls a node (%2d for %d nodes, and %d GETs)",
		d.name, scenario, time.Since(w.began).Seconds(), float64(rpcs)/float64(max(len(runs), 1)), len(runs),
		float64(changes)/float64(max(made, 1)), changes, made, looks)
	if len(w.notes) > 0 {
		line += "; " + strings.Join(w.notes, ", ")
	}
	summary.Lock()
	defer summary.Unlock()
	summary.lines = append(summary.lines, line)
}

func TestMain(m *testing.M) {
	code := m.Run()
	fmt.Println("\nscenario, seconds, RPCs per loop of Cluster Autoscaler, calls of VPSie's API per node")
	for _, line := range summary.lines {
		fmt.Println(line)
	}
	lines, problems := checkMinimal(summary.used, rare)
	for _, line := range lines {
		fmt.Println(line)
	}
	for _, problem := range problems {
		fmt.Println(problem)
	}
	if len(problems) > 0 && complete(code) {
		fmt.Println("FAIL: rights are not minimal")
		code = 1
	}
	os.Exit(code)
}
